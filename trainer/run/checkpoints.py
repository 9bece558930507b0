"""Checkpoints of a run: weights, their average and the optimiser's state as safetensors; whole or not there at all.

    checkpoints/step-00000100/{model,ema,optimiser}.safetensors, state.json     as it is after 100 steps

A checkpoint is written below a temporary name, fsynced and renamed. state.json names the model's sizes and the bytes of every
file: a folder that does not agree with it (copied in part, say) is passed over, with a notice. Never pickle.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainer.errors import TrainError
from trainer.model.dit import SIZES, ModelConfig, VideoDiT
from trainer.run.progress import Say

SCHEMA = 1
PARTS = ("model", "ema", "optimiser")


class State(msgspec.Struct, frozen=True):
    """state.json. `files`: bytes of each part; `trained_images`: the model has learnt to use images (stage II)."""

    schema: int
    step: int
    model: ModelConfig
    trained_images: bool
    files: dict[str, int]


class Checkpoint(NamedTuple):
    """One that is whole."""

    folder: Path
    state: State


def save(
    run: Path, parts: Iterable[tuple[str, dict[str, Tensor]]], *, step: int, model: ModelConfig, trained_images: bool, keep: int
) -> None:
    """Write a checkpoint after `step` steps and remove all but the last `keep`. Raises OSError.

    `parts`: name -> tensors on the CPU, one by one, so that only one of them need be in memory.
    """
    root = run / "checkpoints"
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f".{_name(step)}.{secrets.token_hex(4)}.tmp"
    folder.mkdir()
    files = {}
    for name, tensors in parts:
        path = folder / f"{name}.safetensors"
        _write(tensors, path)
        files[name] = path.stat().st_size
        _fsync(path)
    state = State(SCHEMA, step, model, trained_images, files)
    (folder / "state.json").write_bytes(msgspec.json.format(msgspec.json.encode(state)))
    _fsync(folder / "state.json")
    _fsync(folder)
    for passed_over in _folders(run):  # torn, or the run would have gone on from there
        if passed_over.name >= _name(step):
            _discard(passed_over)
    folder.rename(root / _name(step))
    _fsync(root)
    for old in _folders(run)[keep:]:
        _discard(old)


def latest(run: Path, say: Say) -> Checkpoint | None:
    """The newest whole checkpoint; each newer one that is torn is told of."""
    for folder in _folders(run):
        try:
            return _open(folder)
        except TrainError as error:
            say(f"notice: {error}; the one before it is used")
    return None


def prepare(run: Path) -> None:
    """Make the folder of checkpoints, now rather than after many steps, and remove what a writer that was killed left behind.

    Only for the run's one writer. Raises OSError.
    """
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    for folder in (run / "checkpoints").glob(".step-*.tmp"):
        shutil.rmtree(folder)


def read(checkpoint: Checkpoint, part: str) -> dict[str, Tensor]:
    """Tensors of a part, on the CPU. Raises TrainError naming the file."""
    path = checkpoint.folder / f"{part}.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise TrainError(f"{path} cannot be read: {error}; remove {checkpoint.folder.name} to use the one before") from None


def load_model(run: str | Path, *, ema: bool = True) -> tuple[VideoDiT, int]:
    """The model of a run's newest checkpoint on the CPU, for sampling, and its step; `ema`: with the averaged weights.

    Raises TrainError for a folder without a checkpoint.
    """
    checkpoint = _require(Path(run))
    with torch.device("meta"):
        model = VideoDiT(checkpoint.state.model)
    weights = read(checkpoint, "ema" if ema else "model")
    _check_names(checkpoint, {name: tuple(p.shape) for name, p in model.named_parameters()}, weights)
    model.load_state_dict(weights, assign=True)
    model.eval()
    return model, checkpoint.state.step


def initial_weights(run: str, config: ModelConfig) -> dict[str, Tensor]:
    """Weights of another run to begin with, for a model of `config`: all that it has learnt.

    Of a run without images (stage I) the new attention is left out, and may differ in size. Raises TrainError.
    """
    checkpoint = _require(Path(run))
    with torch.device("meta"):
        model = VideoDiT(config)
    weights = read(checkpoint, "model")
    untrained = set() if checkpoint.state.trained_images else {id(parameter) for parameter in model.new_attention()}
    left_out = {name for name, parameter in model.named_parameters() if id(parameter) in untrained}
    check_sizes(checkpoint, config, aside=("image_width", "word_tokens", "max_images") if untrained else ())
    weights = {name: tensor for name, tensor in weights.items() if name not in left_out}
    _check_names(checkpoint, {name: tuple(p.shape) for name, p in model.named_parameters() if name not in left_out}, weights)
    return weights


def check_sizes(checkpoint: Checkpoint, config: ModelConfig, aside: Collection[str] = ()) -> None:
    """Raises TrainError naming both sizes if the checkpoint's model is not of `config`, fields `aside` left aside."""
    there, here = asdict(checkpoint.state.model), asdict(config)
    names = [name for name in here if there[name] != here[name] and name not in aside]
    if names:
        sizes = f"{size_name(checkpoint.state.model)}; this one is {size_name(config)}"
        details = ", ".join(f"{name} {there[name]} there, {here[name]} here" for name in names)
        raise TrainError(
            f"{checkpoint.folder} is of a model of another size, {sizes} ({details}): set model.* and encoders.* as they were"
            " there, or give another run"
        )


def size_name(config: ModelConfig) -> str:
    """ "tiny", or the sizes of a model that has no name."""
    for name, sizes in SIZES.items():
        if all(getattr(config, field) == value for field, value in sizes.items()):
            return name
    return f"{config.depth} blocks of width {config.width}"


def _require(run: Path) -> Checkpoint:
    notices: list[str] = []
    checkpoint = latest(run, notices.append)
    if checkpoint is None:
        why = notices[0].removeprefix("notice: ").partition(";")[0] if notices else "give a folder that `materia train` wrote"
        raise TrainError(f"{run} has no checkpoint: {why}")
    return checkpoint


def _open(folder: Path) -> Checkpoint:
    """Raises TrainError for a checkpoint that is not whole."""
    try:
        state = msgspec.json.decode((folder / "state.json").read_bytes(), type=State)
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise TrainError(f"{folder} is not whole: state.json: {error}") from None
    if state.schema != SCHEMA:
        raise TrainError(f"{folder} was written by another version (schema {state.schema}, not {SCHEMA})")
    for part in PARTS:
        path = folder / f"{part}.safetensors"
        if not path.is_file() or path.stat().st_size != state.files.get(part):
            raise TrainError(f"{folder} is not whole: {path.name} is missing or cut short")
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise TrainError(f"{folder} is not whole: {path.name}: {error}") from None
    return Checkpoint(folder, state)


def _check_names(checkpoint: Checkpoint, wanted: dict[str, tuple[int, ...]], weights: dict[str, Tensor]) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise TrainError(
                f"{checkpoint.folder}: {name} is {found.get(name, 'not there')}, a model of the sizes in state.json has"
                f" {wanted.get(name, 'none')}: these are weights of another model"
            )


def _folders(run: Path) -> list[Path]:
    """Newest first."""
    return sorted((run / "checkpoints").glob("step-" + 8 * "[0-9]"), reverse=True)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _discard(folder: Path) -> None:
    """Remove a checkpoint so that no reader meets half of it."""
    if folder.exists():
        doomed = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
        folder.rename(doomed)
        shutil.rmtree(doomed)


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file. Raises OSError, also for what safetensors has only the system's number of: a full disk, say."""
    try:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(path)) from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
