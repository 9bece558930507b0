"""Half precision for networks that were trained in float32: where, and in what, autocast computes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

DTYPES = ("auto", "float32", "float16", "bfloat16")
"""auto: on a card bfloat16, or float16 where the card has no bfloat16 (before Ampere); elsewhere float32."""


def check_dtype(dtype: str) -> None:
    """Raises ValueError naming what is allowed."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")


def autocast(dtype: str, device: Any) -> AbstractContextManager[Any]:
    """The context to run a network in, weights staying float32; `device`: "cpu", "cuda:0", a torch.device."""
    import torch

    kind = torch.device(device).type
    if dtype == "auto":
        half = "bfloat16" if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        dtype = half if kind == "cuda" else "float32"
    return nullcontext() if dtype == "float32" else torch.autocast(kind, getattr(torch, dtype))
