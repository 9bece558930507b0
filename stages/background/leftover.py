"""Who is masked in part only: there the background's mask reaches further.

In: a sample whose middle frame is masked, and what a detector still finds on a drawing. Out: larger masks. A segmenter that
knows colours takes half a dog for the dog, and its score says how sure it is; a reference of that may serve, a background with
the other half does not. [ours]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stages.backends import Detections
from stages.boxes import iou
from stages.images import decode_mask
from stages.records import MIDDLE, Box, Instance, Sample

SURE = 0.8
"""Score of a mask from which on it is taken to hold all of its individual."""
REACH = 2.0
"""What a mask is taken to miss, in longer sides of its box for each unit of score below SURE: below 0.5, most of the box."""
GROWN = 0.05
"""Boxes are taken to be larger by so much on each side, as a share of it: an ear, a paw or a tail looks out of them."""
SAME_PLACE = 0.6
"""Intersection over union from which on an object is somebody: an animal that the caption names as an object."""
WITHIN, BEYOND = 0.05, 0.2
"""Least shares of a box in which somebody is found again that were replaced, and that were not. With less, they are elsewhere,
or what was invented looks like them, and a larger mask is no help."""
PART = 2 / 3
"""Their box is no larger than this share of what was replaced: a part of somebody is smaller than who was hidden."""


def unsure(sample: Sample, size: tuple[int, int], share: float = 1.0) -> np.ndarray:
    """(H, W) bool: where those may be seen whose mask in the middle frame, of `size`, is not sure, or who have none.

    `share`: of REACH and GROWN, where all of it would leave too little.
    """
    wide = np.zeros(size, bool)
    own = {one.box_xyxy_px: one for one in sample.instances if one.frame == MIDDLE and not one.is_face}
    for box in _somebody(sample):
        instance = own.get(box.box_xyxy_px)
        if instance is None:
            wide |= _within(box.box_xyxy_px, size, share * GROWN)
        elif instance.mask_score < SURE:
            near = _near(instance, share * REACH * (SURE - instance.mask_score))
            wide |= near & _within(box.box_xyxy_px, size, share * GROWN)
    return wide


def _somebody(sample: Sample) -> Iterator[Box]:
    """The chosen boxes of the middle frame that show somebody, whatever the caption makes of them."""
    found = _corners(sample.bystanders)
    for box in sample.boxes:
        alive = box.category == "subject" or (iou(_corners([box]), found) >= SAME_PLACE).any()
        if box.frame == MIDDLE and box.chosen and alive:
            yield box


def _corners(boxes: Sequence[Box]) -> np.ndarray:
    return np.array([box.box_xyxy_px for box in boxes], np.float32).reshape(-1, 4)


def _within(box: Sequence[float], size: tuple[int, int], grown: float = 0.0) -> np.ndarray:
    """(height, width) bool: the pixels of a box (4,), larger by a share of its sides on each."""
    x1, y1, x2, y2 = box
    dx, dy = grown * (x2 - x1), grown * (y2 - y1)
    left, top, right, bottom = (max(0, round(v)) for v in (x1 - dx, y1 - dy, x2 + dx, y2 + dy))
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def _near(instance: Instance, reach: float) -> np.ndarray:
    """(H, W) bool: what is no farther from the instance's mask than the share `reach` of its box's longer side."""
    import cv2

    x1, y1, x2, y2 = instance.box_xyxy_px
    away = cv2.distanceTransform((~decode_mask(instance.mask_rle)).astype(np.uint8), cv2.DIST_L2, 3)
    near: np.ndarray = away <= reach * max(x2 - x1, y2 - y1)
    return near


def found_again(found: Sequence[Detections], mask: np.ndarray, above: float) -> np.ndarray:
    """(H, W) bool: boxes of whom a detector is surer than `above` on a drawing, in part in the `mask` (H, W) bool that was
    replaced, in part not, and smaller than that; empty if there are none.
    """
    left = np.zeros_like(mask)
    for one in found:
        for box in one.boxes_xyxy_px[one.scores.max(axis=1, initial=0.0) > above].tolist():
            there = _within(box, mask.shape)
            replaced = mask[there].mean() if there.any() else 0.0
            if WITHIN <= replaced <= 1 - BEYOND and there.sum() <= PART * mask.sum():
                left |= there
    return left
