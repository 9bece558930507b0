"""The same jobs on a real Ray: equal bytes whatever the workers, and what a death inside the cluster costs."""

import contextlib
import os
import re
import signal
import sys
import threading
from collections import deque

import psutil
import pytest
from jobs import STUBS, contents, helpers, make_config, make_manifest, outcomes, start, traces, wait_for
from processes import lives
from stub_stages import GATES, STUB_SECONDS, TRACES

from materia.base.ray_session import start_ray
from materia.dataset.documents import Provenance
from materia.dataset.layout import committed
from pipeline.engine.messages import JobSpec
from pipeline.engine.ray_runner import RayRunner  # before Ray
from pipeline.job import run_job
from pipeline.plan import make_plan
from stages.specs import STAGE_ORDER

# isort: split
import ray

pytestmark = pytest.mark.ray

CAPTIONS = ["a dog"] * 5 + ["a dog [segfault]", "a dog [nothing]", "a dog [raise]", "a dog [hang]"] + ["a dog"] * 17


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return make_manifest(tmp_path_factory.mktemp("clips"), CAPTIONS)


@pytest.fixture(scope="module")
def serial(manifest, tmp_path_factory):
    """The undisturbed output of the serial runner."""
    out = tmp_path_factory.mktemp("serial") / "out"
    assert run(manifest, out, "serial").exit_code == 0
    return out


def run(manifest, out, engine, ray_address=None, **settings):
    return run_job(
        make_config(**settings), input=manifest, output=str(out), engine=engine, ray_address=ray_address, stage_factory=STUBS
    )


def test_a_job_gives_the_bytes_of_the_serial_runner(manifest, serial, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # of a cluster that is none of ours
    result = run(manifest, tmp_path / "out", "ray")
    assert (result.exit_code, result.samples, result.rejections) == (0, 22, 4), result.message
    assert contents(tmp_path / "out") == contents(serial)
    found = outcomes(tmp_path / "out")
    assert [found[row] for row in range(4, 10)] == [
        "sample",
        "worker_crash",
        "no_subject",
        "internal_error",
        "timeout",
        "sample",
    ]


def test_more_workers_on_an_existing_cluster_give_the_same_bytes_and_leave_nothing_on_it(
    manifest, serial, tmp_path, ray_address
):
    assert run(manifest, tmp_path / "out", "ray", ray_address, workers=2).exit_code == 0
    assert contents(tmp_path / "out") == contents(serial)
    start_ray(ray_address, 0)
    try:
        wait_for(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])
    finally:
        ray.shutdown()


def test_a_worker_told_to_leave_finishes_its_slice_or_gives_it_back_and_nobody_is_blamed(tmp_path, monkeypatch):
    """And when the job is done, all models were closed and no process is left."""
    folder, gates = tmp_path / "traces", tmp_path / "gates"
    for made in (folder, gates):
        made.mkdir()
    monkeypatch.setenv(TRACES, str(folder))
    monkeypatch.setenv(GATES, str(gates))
    manifest = make_manifest(tmp_path / "clips", ["a dog [gate]"] + ["a dog"] * 3 + ["a dog [gate]"] + ["a dog"] * 3)
    closed_in_time = []

    def preempt():
        """A worker that goes on after the signal, and one that does not."""
        for gate, finishes in ((gates / "c0000", True), (gates / "c0004", False)):
            model = psutil.Process(int(wait_for(lambda: at_gate(gate))))  # noqa: B023 (called at once)
            actor = model.parent().parent()
            actor.terminate()
            if finishes:
                gate.with_suffix(".open").touch()
            assert not psutil.wait_procs([actor, model], timeout=100)[1]
            closed_in_time.append(any(trace.get("closed") for trace in traces(folder)))
            gate.with_suffix(".open").touch()

    meanwhile = threading.Thread(target=preempt)
    meanwhile.start()
    result = run(manifest, tmp_path / "out", "ray", min_deadline_s=100, notice_s=5)
    meanwhile.join()
    assert (result.exit_code, result.samples) == (0, 8), result.message
    assert "workers in trouble: 2 preempted; see " in result.message
    assert closed_in_time[0]
    assert not helpers(folder)
    assert {trace["stage"] for trace in traces(folder) if trace.get("closed")} == set(STAGE_ORDER)


def at_gate(gate):
    """The process that waits there."""
    with contextlib.suppress(FileNotFoundError):
        return gate.with_suffix(".here").read_text()


def test_a_killed_driver_leaves_no_process_behind(tmp_path, monkeypatch):
    folder = tmp_path / "traces"
    folder.mkdir()
    monkeypatch.setenv(TRACES, str(folder))
    monkeypatch.setenv(STUB_SECONDS, "0.5")
    process = start(make_manifest(tmp_path / "clips", ["a dog"] * 40), tmp_path / "out", "ray")
    wait_for(lambda: helpers(folder))
    process.kill()
    process.communicate()
    wait_for(lambda: not helpers(folder))


def test_pools_that_the_machine_cannot_hold_are_refused_with_the_numbers(manifest, tmp_path):
    result = run(manifest, tmp_path / "out", "ray", workers=1000)
    assert result.exit_code == 2
    assert "of 1000 such workers" in result.message
    assert not committed(str(tmp_path / "out"))


def test_workers_that_do_not_see_the_output_end_the_job_with_the_cause(manifest, tmp_path, ray_address):
    config = make_config()
    plan = make_plan(manifest, str(tmp_path / "plan"), config.source, 8, 4)
    job = JobSpec(config.model_dump_json().encode(), str(tmp_path / "elsewhere"), Provenance("", {}), STUBS, sys.path)
    runner = RayRunner(job, plan, config.engine, ray_address, tell=lambda text: None)
    try:
        told = next(report for report in runner.reports(deque(range(2))) if report is not None)
        assert re.search(r"no plan in .*elsewhere.*; workers must see the output's folder", told.failure)
        assert told.exit_code == 2
    finally:
        runner.close()


def models_at_work(driver):
    """Actors of a job and the child process of each, where it has one: between two children it has none for a moment."""
    found = {}
    for process in driver.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            children = [child for child in process.children() if "pipeline.engine.child" in child.cmdline()]
            if children and any("ray::" in part for part in process.cmdline()):
                found[process] = children[0]
    return found


def at_least_two(found):
    return list(found.items()) if len(found) >= 2 else None


def test_killed_workers_cost_nothing_and_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch, ray_address):
    gates = tmp_path / "gates"
    gates.mkdir()
    slices, of_chunk = 8, 2
    manifest = make_manifest(tmp_path / "clips", ["a dog [gate]", "a dog [nothing]", "a dog [raise]", "a dog"] * slices)
    assert run(manifest, tmp_path / "serial", "serial").exit_code == 0

    monkeypatch.setenv(GATES, str(gates))
    process = start(manifest, tmp_path / "out", "ray", workers=2, min_deadline_s=100)
    driver = psutil.Process(process.pid)
    wait_for(lambda: len(list(gates.glob("*.here"))) == 2)
    (_, model), *_, (actor, orphan) = wait_for(lambda: at_least_two(models_at_work(driver)))
    actor.kill()
    model.kill()
    wait_for(lambda: not lives(model) and not lives(orphan))
    for here in gates.glob("*.here"):  # who still waits there says so again
        here.unlink(missing_ok=True)
    # Whichever slices these are, a chunk of them is whole, and three slices are not done.
    while len(list(gates.glob("*.open"))) <= slices // of_chunk:
        here = next(iter(wait_for(lambda: list(gates.glob("*.here")))))
        here.rename(here.with_suffix(".open"))
    wait_for(lambda: committed(str(tmp_path / "out")))
    family = driver.children(recursive=True)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130, said
    assert not psutil.wait_procs(family, timeout=100)[1]
    assert len(committed(str(tmp_path / "out"))) < slices // of_chunk

    monkeypatch.delenv(GATES)
    assert run(manifest, tmp_path / "out", "ray", ray_address).exit_code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "serial")
