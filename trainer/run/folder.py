"""The folder of a run: what it was started with, and a line for every step.

config.json    configuration, hash of the samples, identity of the encoders; a resumed run must have the same. And how many
               samples are trained on
steps.jsonl    {"step", "loss", "keys"} of each step, counted from 0; written at once, cut back to the checkpoint on resume
checkpoints/   trainer/run/checkpoints.py
non_finite.json  the step that had no finite loss or gradient, if one stopped the run
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from materia.base import storage
from materia.base.locks import only_one
from materia.base.settings import differences
from trainer.config import TrainConfig
from trainer.errors import TrainError


class OtherRunError(TrainError):
    """The run was started with something else."""

    exit_code = 4


def run_folder(output: str) -> Path:
    """The local folder of a run. Raises TrainError for object stores: the log of steps is appended to, line by line."""
    folder = storage.local_path(output)
    if folder is None:
        raise TrainError(f"{output}: a run is written to a local or mounted folder; copy it to a store when it is done")
    return folder


@contextmanager
def only_writer(run: Path) -> Iterator[None]:
    """Hold the run's lock. Raises TrainError if another process holds it."""

    def refuse(_holder: str) -> None:
        raise TrainError(f"{run} is being trained by another process; end it, or choose another --output")

    with only_one(run / "lock", refuse):
        yield


def record(
    config: TrainConfig, data_sha256: str, encoders: dict[str, Any], samples: dict[str, int] | None = None
) -> dict[str, Any]:
    """What config.json holds: all but how storage is reached. `samples`: how many of which kind, for people."""
    told = config.model_dump(mode="json", exclude={"storage"})
    return {
        "config": told,
        "data_sha256": data_sha256,
        "samples": samples or {},
        "encoders": to_jsonable_python(encoders),
    }


def read_config(run: Path) -> TrainConfig:
    """The configuration that a run was started with. Raises TrainError for a folder that holds none."""
    return _config_of(run, _read(run))


def check_same(run: Path, now: dict[str, Any]) -> None:
    """Raises OtherRunError naming the fields that would change what is learnt; a new run has nothing to differ from."""
    if not (run / "config.json").exists():
        return
    then = _read(run)
    before, after = _result_fields(_config_of(run, then), then), _result_fields(TrainConfig.model_validate(now["config"]), now)
    if differing := _differing(before, after):
        raise OtherRunError(f"{run} was started otherwise: {differing}. Bring that back, or choose another --output")


def check_encoders(run: Path, identity: dict[str, Any]) -> None:
    """Raises OtherRunError naming how encoders differ from those that the run learnt with: its weights know no others."""
    before, after = ({"encoder": tree} for tree in (_read(run)["encoders"], to_jsonable_python(identity)))
    if differing := _differing(before, after):
        raise OtherRunError(f"{run} was trained with other encoders: {differing}. Bring those back, or train again")


def write_record(run: Path, now: dict[str, Any]) -> None:
    """Write config.json, whole or not at all; execution fields are those of the last start."""
    storage.atomic_write(str(run / "config.json"), json.dumps(now, indent=1, ensure_ascii=False).encode())


def open_steps(run: Path, start: int) -> IO[str]:
    """steps.jsonl, ready to be appended to at step `start`: what later steps wrote, or half of a line, is cut off."""
    path = run / "steps.jsonl"
    path.touch()
    keep = 0
    with path.open("rb+") as file:
        for index, line in enumerate(file):
            if index >= start or not line.endswith(b"\n"):
                break
            keep += len(line)
        file.truncate(keep)
    return path.open("a", encoding="utf-8")


def log_step(steps: IO[str], step: int, loss: float, keys: list[str]) -> None:
    """Append a step; from then on it survives the end of the process."""
    steps.write(json.dumps({"step": step, "loss": loss, "keys": keys}) + "\n")
    steps.flush()


def sync(steps: IO[str]) -> None:
    """Make the log survive the end of the machine: no checkpoint may be ahead of it."""
    steps.flush()
    os.fsync(steps.fileno())


def _read(run: Path) -> dict[str, Any]:
    path = run / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainError(f"{run} is no run: it has no config.json; give a folder that `materia train` wrote") from None
    except (OSError, ValueError) as error:
        raise TrainError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict) or not {"config", "data_sha256", "encoders"} <= content.keys():
        raise TrainError(f"{path} is not of a run; give a folder that `materia train` wrote")
    return content


def _config_of(run: Path, content: dict[str, Any]) -> TrainConfig:
    try:
        return TrainConfig.model_validate(content["config"])
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise OtherRunError(f"{run / 'config.json'} was written by another version: {field}: {first['msg']}") from None


def _result_fields(config: TrainConfig, content: dict[str, Any]) -> dict[str, Any]:
    """Everything that a resumed run must share."""
    return {
        **to_jsonable_python(config.result_fields()),
        "samples of the shards (sha256)": content["data_sha256"],
        "encoder": content["encoders"],
    }


def _differing(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What is not the same, with both values; "" if all is."""
    return "; ".join(f"{name} was {_shown(then)}, is {_shown(now)}" for name, then, now in differences(before, after))


def _shown(value: Any) -> str:
    return json.dumps("nothing" if value is None else value)
