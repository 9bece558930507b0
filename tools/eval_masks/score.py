"""How well the product's stage masks scenes whose masks are known.

In: scenes and settings of the stage. Out: a `Result` for each thing in each scene, and a `Line` for each role. A mask that the
stage drops has IoU 0.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, get_args

import msgspec
import numpy as np
from scipy.stats import spearmanr

from stages.frames import encode_jpeg
from stages.images import decode_mask
from stages.records import Box, Clip, Frame, Instance, Link, Sample
from stages.segment import Segment
from tools.eval_masks.scenes import Role, Scene

JPEG_QUALITY = 95
"""Of the scenes' pictures, as of frames of record."""
FAILED_IOU = 0.5


class Result(NamedTuple):
    """Of one thing: the mask that was found (H, W) bool, None if it was dropped; and how that compares.

    `leak`: share of the mask that lies on the scene's other thing. `cpu_ms`: of its scene, by the number of its masks.
    """

    scene: int
    role: Role
    kind: str
    mask: np.ndarray | None
    score: float
    iou: float
    leak: float
    cpu_ms: float


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """Of the masks of a role or kind. `failed`: share with IoUs below 0.5, `dropped` (a share) among them. `leak` and `score`:
    means over those not dropped; `rank`: Spearman's correlation of their scores and IoUs, null where it has no meaning.
    """

    what: str
    masks: int
    mean_iou: float
    median_iou: float
    failed: float
    dropped: float
    leak: float
    score: float
    rank: float | None
    cpu_ms: float


def results_of(scenes: Iterable[Scene], stage: Segment, links: bool) -> Iterator[Result]:
    """Mask the scenes, one after the other. `stage` is set up; `links`: as if individuals had been linked across frames."""
    for number, scene in enumerate(scenes):
        sample = sample_of(scene, links)
        _ = sample.frames[0].rgb  # decoded once a process, whatever masks it
        start = time.process_time()
        stage.process([sample])
        cpu_ms = (time.process_time() - start) * 1000 / len(scene.parts)
        found = {instance.word: instance for instance in sample.instances}
        for part in scene.parts:
            others = [other.mask for other in scene.parts if other is not part]
            mask, score, iou, leak = compared(found.get(part.cutout.word), part.mask, others)
            yield Result(number, part.role, part.cutout.kind, mask, score, iou, leak, cpu_ms)


def compared(
    instance: Instance | None, truth: np.ndarray, others: Sequence[np.ndarray]
) -> tuple[np.ndarray | None, float, float, float]:
    """The mask found, its score, its IoU with the truth (H, W) bool, and its share that lies on others."""
    if instance is None:
        return None, 0.0, 0.0, 0.0
    mask = decode_mask(instance.mask_rle)
    iou = float((mask & truth).sum() / (mask | truth).sum())
    leak = float(sum((mask & other).sum() for other in others) / mask.sum())
    return mask, instance.mask_score, iou, leak


def sample_of(scene: Scene, links: bool) -> Sample:
    """A scene as it comes to the stage; all of it are subjects, because without one the stage rejects a clip."""
    frame = Frame(percent=50, index=0, time_s=0.0, jpeg=encode_jpeg(scene.picture, JPEG_QUALITY))
    clip = Clip(row=0, key="scene", source_id="scene", uri="scene", caption="")
    boxes = [
        Box(word=part.cutout.word, category="subject", frame=0, box_xyxy_px=part.box_xyxy_px, score=0.7) for part in scene.parts
    ]
    sample = Sample(clip=clip, frames=[frame], boxes=boxes)
    if links:
        sample.links = [Link(word=part.cutout.word, score=1.0, second_best=None) for part in scene.parts]
    return sample


def lines_of(results: list[Result]) -> list[Line]:
    """The table: all, by role, and by kind."""
    lines = [_line("all", results)]
    for role in get_args(Role):
        lines.append(_line(role, [result for result in results if result.role == role]))
    for kind in sorted({result.kind for result in results}):
        lines.append(_line(kind, [result for result in results if result.kind == kind]))
    return [line for line in lines if line.masks]


def _line(what: str, results: list[Result]) -> Line:
    ious = np.array([result.iou for result in results] or [0.0])
    kept = [result for result in results if result.mask is not None]
    return Line(
        what=what,
        masks=len(results),
        mean_iou=_rounded(ious.mean()),
        median_iou=_rounded(np.median(ious)),
        failed=_rounded((ious < FAILED_IOU).mean()),
        dropped=_rounded(1 - len(kept) / max(1, len(results))),
        leak=_rounded(np.mean([result.leak for result in kept] or [0.0])),
        score=_rounded(np.mean([result.score for result in kept] or [0.0])),
        rank=_rank([result.score for result in kept], [result.iou for result in kept]),
        cpu_ms=round(float(np.mean([result.cpu_ms for result in results] or [0.0])), 1),
    )


def _rank(scores: list[float], ious: list[float]) -> float | None:
    if len(set(scores)) < 2 or len(set(ious)) < 2:
        return None
    return _rounded(spearmanr(scores, ious).statistic)


def _rounded(value: float | np.floating) -> float:
    return round(float(value), 4)


def text(lines: list[Line]) -> Iterator[str]:
    """The table for a person."""
    columns = {"masks": 6, "IoU mean": 10, "median": 8, "< 0.5": 8, "dropped": 9, "leak": 7, "score": 7, "rank": 6, "CPU ms": 8}
    yield " " * 9 + "".join(f"{name:>{width}}" for name, width in columns.items())
    for line in lines:
        rank = "" if line.rank is None else f"{line.rank:.2f}"
        yield (
            f"{line.what:9}{line.masks:6}{line.mean_iou:10.3f}{line.median_iou:8.3f}{line.failed:8.1%}{line.dropped:9.1%}"
            f"{line.leak:7.1%}{line.score:7.2f}{rank:>6}{line.cpu_ms:8.0f}"
        )
