"""A job on the serial runner: what comes out, going on, refusing, stopping. test_ray_runner.py repeats it on Ray."""

import functools
import getpass
import json
import os
import signal
import socket
import subprocess
from concurrent.futures import Future
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from jobs import STUBS, contents, helpers, make_config, make_manifest, outcomes, start, wait_for
from stub_stages import BROKEN, DOWN, HOLDS, STUB_SECONDS, TRACES

from materia import open_dataset
from materia.dataset.layout import committed
from pipeline.engine.serial import SerialRunner
from pipeline.engine.spool import ChunkLost
from pipeline.job import run_job
from pipeline.preflight import only_writer
from stages import versions
from stages.specs import STAGE_ORDER

DOGS = ["a dog"] * 10 + ["a dog [nothing]"] + ["a dog"] * 9


@pytest.fixture
def manifest(tmp_path):
    return make_manifest(tmp_path / "clips", DOGS)


def run(manifest, out, engine="serial", limit=None, **settings):
    config = make_config(**settings)
    return run_job(config, input=manifest, output=str(out), engine=engine, limit=limit, stage_factory=STUBS)


@pytest.fixture
def run_here():
    """The same without a child, which takes a second to start, for what is not about children."""
    return functools.partial(run, engine="inline")


def test_every_row_becomes_a_sample_or_a_rejection(manifest, tmp_path):
    result = run(manifest, tmp_path / "out")
    assert (result.exit_code, result.rows, result.samples, result.rejections) == (0, 20, 19, 1)
    assert outcomes(tmp_path / "out") == {row: "no_subject" if row == 10 else "sample" for row in range(20)}


def test_a_row_whose_video_is_missing_never_reaches_a_worker(tmp_path):
    manifest = make_manifest(tmp_path / "clips", ["a dog"])
    (tmp_path / "clips/clip.mp4").unlink()
    run(manifest, tmp_path / "out", entities={"options": {"stub": "broken"}})
    assert outcomes(tmp_path / "out") == {0: "not_found"}


@pytest.mark.parametrize(("kept", "words"), [(0, "not one row was kept"), (1, "few rows were kept"), (9, "")])
def test_a_job_that_keeps_little_says_why(run_here, tmp_path, kept, words):
    captions = ["a dog"] * kept + ["a dog [nothing]"] * (19 - kept) + ["[raise]"]
    result = run_here(make_manifest(tmp_path / "clips", captions), tmp_path / "out")
    assert (result.exit_code, result.samples) == (0, kept)
    warning = result.message.partition("\nwarning: ")[2]
    assert warning.startswith(words) and bool(warning) == bool(words)
    if words:
        assert f"{19 - kept} of {20 - kept} rejections: no_subject in entities, e.g. " in warning


def test_each_slice_leaves_a_line_of_timings_and_no_rows(run_here, manifest, tmp_path):
    run_here(manifest, tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out/_run/timings.jsonl").read_text().splitlines()]
    assert [(line["chunk"], line["slice"], line["rows"], line["kept"]) for line in lines] == [
        (0, 0, 4, 4), (0, 1, 4, 4), (1, 2, 4, 3), (1, 3, 4, 4), (2, 4, 4, 4)
    ]  # fmt: skip
    assert set(lines[0]["seconds"]) >= {"entities", "frames", "background"}
    assert {path.name for path in (tmp_path / "out/_run").iterdir()} == {
        "events.jsonl", "libraries.json", "lease", "plan", "timings.jsonl", "workers.jsonl", "workers.log"
    }  # fmt: skip


def test_a_finished_job_started_again_computes_nothing(run_here, manifest, tmp_path, monkeypatch):
    run_here(manifest, tmp_path / "out")
    before = contents(tmp_path / "out")
    monkeypatch.setenv(BROKEN, "1")
    assert run(manifest, tmp_path / "out").exit_code == 0
    assert contents(tmp_path / "out") == before


def test_the_first_rows_are_a_job_of_their_own(run_here, manifest, tmp_path):
    for _ in range(2):
        assert run_here(manifest, tmp_path / "few", limit=11).rows == 11
    lines = Path(manifest).read_text().splitlines(keepends=True)
    (short := Path(manifest).with_name("short.jsonl")).write_text("".join(lines[:11]))
    run_here(str(short), tmp_path / "short")
    assert contents(tmp_path / "few") == contents(tmp_path / "short")
    for limit, planned in ((None, "with --limit 11"), (12, "with --limit 11")):
        result = run_here(manifest, tmp_path / "few", limit=limit)
        assert result.exit_code == 4 and planned in result.message
    run_here(manifest, tmp_path / "all")
    assert "without --limit" in run_here(manifest, tmp_path / "all", limit=11).message
    assert run_here(manifest, tmp_path / "more", limit=99).rows == 20


def test_a_chunk_whose_slices_were_lost_is_run_again(run_here, manifest, tmp_path, monkeypatch, capsys):
    run_here(manifest, tmp_path / "undisturbed")
    monkeypatch.setattr("pipeline.job.SerialRunner", Losing)
    assert run_here(manifest, tmp_path / "out").samples == 19
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
    lines = [json.loads(line) for line in (tmp_path / "out/_run/timings.jsonl").read_text().splitlines()]
    assert sorted(line["slice"] for line in lines) == [0, 1, 2, 2, 3, 3, 4, 4]


class Losing(SerialRunner):
    """Loses the slices of the last two chunks once, as when a node goes."""

    def __init__(self, *settings, **more):
        super().__init__(*settings, **more)
        self.loses = {1, 2}

    def commit(self, chunk):
        if chunk not in self.loses:
            return super().commit(chunk)
        self.loses.remove(chunk)
        lost = Future()
        lost.set_exception(ChunkLost(chunk))
        return lost


def test_an_empty_manifest_is_done_at_once(run_here, tmp_path):
    result = run_here(make_manifest(tmp_path / "clips", []), tmp_path / "out")
    assert (result.exit_code, result.rows) == (0, 0)


def test_another_configuration_is_refused_with_what_differs(run_here, manifest, tmp_path):
    run_here(manifest, tmp_path / "out")
    result = run_here(manifest, tmp_path / "out", entities={"max_words": 7}, rows_per_slice=8)
    assert result.exit_code == 4
    assert "entities.max_words: 12 -> 7" in result.message
    assert "engine.rows_per_slice: 4 -> 8" in result.message
    assert "stage_sha.entities" in result.message
    assert "stage_sha.frames" not in result.message


def test_more_workers_are_no_other_configuration(run_here, manifest, tmp_path):
    run_here(manifest, tmp_path / "out")
    assert run_here(manifest, tmp_path / "out", workers=2, min_deadline_s=9).exit_code == 0


def test_a_manifest_that_changed_since_it_was_planned_is_refused(run_here, manifest, tmp_path):
    run_here(manifest, tmp_path / "out")
    with Path(manifest).open("a") as file:
        file.write('{"video": "clip.mp4", "caption": "one more"}\n')
    result = run_here(manifest, tmp_path / "out")
    assert result.exit_code == 4
    assert "not as it was" in result.message


def test_a_manifest_that_was_written_again_with_the_same_rows_is_the_same(run_here, manifest, tmp_path):
    run_here(manifest, tmp_path / "out")
    os.utime(manifest, (1, 1))
    assert run_here(manifest, tmp_path / "out").exit_code == 0


def test_a_refused_manifest_leaves_the_output_as_it_was(run_here, manifest, tmp_path):
    run_here(manifest, tmp_path / "out")
    before = Path(manifest).read_text()
    Path(manifest).write_text(before + '{"video": "clip.mp4", "caption": "one more"}\n')
    assert run_here(manifest, tmp_path / "out").exit_code == 4
    Path(manifest).write_text(before)
    assert run_here(manifest, tmp_path / "out").exit_code == 0


def test_a_folder_of_somebody_else_is_left_alone(run_here, manifest, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("years of work")
    result = run_here(manifest, tmp_path / "out")
    assert result.exit_code == 2
    assert "thesis.tex" in result.message


def test_missing_weights_are_named_with_their_fix_before_anything_runs(run_here, manifest, tmp_path):
    result = run_here(manifest, tmp_path / "out", entities={"options": {"stub": "missing"}})
    assert result.exit_code == 2
    assert "entities: weights of the stub" in result.message
    assert "make weights" in result.message
    assert not (tmp_path / "out/dataset.json").exists()


def test_a_worker_that_cannot_start_ends_the_job_with_its_words(manifest, tmp_path):
    result = run(manifest, tmp_path / "out", entities={"options": {"stub": "broken"}})
    assert result.exit_code == 1
    assert "weights are damaged" in result.message


@pytest.mark.parametrize("library", ["pyav", "x264", "opencv", "pillow"])
def test_another_version_of_what_decodes_or_encodes_is_refused_by_name(run_here, manifest, tmp_path, monkeypatch, library):
    assert run_here(manifest, tmp_path / "out").exit_code == 0
    monkeypatch.setitem(versions._VERSIONS, library, lambda: "99.1")
    result = run_here(manifest, tmp_path / "out")
    assert result.exit_code == 4
    assert f"library.{library}: " in result.message and "-> '99.1'" in result.message
    assert open_dataset(str(tmp_path / "out"))[0].document.caption  # it is read as before


def test_two_jobs_never_write_one_output(run_here, manifest, tmp_path):
    with only_writer(str(tmp_path / "out")):
        result = run_here(manifest, tmp_path / "out")
    assert result.exit_code == 2
    assert f"another job: {getpass.getuser()}, process {os.getpid()} on {socket.gethostname()}, since 20" in result.message
    assert run_here(manifest, tmp_path / "out").exit_code == 0


def test_when_everything_fails_the_job_stops_and_goes_on_once_the_cause_is_gone(tmp_path, monkeypatch):
    manifest = make_manifest(tmp_path / "clips", ["a dog"] * 12)
    monkeypatch.setattr("pipeline.drive._SYSTEMATIC_ROWS", 8)
    monkeypatch.setenv(BROKEN, "1")
    result = run(manifest, tmp_path / "out")
    assert result.exit_code == 5
    assert "8 of the last 8 rows ended as worker_crash" in result.message
    assert "SIGSEGV" in result.message
    monkeypatch.delenv(BROKEN)
    assert run(manifest, tmp_path / "out").exit_code == 0
    assert set(outcomes(tmp_path / "out").values()) == {"sample"}


def test_few_failures_at_the_end_are_committed_as_rejections(tmp_path):
    manifest = make_manifest(tmp_path / "clips", ["a dog"] * 8 + ["a dog [kill]"])
    assert run(manifest, tmp_path / "out").exit_code == 0
    assert outcomes(tmp_path / "out")[8] == "worker_crash"


@pytest.mark.parametrize("number, exit_code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_job_ends_its_children_and_can_go_on(manifest, tmp_path, monkeypatch, number, exit_code):
    monkeypatch.setenv(STUB_SECONDS, "0.2")
    process = start(manifest, tmp_path / "out", "serial")
    wait_for(lambda: committed(str(tmp_path / "out")))
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, said = process.communicate(timeout=100)
    assert process.returncode == exit_code
    assert "the same command continues" in said
    assert children and not psutil.wait_procs(children, timeout=100)[1]
    monkeypatch.setenv(STUB_SECONDS, "0")
    assert run(manifest, tmp_path / "out").exit_code == 0


def test_a_full_card_is_told_once_counted_and_logged_and_changes_no_byte(run_here, manifest, tmp_path, monkeypatch, capsys):
    run_here(manifest, tmp_path / "plenty", rows_per_batch=4)
    monkeypatch.setenv(HOLDS, "1")
    capsys.readouterr()
    assert run_here(manifest, tmp_path / "full", rows_per_batch=4).exit_code == 0
    said = capsys.readouterr().err
    notice = "localise.options.batch_size: 4 items do not fit the device's memory; going on with 2"
    assert said.count(f"notice: {notice}") == 1
    assert f"notice: {notice}" in (tmp_path / "full/_run/workers.log").read_text()
    assert contents(tmp_path / "full") == contents(tmp_path / "plenty")


def test_a_clip_that_fits_no_card_is_rejected_with_the_setting(run_here, manifest, tmp_path, monkeypatch):
    manifest = make_manifest(tmp_path / "clips", ["a dog"])
    monkeypatch.setenv(HOLDS, "0")
    run_here(manifest, tmp_path / "out", rows_per_batch=4)
    assert outcomes(tmp_path / "out") == {0: "internal_error"}
    (message,) = pq.read_table(tmp_path / "out/rejects/000000.parquet")["message"].to_pylist()
    assert "localise.options.batch_size: out of memory on the device with a single item" in message


def test_workers_in_trouble_are_counted_by_cause_at_the_end_and_on_record(manifest, tmp_path):
    manifest = make_manifest(tmp_path / "clips", ["a dog"] * 3 + ["a dog [memory]", "a dog [exit]"])
    result = run(manifest, tmp_path / "out", min_deadline_s=60)
    events = tmp_path / "out/_run/events.jsonl"
    assert f"workers in trouble: 2 out of memory, 2 ended by a clip; see {events}" in result.message
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert [(line["event"], line["cause"], line["slice"], line["rows"]) for line in lines] == [
        ("trouble", "out_of_memory", 0, [3]), ("trouble", "out_of_memory", 0, [3]),
        ("trouble", "clip", 1, [4]), ("trouble", "clip", 1, [4]),
    ]  # fmt: skip


OUTAGE = ["a dog"] * 5 + ["a cat"] * 3


def test_a_trial_that_meets_a_server_that_is_down_stops_and_the_same_command_goes_on(run_here, tmp_path, monkeypatch):
    manifest = make_manifest(tmp_path / "clips", OUTAGE)
    (tmp_path / "down").touch()
    monkeypatch.setenv(DOWN, str(tmp_path / "down"))
    result = run_here(manifest, tmp_path / "out")
    assert result.exit_code == 5
    assert "ended as transient_exhausted" in result.message and "the server is down" in result.message
    assert committed(str(tmp_path / "out")) == set() and outcomes(tmp_path / "out") == {}
    (tmp_path / "down").unlink()
    assert run_here(manifest, tmp_path / "out").exit_code == 0
    run_here(manifest, tmp_path / "undisturbed")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_a_server_that_comes_back_while_the_job_runs_costs_no_row(run_here, tmp_path, monkeypatch):
    manifest = make_manifest(tmp_path / "clips", [*["a dog"] * 4, *["a dog [server returns]"] * 4, *["a cat"] * 8])
    (tmp_path / "down").touch()
    monkeypatch.setenv(DOWN, str(tmp_path / "down"))
    assert run_here(manifest, tmp_path / "out").exit_code == 0
    assert set(outcomes(tmp_path / "out").values()) == {"sample"}


def test_rows_that_fail_while_the_server_works_for_others_are_rejected(run_here, tmp_path):
    result = run_here(make_manifest(tmp_path / "clips", ["a dog"] * 4 + ["a dog [down]"] * 4), tmp_path / "out")
    assert result.exit_code == 0
    assert outcomes(tmp_path / "out") == {row: "sample" if row < 4 else "transient_exhausted" for row in range(8)}


def test_each_worker_is_on_record_with_its_models_and_packages(manifest, tmp_path):
    run(manifest, tmp_path / "out")
    workers = [json.loads(line) for line in (tmp_path / "out/_run/workers.jsonl").read_text().splitlines()]
    assert [worker["stages"] for worker in workers] == [["entities"], list(STAGE_ORDER[1:])]
    assert workers[1]["models"]["segment"] == "grabcut on cpu"
    assert workers[1]["packages"]["numpy"]


@pytest.mark.parametrize("engine", ["serial", "inline"])
def test_a_surprise_leaves_its_traceback_in_the_log(tmp_path, capsys, engine):
    manifest = make_manifest(tmp_path / "clips", ["a dog"] * 3 + ["a dog [raise]"] * 2 + ["a dog"] * 3)
    out = str(tmp_path / "out")
    run_job(make_config(), input=manifest, output=out, engine=engine, stage_factory=STUBS)
    log = (tmp_path / "out/_run/workers.log").read_text()
    assert "row 3, frames: Traceback (most recent call last):" in log and log.count("KeyError: 'a surprise'") == 1
    assert "in misbehave" in log
    assert ("in misbehave" in capsys.readouterr().err) == (engine == "inline")


def test_inline_the_stages_run_here_and_the_bytes_are_the_same(manifest, tmp_path, capfd):
    run(manifest, tmp_path / "serial")
    assert "noise must not hurt" not in capfd.readouterr().out
    result = run_job(make_config(), input=manifest, output=str(tmp_path / "inline"), engine="inline", stage_factory=STUBS)
    assert (result.exit_code, result.samples) == (0, 19)
    assert "noise must not hurt" in capfd.readouterr().out
    assert contents(tmp_path / "inline") == contents(tmp_path / "serial")


def test_inline_a_debugger_stops_at_a_breakpoint_and_leaving_it_stops_the_job(tmp_path):
    manifest = make_manifest(tmp_path / "clips", ["a dog", "a dog [breakpoint]", "a dog"])
    debugging = start(manifest, tmp_path / "out", "inline", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    shown, said = debugging.communicate("p 'key is ' + key\nquit\n", timeout=60)
    assert "'key is c0001'" in shown
    assert debugging.returncode == 130 and said.splitlines()[-1] == "stopped by SIGINT; the same command continues"


def test_a_worker_passes_breakpoints_by_and_says_so(tmp_path, capsys):
    result = run(make_manifest(tmp_path / "clips", ["a dog", "a dog [breakpoint]"]), tmp_path / "out")
    assert result.samples == 2
    assert "notice: a breakpoint() was passed by; to stop there, run with --engine inline" in capsys.readouterr().err


def test_the_log_of_a_worker_that_cannot_start_is_kept(manifest, tmp_path):
    result = run(manifest, tmp_path / "out", entities={"options": {"stub": "broken"}})
    assert str(tmp_path / "out/_run/workers.log") in result.message
    words = (tmp_path / "out/_run/workers.log").read_text()
    assert "loading the stub" in words
    assert "Traceback" in words


@pytest.mark.parametrize("ending", ["regular", "timeout", "SIGKILL of the driver"])
def test_what_models_started_is_gone_when_a_job_has_ended(tmp_path, monkeypatch, ending):
    manifest = make_manifest(tmp_path / "clips", ["a dog [hang]" if ending == "timeout" else "a dog"] + ["a dog"] * 4)
    (tmp_path / "traces").mkdir()
    monkeypatch.setenv(TRACES, str(tmp_path / "traces"))
    monkeypatch.setenv(STUB_SECONDS, "0.2")
    process = start(manifest, tmp_path / "out", "serial", min_deadline_s=1)
    wait_for(lambda: helpers(tmp_path / "traces"))
    if ending == "SIGKILL of the driver":
        process.kill()
    process.communicate(timeout=100)
    wait_for(lambda: not helpers(tmp_path / "traces"))
