"""A run that was killed or interrupted and started again is the undisturbed run: the same losses, the same keys."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_run
import warm
from real_clips import make_real_output
from small_run import SECONDS, config, run

from trainer.errors import TrainError
from trainer.run import checkpoints
from trainer.run import folder as runs

STEPS = 12
SECTIONS = {"stage": {"steps": STEPS}, "checkpoint": {"every": 4, "keep": 2}}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return make_real_output(tmp_path_factory.mktemp("shards"), SECONDS)


@pytest.fixture(scope="module")
def undisturbed(out, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run(out, folder, **SECTIONS)
    assert [entry["step"] for entry in log(folder)] == list(range(STEPS))
    return log(folder)


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def assert_same(found: list[dict], expected: list[dict]) -> None:
    assert [(entry["step"], entry["keys"]) for entry in found] == [(entry["step"], entry["keys"]) for entry in expected]
    assert [entry["loss"] for entry in found] == pytest.approx([entry["loss"] for entry in expected], abs=1e-6)


def start(out: str, folder: Path, workers: int) -> warm.Program:
    """The program, which trains with so many workers; its last checkpoint is far from its end."""
    settings = config(**SECTIONS, data=config().data.model_dump() | {"workers": workers})
    path = os.pathsep.join([*sys.path, str(Path(__file__).parents[2])])
    command = [sys.executable, small_run.__file__, out, str(folder), settings.model_dump_json()]
    return warm.Program(command, "heavy", env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE)


def wait_for_steps(process: warm.Program, folder: Path, steps: int) -> None:
    deadline = time.monotonic() + 60
    path = folder / "steps.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < steps:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(("workers", "then"), [(0, 2), (2, 0)])
def test_a_run_killed_at_a_random_step_goes_on_as_if_nothing_had_been(out, undisturbed, tmp_path, workers, then):
    steps = random.randint(1, STEPS - 2)
    process = start(out, tmp_path, workers)
    wait_for_steps(process, tmp_path, steps)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, f"killed after {steps} steps"
    run(out, tmp_path, **SECTIONS, data=config().data.model_dump() | {"workers": then})
    assert_same(log(tmp_path), undisturbed)


def test_sigterm_ends_after_a_step_with_a_checkpoint(out, undisturbed, tmp_path):
    process = start(out, tmp_path, workers=2)
    wait_for_steps(process, tmp_path, 2)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in said
    done = checkpoints.latest(tmp_path, pytest.fail).state.step
    assert f"interrupted after {done} of {STEPS} steps" in said
    assert len(log(tmp_path)) == done < STEPS
    run(out, tmp_path, **SECTIONS)
    assert_same(log(tmp_path), undisturbed)


def test_a_torn_checkpoint_and_a_torn_line_cost_only_steps(out, undisturbed, tmp_path):
    run(out, tmp_path, **SECTIONS)
    (tmp_path / "checkpoints" / "step-00000012" / "optimiser.safetensors").write_bytes(b"")
    with (tmp_path / "steps.jsonl").open("a") as file:
        file.write('{"step": 12, "lo')
    assert run(out, tmp_path, **SECTIONS).steps == STEPS
    assert_same(log(tmp_path), undisturbed)


def test_two_processes_do_not_train_one_run(out, tmp_path):
    process = start(out, tmp_path, workers=0)
    wait_for_steps(process, tmp_path, 1)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(TrainError, match="another process"):
        run(out, tmp_path)
    process.kill()
    process.communicate()


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "steps.jsonl"
    lines = [json.dumps({"step": step, "loss": 1.0, "keys": ["a"]}) + "\n" for step in range(5)]
    path.write_text("".join(lines) + '{"step": 5')
    for start_, expected in ((5, lines), (3, lines[:3]), (3, lines[:3]), (0, [])):
        runs.open_steps(tmp_path, start_).close()
        assert path.read_text() == "".join(expected)
