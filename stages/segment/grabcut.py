"""Masks by GrabCut (Rother et al. 2004), seeded with a box, on a small crop around it.

In: an image and boxes. Out: masks in full resolution and a quality score. GrabCut knows colours, not things: where foreground
and background look alike, its answer is arbitrary. So it is asked twice, the second time with a smaller box, and the score is
how far the two answers agree, times how well the mask's extent agrees with the box that the detector gave.
"""

from __future__ import annotations

import zlib

import numpy as np

from stages.backends import Segmenter
from stages.images import fill_holes, mask_extent

MARGIN = 0.2
"""Surroundings shown to GrabCut, as a share of the box's longer side: it learns the background's colours there."""
WORK_PX = 144
"""Longer side of the crop on which GrabCut works; its time grows with the area."""
ITERATIONS = 2
SHRINK = 0.06
"""How much smaller the second box is on each side, as a share of its width and height."""
CORE = 0.2
"""The middle of the box, this share of its sides, is certain foreground: else GrabCut gives everything to the background where
colours are alike (about a quarter of the masks on the clips it was tried on)."""
MIN_PART = 0.1
"""Components smaller than this share of the largest are dropped."""
MIN_FILL = 0.25
"""A mask that fills less of its own bounding box is a scatter of pixels; its score falls in proportion."""


class GrabCut(Segmenter):
    """Box to mask without learned weights; deterministic, because OpenCV's generator is seeded from the pixels and the box."""

    def setup(self, device: str, threads: int) -> None:
        """Pin OpenCV's threads; GrabCut runs on the CPU whatever `device` says."""
        import cv2

        cv2.setNumThreads(threads)

    def segment(self, image: np.ndarray, boxes_xyxy_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) uint8 RGB, boxes (K, 4) -> masks (K, H, W) bool, scores (K,) float32, 0: no mask."""
        masks = np.zeros((len(boxes_xyxy_px), *image.shape[:2]), bool)
        scores = np.zeros(len(boxes_xyxy_px), np.float32)
        for k, box in enumerate(boxes_xyxy_px):
            scores[k] = _segment_one(image, np.asarray(box, np.float64), masks[k])
        return masks, scores


def _segment_one(image: np.ndarray, box: np.ndarray, mask: np.ndarray) -> float:
    """Write the mask of one box into `mask` (H, W) and give its score."""
    import cv2

    height, width = image.shape[:2]
    margin = MARGIN * max(box[2] - box[0], box[3] - box[1])
    left, top = np.floor(np.maximum(box[:2] - margin, 0)).astype(int)
    right, bottom = np.ceil(np.minimum(box[2:] + margin, (width, height))).astype(int)
    if min(right - left, bottom - top) < 4:
        return 0.0
    crop = image[top:bottom, left:right]
    scale = min(1.0, WORK_PX / max(crop.shape[:2]))
    size = np.array([max(4, round(crop.shape[1] * scale)), max(4, round(crop.shape[0] * scale))])
    small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
    inner = (box - (left, top, left, top)) * np.tile(size / (right - left, bottom - top), 2)
    inset = SHRINK * np.array([inner[2] - inner[0], inner[3] - inner[1]])

    first = _grabcut(small, inner)
    second = _grabcut(small, inner + np.concatenate([inset, -inset]))
    small_mask = clean(first)
    if not small_mask.any():
        return 0.0
    smooth = cv2.resize(small_mask.astype(np.float32), (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    mask[top:bottom, left:right] = smooth > 0.5
    return quality(small_mask, clean(second), inner)


def _grabcut(small: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Foreground (h, w) bool, from the box alone: outside it certainly background, in its corners likely so; in its inscribed
    ellipse likely foreground, in the core of that certainly.
    """
    import cv2

    x1, y1, x2, y2 = (round(float(v)) for v in box)
    labels = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    labels[y1:y2, x1:x2] = cv2.GC_PR_BGD
    centre, axes = ((x1 + x2) / 2, (y1 + y2) / 2), np.array([x2 - x1, y2 - y1])
    for share, label in ((1.0, cv2.GC_PR_FGD), (CORE, cv2.GC_FGD)):
        ellipse = np.zeros_like(labels)
        cv2.ellipse(ellipse, (centre, tuple(axes * share), 0), 1, cv2.FILLED)
        labels[(ellipse > 0) & (labels != cv2.GC_BGD)] = label
    background = np.isin(labels, (cv2.GC_BGD, cv2.GC_PR_BGD))
    if min(background.sum(), (~background).sum()) < 8:  # each colour model needs some pixels
        return np.zeros(labels.shape, bool)
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
