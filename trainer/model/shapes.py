"""Shapes of tensors, asserted where they enter: a wrong one broadcasts, and something is learnt that nobody meant."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_shape(what: str, tensor: Tensor, *shape: int | None) -> None:
    """Raises AssertionError unless the tensor has this shape; None: any size. Nothing of it is compiled into a graph."""
    if torch.compiler.is_compiling():
        return
    fits = len(shape) == tensor.ndim and all(wanted in (None, size) for wanted, size in zip(shape, tensor.shape, strict=True))
    told = ", ".join("any" if wanted is None else str(wanted) for wanted in shape)
    assert fits, f"{what} has shape ({', '.join(map(str, tensor.shape))}), not ({told})"
