"""Masks by GrabCut (Rother et al. 2004) on a small crop around a box.

In: an image and boxes. Out: masks in full resolution and a quality score. GrabCut knows colours, not things, so it stands and
falls with where it starts: for a human at what a small network takes for people (people.py), else at an ellipse in the box. The
score is how far a second answer agrees - the network's own, or GrabCut's from a smaller box - times how well the mask's
extent agrees with the box that the detector gave.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from materia.base.weights.files import Missing, Weights
from stages.backends import Masks, Segmenter
from stages.images import fill_holes, mask_extent
from stages.localise.vocabulary import is_human
from stages.records import Box
from stages.segment.people import PersonMask

MARGIN = 0.2
"""Surroundings shown to GrabCut, as a share of the box's longer side: it learns the background's colours there."""
WORK_PX = 144
"""Longer side of the crop on which GrabCut works; its time grows with the area."""
PEOPLE_WORK_PX = 256
"""The same for humans: their network's resolution, and only a narrow band is left to decide."""
ITERATIONS = 2
SHRINK = 0.06
"""How much smaller the second box is on each side, as a share of its width and height."""
CORE = 0.45
"""The middle of the box, an ellipse of this share of its sides, is certain foreground: else GrabCut gives everything to the
background where colours are alike. Of 0.2, 0.3 and 0.45 the last cut most of 38 things out best, seen by eye."""
OVERHANG, EDGE = 0.15, 0.03
"""What reaches the picture's edge goes on behind it: where the box comes so near to the edge (EDGE, share of its side), the
ellipse hangs over by OVERHANG."""
SURE = 0.9
"""Probability above which a pixel is certain foreground, and below 1 - SURE certain background."""
MIN_LIKELY = 0.1
"""Share of the box that must be likely foreground, such as a person; less: the network has not found what is meant."""
MIN_PART = 0.1
"""Components smaller than this share of the largest are dropped."""
MIN_FILL = 0.25
"""A mask that fills less of its own bounding box is a scatter of pixels; its score falls in proportion."""


Answers = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray] | None]
"""A crop (h, w, 3) uint8 RGB and a box (4,) in it -> two masks of what the box holds, (h, w) bool: the first counts, the second
tells how sure that is; or None."""


class GrabCut(Segmenter):
    """Box to mask; deterministic, because OpenCV's generator is seeded from the pixels and the start."""

    def __init__(self) -> None:
        self.people = PersonMask()

    def weights(self) -> list[Weights]:
        """The person network's."""
        return [self.people.weights]

    def missing(self) -> list[Missing]:
        """What is wrong with the person network's weights."""
        return self.people.missing()

    def identity(self) -> dict[str, str]:
        """Hash of the person network's weights."""
        return self.people.identity()

    def setup(self, device: str, threads: int) -> None:
        """Load the person network and pin OpenCV's threads; both run on the CPU whatever `device` says."""
        import cv2

        cv2.setNumThreads(threads)
        self.people.setup(threads)

    def close(self) -> None:
        """Drop the network."""
        self.people.close()

    def segment(self, images: list[np.ndarray], boxes: list[list[Box]]) -> list[Masks]:
        """Images (H, W, 3) uint8 RGB and the boxes of each -> masks of each; score 0: no mask."""
        return [self._segment(image, wanted) for image, wanted in zip(images, boxes, strict=True)]

    def _segment(self, image: np.ndarray, boxes: list[Box]) -> Masks:
        masks = np.zeros((len(boxes), *image.shape[:2]), bool)
        scores = np.zeros(len(boxes), np.float32)
        for k, box in enumerate(boxes):
            human = is_human(box.word, box.category)
            answers, work_px = (self._as_people, PEOPLE_WORK_PX) if human else (_as_ellipse, WORK_PX)
            scores[k] = cut_out(image, np.array(box.box_xyxy_px, float), work_px, answers, masks[k])
        return Masks(masks, scores)

    def _as_people(self, small: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Answers from the person network's start, (h, w) bool; from the ellipse where it sees hardly anyone."""
        return as_likely(small, box, self.people.probability(small)) or _as_ellipse(small, box)


def cut_out(image: np.ndarray, box: np.ndarray, work_px: int, answers: Answers, mask: np.ndarray) -> float:
    """Write the mask of one box (4,) float of image (H, W, 3) into `mask` (H, W) bool, all False, and give its score.

    `work_px`: longer side of the crop, the box with its surroundings, of which `answers` are asked; 0: there is no answer.
    """
    import cv2

    height, width = image.shape[:2]
    margin = MARGIN * max(box[2] - box[0], box[3] - box[1])
    left, top = np.floor(np.maximum(box[:2] - margin, 0)).astype(int)
    right, bottom = np.ceil(np.minimum(box[2:] + margin, (width, height))).astype(int)
    if min(right - left, bottom - top) < 4:
        return 0.0
    crop = image[top:bottom, left:right]
    scale = min(1.0, work_px / max(crop.shape[:2]))
    size = np.array([max(4, round(crop.shape[1] * scale)), max(4, round(crop.shape[0] * scale))])
    small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
    inner = (box - (left, top, left, top)) * np.tile(size / (right - left, bottom - top), 2)

    found = answers(small, inner)
    if found is None or not found[0].any():
        return 0.0
    smooth = cv2.resize(found[0].astype(np.float32), (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    mask[top:bottom, left:right] = smooth > 0.5
    return quality(*found, inner)


def as_likely(small: np.ndarray, box: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """GrabCut's answer from where `probability` (h, w) is high, and that itself, (h, w) bool; None if hardly any is."""
    import cv2

    grown = 0.05 * np.array([box[0] - box[2], box[1] - box[3], box[2] - box[0], box[3] - box[1]])
    inside = _rectangle(small.shape[:2], box + grown)
    probability = np.where(inside, probability, 0)
    answer = probability > 0.5
    if answer.sum() < MIN_LIKELY * inside.sum():
        return None
    labels = np.where(answer, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[probability > SURE] = cv2.GC_FGD
    labels[probability < 1 - SURE] = cv2.GC_BGD
    return clean(_grabcut(small, labels)), clean(answer)


def _as_ellipse(small: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """GrabCut's answers from the box and from a smaller one, (h, w) bool."""
    inset = SHRINK * np.array([box[2] - box[0], box[3] - box[1]])
    starts = box, box + np.concatenate([inset, -inset])
    first, second = (clean(_grabcut(small, _ellipse_labels(small.shape[:2], start))) for start in starts)
    return first, second


def _ellipse_labels(size: tuple[int, ...], box: np.ndarray) -> np.ndarray:
    """Where GrabCut starts, (h, w) uint8: outside the box certainly background, in its corners likely so; in its inscribed
    ellipse likely foreground, in the core of that certainly.
    """
    import cv2

    inside = _rectangle(size, box)
    labels = np.where(inside, cv2.GC_PR_BGD, cv2.GC_BGD).astype(np.uint8)
    side = np.array([box[2] - box[0], box[3] - box[1]])
    low = box[:2] - OVERHANG * side * (box[:2] < EDGE * side)
    high = box[2:] + OVERHANG * side * (np.array(size[::-1]) - box[2:] < EDGE * side)
    centre, axes = tuple((low + high) / 2), high - low
    for share, label in ((1.0, cv2.GC_PR_FGD), (CORE, cv2.GC_FGD)):
        ellipse = np.zeros_like(labels)
        cv2.ellipse(ellipse, (centre, tuple(axes * share), 0), 1, cv2.FILLED)
        labels[(ellipse > 0) & inside] = label
    return labels


def _rectangle(size: tuple[int, ...], box: np.ndarray) -> np.ndarray:
    """The pixels of a box in a picture of (h, w), bool."""
    x1, y1, x2, y2 = (max(0, round(float(v))) for v in box)
    inside = np.zeros(size, bool)
    inside[y1:y2, x1:x2] = True
    return inside


def _grabcut(small: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Foreground (h, w) bool from a start `labels` (h, w) uint8 of OpenCV's GC_ values."""
    import cv2

    background = np.isin(labels, (cv2.GC_BGD, cv2.GC_PR_BGD))
    if min(background.sum(), (~background).sum()) < 8:  # each colour model needs some pixels
        return ~background
    cv2.setRNGSeed(zlib.crc32(small.tobytes() + labels.tobytes()) & 0x7FFFFFFF)
    cv2.grabCut(small, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), ITERATIONS, cv2.GC_INIT_WITH_MASK)
    foreground: np.ndarray = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return foreground


def clean(mask: np.ndarray) -> np.ndarray:
    """Mask (h, w) bool -> largest component and those not much smaller, holes filled, thin strands cut."""
    import cv2

    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if not len(areas):
        return np.zeros(mask.shape, bool)
    kept = np.isin(labels, np.flatnonzero(areas >= MIN_PART * areas.max()) + 1)
    return fill_holes(kept)


def quality(mask: np.ndarray, second: np.ndarray, box: np.ndarray) -> float:
    """Score in [0, 1] [ours]: IoU of both answers x IoU of the mask's extent and the box x fill of the extent if low."""
    union = (mask | second).sum()
    if not mask.any() or not union:
        return 0.0
    extent = mask_extent(mask)
    overlap = np.minimum(extent[2:], box[2:]) - np.maximum(extent[:2], box[:2])
    inter = float(overlap.clip(0).prod())
    areas = [float((b[2:] - b[:2]).prod()) for b in (np.asarray(extent), box)]
    fill = mask.sum() / areas[0]
    return float((mask & second).sum() / union * inter / (areas[0] + areas[1] - inter) * min(1.0, fill / MIN_FILL))
