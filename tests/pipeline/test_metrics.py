"""A running job seen from outside: metrics, the dashboard's questions to them, events, and a trace."""

import itertools
import json
import threading
import time

import pytest
import requests
from click.testing import CliRunner
from heads import free_port
from jobs import STUBS, make_config, make_manifest, wait_for
from promql import DASHBOARD, QUERIES, evaluate, scrape
from stub_stages import GATES

from materia.base.errors import UserError
from materia.cli.main import main
from pipeline.job import Watched, run_job
from pipeline.metrics import METRICS

CAPTIONS = ["a dog"] * 3 + ["a dog [nothing]"] + ["a dog [segfault]"] + ["a dog"] * 8 + ["a dog [gate]"] + ["a dog"] * 3


def run_beside(manifest, out, config, **watched):
    """The job in a thread; a list of its result is returned with it."""
    results = []
    job = threading.Thread(
        target=lambda: results.append(
            run_job(config, input=manifest, output=str(out), engine="serial", watched=Watched(**watched), stage_factory=STUBS)
        )
    )
    job.start()
    return job, results


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Two scrapes of a running job, the seconds between them, its events, its trace and its result."""
    folder = tmp_path_factory.mktemp("watched")
    manifest = make_manifest(folder / "clips", CAPTIONS)
    gates = folder / "gates"
    gates.mkdir()
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(GATES, str(gates))
        job, results = run_beside(
            manifest, folder / "out", make_config(), metrics_port=port, events=str(folder / "events"), profile=2
        )
        scraped = []
        for wanted in (4, 12):

            def enough(wanted=wanted):
                try:
                    found = scrape(requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text)
                except requests.ConnectionError:
                    return None
                return found if found.get(("materia_rows_done", frozenset())) == wanted else None

            scraped.append((time.monotonic(), wait_for(enough)))
        here = wait_for(lambda: next(gates.glob("*.here"), None))
        here.rename(here.with_suffix(".open"))
        job.join(60)
    (before_s, before), (after_s, after) = scraped
    events = [json.loads(line) for line in (folder / "events").read_text().splitlines()]
    trace = json.loads((folder / "out/_run/profile.json").read_text())
    return before, after, after_s - before_s, events, trace, results[0]


def test_a_running_job_tells_prometheus_what_becomes_of_clips(watched):
    _, after, _, _, _, result = watched
    assert result.exit_code == 0
    clips = {dict(labels)["reason"]: value for (name, labels), value in after.items() if name == "materia_clips_total"}
    assert clips == {"": 10, "no_subject": 1, "worker_crash": 1}
    assert {name for name, _ in after} >= {
        f"materia_{name}{'_total' if metric.kind == 'counter' else '_count' if metric.kind == 'histogram' else ''}"
        for name, metric in METRICS.items()
    }
    assert after["materia_worker_troubles_total", frozenset({("cause", "clip")})] >= 1


@pytest.mark.parametrize("query", QUERIES)
def test_each_question_of_the_dashboard_is_answered_with_data(watched, query):
    before, after, seconds, _, _, _ = watched
    found = evaluate(query.replace("${prefix}", "materia").replace("$__rate_interval", "1m"), before, after, seconds)
    cards = "_cards" in query
    assert bool(found) != cards  # this job has none
    assert all(value >= 0 for value in found.values())


def test_the_dashboard_is_one_that_grafana_takes():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    named = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert named == {"datasource", "prefix"}
    asked = " ".join(QUERIES)
    assert all(f"_{name}" in asked for name in METRICS), "a metric that nobody looks at"


def test_events_are_lines_of_json_with_job_slice_and_node(watched):
    *_, events, _, result = watched
    assert [event["event"] for event in (events[0], events[-1])] == ["start", "end"]
    assert all(event["time"].endswith("+00:00") and event["job"].endswith("/out") for event in events)
    slices = [event for event in events if event["event"] == "slice"]
    assert sorted(event["slice"] for event in slices) == list(range(5)) and all(event["node"] for event in slices)
    assert [event["chunk"] for event in events if event["event"] == "commit"] == [0, 1, 2]
    assert events[-1]["exit_code"] == 0 and events[-1]["samples"] == result.samples
    assert any(event["event"] == "trouble" and event["cause"] == "clip" for event in events)


def test_a_trace_has_the_stages_of_the_first_slices_one_after_the_other_in_each_worker(watched):
    *_, trace, _ = watched
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert {span["args"]["slice"] for span in spans} == {0, 1} and {span["name"] for span in spans} >= {"entities", "cut"}
    for worker in {span["tid"] for span in spans}:
        own = [span for span in spans if span["tid"] == worker]
        assert all(one["ts"] + one["dur"] <= other["ts"] + 1000 for one, other in itertools.pairwise(own))


def test_a_port_that_is_taken_and_a_file_that_cannot_be_written_are_one_line(tmp_path):
    manifest = make_manifest(tmp_path / "clips", ["a dog"])
    port = free_port()
    import socket

    with socket.socket() as taken:
        taken.bind(("", port))
        taken.listen()
        with pytest.raises(UserError, match=f"--metrics-port {port}: Address already in use"):
            run_job(make_config(), input=manifest, output=str(tmp_path / "out"), watched=Watched(metrics_port=port))
    result = CliRunner().invoke(
        main, ["run", "--config", "local", "--input", manifest, "--output", str(tmp_path / "o"), "--events", str(tmp_path)]
    )
    assert result.exit_code == 2 and "--events" in result.output and "Is a directory" in result.output
