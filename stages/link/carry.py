"""Where an individual is in a frame in which the detector did not find it: carried there by the points on it.

In: its box in another frame, and the points that were followed from that frame. Out: its box here, or nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stages.link.evidence import inside

FEWEST_POINTS, LEAST_INSIDE = 8, 0.3
"""Least points that a box is carried by: those on the individual, which lie so far inside the box (evidence.inside)."""
LEAST_SHARE = 0.5
"""Share of these that must move together."""
TOLERANCE = 0.03
"""How far from where the others take them they may end, in diagonals of the box."""
MOST_SCALE = 2.0
"""How many times larger or smaller it may become."""
LEAST_SEEN = 0.5
"""Share of the carried box that must lie in the picture."""


class Carried(NamedTuple):
    """`box` (4,) float32 xyxy within the picture, and the `share` of points that went there together."""

    box: np.ndarray
    share: float


def carry(box: np.ndarray, points: np.ndarray, size: tuple[int, int]) -> Carried | None:
    """`box` (4,) in a frame; `points` (K, 4): x, y there and x, y in the other frame, whose `size` is (height, width)."""
    import cv2

    on_it = points[inside(box[None], points[:, :2])[0] >= LEAST_INSIDE]
    start, end = on_it[:, :2].astype(np.float64), on_it[:, 2:].astype(np.float64)
    if len(on_it) < FEWEST_POINTS:
        return None
    tolerance = TOLERANCE * float(np.linalg.norm(box[2:] - box[:2]))
    matrix, together = cv2.estimateAffinePartial2D(start, end, method=cv2.RANSAC, ransacReprojThreshold=tolerance)
    if matrix is None or not np.isfinite(matrix).all():
        return None
    share, scale = float(together.mean()), float(np.hypot(*matrix[:, 0]))
    if share < LEAST_SHARE or not 1 / MOST_SCALE <= scale <= MOST_SCALE:
        return None
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * scale
    middle = matrix[:, :2] @ middle + matrix[:, 2]
    there = np.concatenate([middle - half, middle + half])
    seen = there.clip(0, [size[1], size[0], size[1], size[0]]).astype(np.float32)
    if (seen[2:] - seen[:2]).prod() < LEAST_SEEN * (there[2:] - there[:2]).prod():
        return None
    return Carried(seen, share)
