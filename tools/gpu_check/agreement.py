"""Whether the card computes what the CPU does, and what happens when a batch does not fit its memory.

In: the networks of networks.py with random weights. Out: largest differences. Random weights give GroundingDINO near-ties among
the cells that become queries, which the last bit decides; so the card is given the CPU's selection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from stages import notices
from tools.gpu_check.card import GIB, peak_gib
from tools.gpu_check.networks import Timed, load_groundingdino, load_lama, load_sam
from tools.gpu_check.step import Context, Row, Skip

BATCH = 8
MEMORY_FOR_ONE = 1.4
"""Of the peak of a single picture: room for one, and not for `BATCH`."""


def boxes(context: Context) -> Iterator[Row]:
    """Step `same-boxes`: all 900 boxes of a frame."""
    from stages.localise import groundingdino_model

    original, chosen = groundingdino_model.select_queries, list[torch.Tensor]()

    def record(matches: torch.Tensor, n_queries: int) -> torch.Tensor:
        chosen.append(original(matches, n_queries))
        return chosen[-1]

    def replay(matches: torch.Tensor, _n_queries: int) -> torch.Tensor:
        return chosen[0].to(matches.device)

    def found(device: str, dtype: str, select: Callable[..., torch.Tensor]) -> Any:
        with patch.object(groundingdino_model, "select_queries", select):
            return load_groundingdino(_on(device, context), dtype).whole(1)()[0].boxes_xyxy_px

    wanted = found("cpu", "float32", record)
    yield from _rows(
        "GroundingDINO Swin-T, boxes, px",
        context,
        lambda dtype: _largest(wanted, found(context.device, dtype, replay)),
        "<= 0.5",
    )


def masks(context: Context) -> Iterator[Row]:
    """Step `same-masks`: two masks of a frame."""

    def found(device: str, dtype: str) -> np.ndarray:
        masks: np.ndarray = load_sam(_on(device, context), "vit_b", dtype).whole(1)()[0].masks
        return masks

    wanted = found("cpu", "float32")
    yield from _rows(
        "SAM ViT-B, masks, least IoU", context, lambda dtype: _iou(wanted, found(context.device, dtype)), ">= 0.99"
    )


def fills(context: Context) -> Iterator[Row]:
    """Step `same-fills`: a frame with a hole."""

    def found(device: str) -> Any:
        return load_lama(_on(device, context)).whole(1)()[0]

    difference = _largest(found("cpu"), found(context.device))
    yield {"what": "big-LaMa, pixels, grey levels", "dtype": "float32", "value": difference, "target": "value <= 2"}


def halving(context: Context) -> Iterator[Row]:
    """Step `halving`: with memory for one picture, eight give what they give with all of the card."""
    if context.device != "cuda":
        raise Skip("there is no card whose memory could run out")
    yield from _halved(load_sam(context, "vit_b", "float32"), context, _least_iou, ">= 0.99")
    yield from _halved(load_lama(context), context, _largest, "<= 2")


def _halved(timed: Timed, context: Context, compare: Callable[[Any, Any], float], target: str) -> Iterator[Row]:
    whole = timed.whole(BATCH)()
    one_gib = peak_gib(timed.whole(1), context.device)
    assert one_gib is not None
    halved, said = _with_little_memory(timed, MEMORY_FOR_ONE * one_gib)
    asked = f"{timed.name}, {BATCH} pictures, memory for {MEMORY_FOR_ONE:g}: goes on with"
    yield {"what": asked, "value": timed.batches_of.size, "said": said, "target": f"value <= {BATCH // 2}"}
    yield {"what": f"{timed.name}, against all of the card", "value": compare(whole, halved), "target": f"value {target}"}


def _with_little_memory(timed: Timed, gib: float) -> tuple[Any, str]:
    """What a batch gives when torch may take no more than so much of the card, and what was said about it."""
    total = torch.cuda.get_device_properties(0).total_memory / GIB
    notices.drain()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(gib / total)
    try:
        return timed.whole(BATCH)(), "; ".join(notices.drain())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _rows(what: str, context: Context, differs: Callable[[str], float], target: str) -> Iterator[Row]:
    """Against the CPU in float32, which has a target; in bfloat16 for what it costs, on a card only."""
    yield {"what": what, "dtype": "float32", "value": differs("float32"), "target": f"value {target}"}
    if context.device == "cuda":
        yield {"what": what, "dtype": "bfloat16", "value": differs("bfloat16")}


def _on(device: str, context: Context) -> Context:
    return Context(device, context.tiny, context.folder)


def _largest(some: Any, others: Any) -> float:
    """Difference of two arrays, or of two lists of them."""
    return max(float(np.abs(np.subtract(a, b, dtype=np.float64)).max()) for a, b in zip(some, others, strict=True))


def _least_iou(some: Any, others: Any) -> float:
    """Of the masks of two lists of `Masks`."""
    return min(_iou(a.masks, b.masks) for a, b in zip(some, others, strict=True))


def _iou(some: np.ndarray, others: np.ndarray) -> float:
    """The least of K pairs of masks (K, H, W) bool; two empty ones agree."""
    both, either = (some & others).sum((1, 2)), (some | others).sum((1, 2))
    return float(np.where(either == 0, 1.0, both / np.maximum(either, 1)).min())
