"""Reading checkpoints that others made, safely: tensors only, never pickled objects, and errors that say what was expected.

In: a path. Out: a state dict, or a `CheckpointError` naming the file. Names and shapes are compared before anything is loaded
on a device, so that a job with the wrong file does not start. What a file is, is read from its first bytes, not from its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WEIGHT_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""library -> name of a model's weights in its folder, without part number and suffix."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, what was expected and what was found."""


_WRAPPERS = ("model", "state_dict")
"""Keys below which published checkpoints keep their tensors."""
_MAX_HEADER_BYTES = 100_000_000
"""Of a safetensors file (the format's own limit); it begins with the length of its header in 8 bytes, then JSON."""
_SHOWN = 3
"""Names that a message spells out."""


def load_state_dict(path: Path) -> dict[str, Any]:
    """Name -> torch.Tensor of a `.safetensors`, `.pth` or `.pt` file, on the CPU, memory-mapped where the format allows it.

    A state dict below a key "model" or "state_dict" is taken out, and "module." (of training on several GPUs) dropped from
    names that all begin so. Raises CheckpointError for a file that is missing, truncated, no checkpoint, or one that holds
    anything but tensors and plain containers.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; expected a checkpoint file")
    kind = _kind(path)
    loaded = _safetensors(path) if kind == "safetensors" else _torch(path, mmap=kind == "zip")
    return _tensors(path, loaded)


def folder_shapes(folder: Path, stem: str) -> dict[str, Any]:
    """Name -> tensor without memory, of all tensors of `STEM.safetensors` or its parts; opening compares lengths with headers.

    Raises CheckpointError for a folder without them and a file that is cut short or something else.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    whole = folder / f"{stem}.safetensors"
    files = [whole] if whole.is_file() else sorted(folder.glob(f"{stem}-*-of-*.safetensors"))
    if not files:
        raise CheckpointError(f"{whole} is not there; only safetensors are loaded")
    shapes: dict[str, Any] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  # it is no dictionary
                    shapes[name] = torch.empty(tensors.get_slice(name).get_shape(), device="meta")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is truncated or no safetensors file: {error}") from error
    return shapes


def mismatch(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any], architecture: str) -> str:
    """Empty if every expected tensor is there in its shape; otherwise one sentence with counts and the first few differences.

    `found`, `expected`: name -> anything with a `shape`; `architecture` is what the file should hold, e.g. "SAM vit_b".
    Tensors that are found and not expected are no fault: published files carry what only training needs.
    """
    absent = [f"{name} {_shape(expected[name])}" for name in expected if name not in found]
    other = [
        f"{name} {_shape(found[name])} instead of {_shape(expected[name])}"
        for name in expected
        if name in found and _shape(found[name]) != _shape(expected[name])
    ]
    faults = []
    if absent:
        faults.append(f"{len(absent)} of {len(expected)} tensors are missing: {_first(absent)}")
    if other:
        faults.append(f"{len(other)} of {len(expected)} have another shape: {_first(other)}")
    if not faults:
        return ""
    unknown = [f"{name} {_shape(found[name])}" for name in found if name not in expected]
    besides = f"; it holds {len(found)} tensors" + (f", among them the unknown {_first(unknown)}" if unknown else "")
    return f"{path} is no {architecture}: {'; '.join(faults)}{besides}"


def _kind(path: Path) -> str:
    """What the first bytes say: "safetensors", "zip" (torch since 1.6) or "pickle" (before). Raises CheckpointError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes); expected a checkpoint")
    text = head.lstrip().lower()
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MAX_HEADER_BYTES:  # may begin like the others by chance
        return "safetensors"
    if head.startswith(b"PK"):
        return "zip"
    if head.startswith(b"\x80"):
        return "pickle"
    if path.suffix == ".safetensors" and not text.startswith((b"<", b"version")):
        return "safetensors"
    if text.startswith(b"version https://git-lfs"):
        what = "a git-lfs pointer, not the file itself"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml")):
        what = "a web page, perhaps a server's error message"
    else:
        what = f"no checkpoint: neither torch nor safetensors, begins with {head[:12]!r}"
    raise CheckpointError(f"{path} ({size:,} bytes) is {what}; fetch the file again")


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path} ({_bytes(path)}) is truncated or no safetensors file: {_line(error)}") from error


def _torch(path: Path, mmap: bool) -> Any:
    import pickle
    import warnings

    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # about the pickles and TorchScript that are refused below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        refused = re.search(r"(?:GLOBAL|class) (\w+(?:\.\w+)+)", str(error))
        what = f"holds code ({refused[1]})" if refused else "is a pickle that torch did not write"
        raise CheckpointError(f"{path} {what} and is refused; expected tensors only (a state dict)") from error
    except Exception as error:  # torch tells of damage in many ways: RuntimeError, EOFError, IndexError, struct.error
        if "TorchScript" in str(error):
            raise CheckpointError(f"{path} is a TorchScript program; expected a state dict") from error
        raise CheckpointError(
            f"{path} ({_bytes(path)}) is truncated or damaged: {_line(error)}; expected a checkpoint; fetch the file again"
        ) from error


def _tensors(path: Path, loaded: Any) -> dict[str, Any]:
    """The state dict in what a file held."""
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping) or not loaded:
        raise CheckpointError(f"{path} holds {type(loaded).__name__} and no tensors by name; expected a state dict")
    for name, value in loaded.items():
        if not isinstance(name, str) or not hasattr(value, "shape"):
            raise CheckpointError(f"{path} holds {type(value).__name__} at {str(name)!r}; expected tensors only (a state dict)")
    prefix = "module." if all(name.startswith("module.") for name in loaded) else ""
    return {name.removeprefix(prefix): value for name, value in loaded.items()}


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(side) for side in tensor.shape)


def _first(texts: list[str]) -> str:
    return ", ".join(texts[:_SHOWN]) + (", ..." if len(texts) > _SHOWN else "")


def _bytes(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes"


def _line(error: Exception) -> str:
    """The first sentence of an error's text; torch explains itself over many."""
    return str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")[:200] or type(error).__name__
