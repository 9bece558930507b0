"""Training through Ray Train: what one process learns, whatever dies on the way; and errors in a line."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from reference import STEPS, logged_steps

from materia.base.settings_file import load_settings
from trainer.config import TrainConfig

pytestmark = pytest.mark.ray


@contextmanager
def on_ray(command: list[str], errors: Path) -> Iterator[subprocess.Popen]:
    env = {**os.environ, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
    with subprocess.Popen([*command, "--ray", "--workers", "2"], stderr=errors.open("a"), env=env) as process:
        try:
            yield process
        finally:
            process.kill()  # if the test failed


def wait_for(condition, process: subprocess.Popen, errors: Path) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < end, errors.read_text()
        time.sleep(0.02)


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children(recursive=True) if "RayTrainWorker" in child.name()]


def test_a_killed_worker_and_sigterm_change_nothing_of_what_is_learnt(reference_run, tmp_path):
    output, errors = tmp_path / "run", tmp_path / "errors"
    command = reference_run.command(output)

    def steps_done() -> int:
        return len(logged_steps(output)) if (output / "steps.jsonl").exists() else 0

    with on_ray([*command, "--set", "stage.steps=100000"], errors) as run:
        wait_for(lambda: list((output / "checkpoints").glob("step-*")), run, errors)
        workers_of(run)[-1].kill()
        wait_for(lambda: "going on after step" in errors.read_text(), run, errors)
        wait_for(lambda: steps_done() >= STEPS, run, errors)
        run.send_signal(signal.SIGTERM)
        assert run.wait(120) == 128 + signal.SIGTERM, errors.read_text()
    assert "the same command continues" in errors.read_text()

    learnt = logged_steps(output)
    assert [path.name for path in (output / "checkpoints").iterdir()] == [f"step-{len(learnt):08d}"]
    assert [step["keys"] for step in learnt[:STEPS]] == [step["keys"] for step in reference_run.steps]
    assert [step["loss"] for step in learnt[:STEPS]] == pytest.approx([step["loss"] for step in reference_run.steps], abs=1e-4)


def test_what_the_user_can_mend_is_said_once_and_not_tried_again(reference_run, tmp_path, ray_address):
    errors = tmp_path / "errors"
    command = [*reference_run.command(tmp_path / "run"), "--set", "run.accumulate=4", "--ray-address", ray_address]
    with on_ray(command, errors) as run:
        assert run.wait(120) == 2
    (line,) = errors.read_text().splitlines()
    assert line.startswith("error:")
    assert "a batch of 4 cannot be cut evenly for 2 processes" in line


def test_more_workers_than_ray_has_room_for_are_refused(reference_run, tmp_path, ray_address):
    from trainer.errors import TrainError
    from trainer.run.ray_launch import launch

    config = load_settings(TrainConfig, str(reference_run.config_path), ())
    with pytest.raises(TrainError, match="1000 workers with 1 CPU each find no room"):
        launch(config, shards=reference_run.shards, output=str(tmp_path / "run"), workers=1000, address=ray_address)
