"""Who a pixel belongs to: masks of one frame, drawn one by one, made to exclude each other.

In: a frame and the masks of its instances, which overlap. Out: masks that do not. [ours] Of two masks that are about the same,
the one that the detector is surer of keeps all of it; of one that lies in another, the part in common is the smaller one's, as
a thing held is in front of who holds it; where two cross, as rider and horse, each pixel goes to the one that it is nearer to,
in colour and in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from stages.images import colour_numbers, mask_extent

SAME_SHARE = 0.6
"""Intersection over union from which on two masks are of one thing."""
INSIDE_SHARE = 0.7
"""Share of the smaller mask from which on it lies in the larger one."""
FEWEST_OWN = 0.1
"""A mask with less of it outside of the other one does not tell what colours are its own."""
STRAY_SHARE, CRUMB_SHARE = 0.7, 0.1
"""A separate part of a mask is a stray if so much of it lies in another instance's box, and the mask's largest part does not;
and a crumb if it is smaller than so much of the largest part."""
WORK_PX = 256
"""Longer side of what two masks cover, at which their pixels are told apart."""
COLOURS = (8, 12, 12)
"""Bins, see stages.images.colour_numbers."""
PLACE_WEIGHT = 1.0
"""What it counts, in nats, that a pixel touches what is one's own alone and is far from what is the other's."""
SMOOTH_PX = 4.0
"""Pixels are told apart together with those around them; deviation of a Gaussian, at WORK_PX."""


class Shared(NamedTuple):
    """`masks` (K, H, W) bool, of which none overlap; `overlap` (K,) float: share of each mask, as it was, in any other."""

    masks: np.ndarray
    overlap: list[float]


def share_out(rgb: np.ndarray, masks: np.ndarray, boxes: np.ndarray, scores: Sequence[float]) -> Shared:
    """`rgb` (H, W, 3) uint8; `masks` (K, H, W) bool; `boxes` (K, 4) xyxy in pixels; `scores`: how sure the detector is of each.

    Among equals the earlier one keeps what both have.
    """
    depth = masks.sum(axis=0)
    overlap = [float((depth[mask] > 1).mean()) if mask.any() else 0.0 for mask in masks]
    own = masks.copy()
    for a, b in combinations(range(len(own)), 2):
        common = own[a] & own[b]
        if common.any():
            first = _firsts(rgb, own[a], own[b], common, scores[a] >= scores[b])
            own[a] &= ~common | first
            own[b] &= ~first
    parts = [_without_strays(mask, np.delete(boxes, k, axis=0)) for k, mask in enumerate(own)]
    return Shared(np.stack(parts) if parts else own, overlap)


def _firsts(rgb: np.ndarray, a: np.ndarray, b: np.ndarray, common: np.ndarray, a_is_surer: bool) -> np.ndarray:
    """(H, W) bool: what of `common`, the part that masks a and b share, is a's."""
    n, n_a, n_b = int(common.sum()), int(a.sum()), int(b.sum())
    if n >= SAME_SHARE * (n_a + n_b - n):
        return common if a_is_surer else np.zeros_like(common)
    if n >= INSIDE_SHARE * min(n_a, n_b) or min(1 - n / n_a, 1 - n / n_b) < FEWEST_OWN:
        return common if n_a <= n_b else np.zeros_like(common)
    return _nearer(rgb, a & ~common, b & ~common, common)


def _nearer(rgb: np.ndarray, a: np.ndarray, b: np.ndarray, common: np.ndarray) -> np.ndarray:
    """(H, W) bool: what of `common` looks like a, and lies by it, rather than like b; what is of one only is not empty."""
    import cv2

    x1, y1, x2, y2 = mask_extent(a | b)
    window = np.s_[y1:y2, x1:x2]
    size = (x2 - x1, y2 - y1)
    scale = min(1.0, WORK_PX / max(size))
    small = [max(1, round(side * scale)) for side in size]
    picture = cv2.resize(rgb[window], small, interpolation=cv2.INTER_AREA)
    own = [cv2.resize(mask[window].astype(np.uint8), small, interpolation=cv2.INTER_NEAREST) > 0 for mask in (a, b)]
    colours = colour_numbers(picture, COLOURS)
    counts = [np.bincount(colours[mask], minlength=int(np.prod(COLOURS))) + 0.5 for mask in own]
    looks = np.log(counts[0] / counts[0].sum()) - np.log(counts[1] / counts[1].sum())
    away = [cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3) for mask in own]
    place = (away[1] - away[0]) / np.maximum(away[0] + away[1], 1e-3)
    evidence = cv2.GaussianBlur((looks[colours] + PLACE_WEIGHT * place).astype(np.float32), (0, 0), SMOOTH_PX)
    nearer = np.zeros_like(common)
    nearer[window] = common[window] & (cv2.resize(evidence, size, interpolation=cv2.INTER_LINEAR) > 0)
    return nearer


def _without_strays(mask: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(H, W) bool: without crumbs, and without separate parts that lie in another instance's box, (K - 1, 4)."""
    import cv2

    n, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if n <= 2:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA].astype(float)
    main = 1 + int(areas[1:].argmax())
    kept = areas >= CRUMB_SHARE * areas[main]
    for x1, y1, x2, y2 in np.rint(others).astype(int).clip(0):
        inside = np.bincount(labels[y1:y2, x1:x2].ravel(), minlength=n) / areas
        kept &= (inside < STRAY_SHARE) | (inside[main] >= STRAY_SHARE)
    left: np.ndarray = mask & kept[labels]
    return left
