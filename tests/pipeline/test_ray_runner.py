"""The same jobs on a real Ray: equal bytes whatever the workers, and what a death inside the cluster costs."""

import contextlib
import os
import signal

import psutil
import pytest
from jobs import STUBS, contents, helpers, make_config, make_manifest, outcomes, start, traces, wait_for
from stub_stages import STUB_SECONDS, TRACES

from pipeline.config import STAGE_ORDER
from pipeline.job import run_job
from pipeline.shards import committed

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


def run(manifest, out, engine, **settings):
    return run_job(make_config(**settings), input=manifest, output=str(out), engine=engine, stage_factory=STUBS)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_bytes_of_the_serial_runner(manifest, serial, tmp_path, workers, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # of a cluster that is none of ours
    result = run(manifest, tmp_path / "out", "ray", workers=workers)
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


def test_models_are_closed_when_a_job_is_done_and_leave_no_process_behind(manifest, tmp_path, monkeypatch):
    folder = tmp_path / "traces"
    folder.mkdir()
    monkeypatch.setenv(TRACES, str(folder))
    assert run(make_manifest(tmp_path / "clips", ["a dog"] * 8), tmp_path / "out", "ray").exit_code == 0
    assert not helpers(folder)
    assert {trace["stage"] for trace in traces(folder) if trace.get("closed")} == set(STAGE_ORDER)


def test_a_killed_driver_leaves_no_process_behind(tmp_path, monkeypatch):
    folder = tmp_path / "traces"
    folder.mkdir()
    monkeypatch.setenv(TRACES, str(folder))
    monkeypatch.setenv(STUB_SECONDS, "0.5")
    process = start(make_manifest(tmp_path / "clips", ["a dog"] * 40), tmp_path / "out", "ray")
    wait_for(lambda: helpers(folder))
    process.kill()
    process.communicate()
    wait_for(lambda: not helpers(folder), 30)


def test_pools_that_the_machine_cannot_hold_are_refused_with_the_numbers(manifest, tmp_path):
    result = run(manifest, tmp_path / "out", "ray", workers=1000)
    assert result.exit_code == 2
    assert "of 1000 such workers" in result.message
    assert not committed(str(tmp_path / "out"))


def models_at_work(driver):
    """Actors of a job and the child process of each, where it has one: between two children it has none for a moment."""
    found = {}
    for process in driver.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            children = [child for child in process.children() if "pipeline.child" in child.cmdline()]
            if children and any("ray::" in part for part in process.cmdline()):
                found[process] = children[0]
    return found


def at_least_two(found):
    return list(found.items()) if len(found) >= 2 else None


def test_killed_workers_cost_nothing_and_an_interrupt_leaves_nothing_behind(manifest, serial, tmp_path, monkeypatch):
    monkeypatch.setenv(STUB_SECONDS, "0.6")  # much is left to do when the first commit is there, even on a slow disk
    process = start(manifest, tmp_path / "out", "ray", workers=2)
    driver = psutil.Process(process.pid)
    wait_for(lambda: committed(str(tmp_path / "out")))
    (_, model), *_, (actor, _) = wait_for(lambda: at_least_two(models_at_work(driver)))
    actor.kill()
    model.kill()
    wait_for(lambda: len(committed(str(tmp_path / "out"))) > 1)
    family = driver.children(recursive=True)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert not psutil.wait_procs(family, timeout=10)[1]
    monkeypatch.setenv(STUB_SECONDS, "0")
    assert run(manifest, tmp_path / "out", "ray").exit_code == 0
    assert contents(tmp_path / "out") == contents(serial)
