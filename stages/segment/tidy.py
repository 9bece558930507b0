"""Specks and holes of a mask, ruled by shares of its size, for whatever model drew it.

In and out: a mask of one instance. Off in the default settings: not every mask wants it (a net is full of holes).
"""

from __future__ import annotations

import numpy as np

from stages.images import mask_extent


def tidy(mask: np.ndarray, min_part_share: float, max_hole_share: float) -> np.ndarray:
    """Mask (H, W) bool -> without its small parts, with its small holes filled.

    Parts (8-connected) of less than `min_part_share` of the largest part's area go: 0 keeps all, 1 the largest only.
    Holes (4-connected background that does not touch the picture's edge) of at most `max_hole_share` of the area that remains
    are filled.
    """
    if not mask.any() or not (min_part_share or max_hole_share):
        return mask
    x1, y1, x2, y2 = mask_extent(mask)
    part = mask[y1:y2, x1:x2]  # background that reaches the extent's edge goes on outside, or touches the picture's: no hole
    if min_part_share:
        part = _without_small_parts(part, min_part_share)
    if max_hole_share:
        part = part | _holes(part, max_hole_share * part.sum())
    tidied = np.zeros_like(mask)
    tidied[y1:y2, x1:x2] = part
    return tidied


def _without_small_parts(mask: np.ndarray, min_share: float) -> np.ndarray:
    labels, areas = _components(mask, connectivity=8)
    areas[0] = 0
    kept: np.ndarray = (areas >= min_share * areas.max())[labels]
    return kept


def _holes(mask: np.ndarray, max_area: float) -> np.ndarray:
    labels, areas = _components(~mask, connectivity=4)
    small = areas <= max_area
    small[0] = False  # the mask itself
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        small[edge] = False
    holes: np.ndarray = small[labels]
    return holes


def _components(mask: np.ndarray, connectivity: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (H, W), 0 outside the mask, and the area of each label in pixels."""
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    return labels, stats[:, cv2.CC_STAT_AREA]
