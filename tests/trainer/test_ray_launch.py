"""Training through Ray Train: what one process learns, whatever dies on the way; and errors in a line."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import warm
from reference import STEPS, logged_steps

from materia.base.settings_file import load_settings
from trainer.config import TrainConfig
from trainer.errors import TrainError

pytestmark = pytest.mark.ray


@contextmanager
def on_ray(command: list[str], errors: Path) -> Iterator[warm.Program]:
    env = {**os.environ, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
    with warm.Program([*command, "--ray", "--workers", "2"], "heavy", stderr=errors.open("a"), env=env) as process:
        try:
            yield process
        finally:
            process.kill()  # if the test failed


def wait_for(condition, process: warm.Program, errors: Path) -> None:
    end = time.monotonic() + 240  # beside two busy loops the first checkpoint takes two minutes
    while not condition():
        assert process.poll() is None and time.monotonic() < end, errors.read_text()
        time.sleep(0.02)


def workers_of(process: warm.Program) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children(recursive=True) if "RayTrainWorker" in child.name()]


@pytest.mark.timeout(600)
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


def test_what_every_worker_would_find_wrong_is_said_before_ray_is_asked(reference_run, tmp_path):
    from trainer.run.ray_launch import launch

    config = load_settings(TrainConfig, str(reference_run.config_path), ("run.accumulate=4",))
    with pytest.raises(TrainError, match="a batch of 4 cannot be cut evenly for 2 processes"):
        launch(config, shards=reference_run.shards, output=str(tmp_path / "run"), workers=2, address="nobody:1")


def test_what_a_worker_finds_wrong_is_told_once_and_not_tried_again(reference_run, tmp_path, ray_address, monkeypatch):
    """A worker as Ray Train would run it, without the process group, which takes half a minute."""
    import ray

    from trainer.run import ray_launch

    monkeypatch.setattr(ray.train, "get_context", lambda: SimpleNamespace(get_world_size=lambda: 1))
    monkeypatch.setattr(ray_launch, "_await_interrupt", lambda mailbox, interrupt: None)  # it would outlive the session
    shards = tmp_path / "shards"
    shutil.copytree(reference_run.shards, shards)
    for tar in (shards / "shards").glob("*.tar"):
        tar.write_bytes(bytes(tar.stat().st_size))
    config = load_settings(TrainConfig, str(reference_run.config_path), ())
    ray.init(ray_address, log_to_driver=False)
    try:
        mailbox = ray.remote(ray_launch.Mailbox).options(num_cpus=0).remote()
        settings = {"config": config.model_dump_json(), "mailbox": mailbox}
        for run in ("first", "again"):
            paths = {"shards": [str(shards)], "output": str(tmp_path / run), "cache": None}
            assert ray_launch._work({**settings, "paths": paths}) is None
        told, again = ray.get(mailbox.failures.remote())
        assert "is not the tar that its index" in str(told) and str(again) == str(told)
    finally:
        ray.shutdown()
    assert not (tmp_path / "again").exists()


def test_more_workers_than_ray_has_room_for_are_refused(reference_run, tmp_path, ray_address):
    from trainer.run.ray_launch import launch

    config = load_settings(TrainConfig, str(reference_run.config_path), ())
    with pytest.raises(TrainError, match="2 workers with 1000 CPU each find no room"):
        launch(
            config,
            shards=reference_run.shards,
            output=str(tmp_path / "run"),
            workers=2,
            cpus_per_worker=1000,
            address=ray_address,
        )
