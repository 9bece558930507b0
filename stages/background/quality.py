"""How good a background is, where nobody knows the truth: who is left where it was replaced, and whether it is a smear.

In: the picture, what of it was replaced and what of that other frames showed, and what a detector still finds. Out: `Quality`,
numbers that rank backgrounds about as the truth does, measured on walkers (docs/data-quality.md). [ours]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.backends import Detections

RING = 0.05
"""Width of the surroundings that the replaced part is compared with, as a share of the picture's longer side."""
SEAM = 0.005
"""So near to the edge of what was replaced, within and without, nothing is looked at: the seam itself is sharp."""
LEAST_PX = 100
"""Fewer pixels, inside or around, tell nothing."""
NOISE = 0.5
"""Grey levels of the Laplacian that a picture without detail has, so that two such are alike."""
WITHIN = 0.2
"""Share of a box that must have been replaced for what it shows to count as left there."""
INVENTED = 0.5
"""What invented pixels are worth at most, where borrowed ones are worth 1; 0.25 to 0.75 rank about as well."""


@dataclass(frozen=True)
class Quality:
    """Each in [0, 1]. `residual_at_large`: how sure the detector is of anybody where the picture was replaced; None: nobody was
    looked for. `sharpness`: see `sharpness`; None: too little to tell. `overall`: see `assess`."""

    residual_at_large: float | None
    sharpness: float | None
    overall: float


def assess(
    picture: np.ndarray, mask: np.ndarray, borrowed: np.ndarray, residual: dict[str, float], at_large: Detections | None
) -> Quality:
    """`picture` (H, W, 3) uint8 RGB; `mask` (H, W) bool: what was replaced; `borrowed` (H, W) bool: what of it other frames
    showed; `residual`: what the detector finds of each subject word, in [0, 1]; `at_large`: of those that must not be seen.

    Overall is (1 - r) (b + INVENTED (1 - b) s): r, how sure it is that somebody is left; b, the share that is borrowed, for
    that is right; s, the sharpness, for a smear is worth nothing.
    """
    found = None if at_large is None else residual_within(at_large, mask)
    sharp = sharpness(picture, mask)
    share = float(borrowed.sum() / max(1, mask.sum())) if mask.any() else 1.0
    looks = share + (1 - share) * INVENTED * (1.0 if sharp is None else sharp)
    return Quality(found, sharp, round((1 - max([*residual.values(), found or 0.0])) * looks, 4))


def residual_within(found: Detections, mask: np.ndarray) -> float:
    """Best score of any word and any box that lies, by WITHIN, in the mask (H, W) bool."""
    import cv2

    best = found.scores.max(axis=1, initial=0.0)
    sums = cv2.integral(mask.astype(np.uint8))  # (H + 1, W + 1)
    height, width = mask.shape
    score = 0.0
    for box, own in zip(found.boxes_xyxy_px, best.tolist(), strict=True):
        x1, y1 = np.floor(box[:2]).clip(0, (width - 1, height - 1)).astype(int)
        x2, y2 = np.ceil(box[2:]).clip((x1 + 1, y1 + 1), (width, height)).astype(int)
        inside = int(sums[y2, x2]) - int(sums[y1, x2]) - int(sums[y2, x1]) + int(sums[y1, x1])
        if inside >= WITHIN * (x2 - x1) * (y2 - y1):
            score = max(score, own)
    return round(min(1.0, score), 4)


def sharpness(picture: np.ndarray, mask: np.ndarray) -> float | None:
    """Mean absolute Laplacian of the grey picture (H, W, 3) uint8 RGB in the mask (H, W) bool, beside that in a ring around it:
    the lesser by the greater, so that 1 is as sharp, and both a smear and speckles in a smooth place are near 0.

    None where less than LEAST_PX pixels are to be compared.
    """
    import cv2

    if not mask.any():
        return None
    height, width = mask.shape
    ring, seam = (max(1.0, share * max(height, width)) for share in (RING, SEAM))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    reach = int(ring + seam) + 2
    window = np.s_[max(0, rows[0] - reach) : rows[-1] + 1 + reach, max(0, columns[0] - reach) : columns[-1] + 1 + reach]
    own = mask[window].astype(np.uint8)
    detail = np.abs(cv2.Laplacian(cv2.cvtColor(picture[window], cv2.COLOR_RGB2GRAY), cv2.CV_32F))
    away, deep = (cv2.distanceTransform(part, cv2.DIST_L2, 3) for part in (1 - own, own))
    inside, around = detail[deep > seam], detail[(away > seam) & (away <= ring + seam)]
    if min(len(inside), len(around)) < LEAST_PX:
        return None
    levels = sorted((float(inside.mean()) + NOISE, float(around.mean()) + NOISE))
    return round(levels[0] / levels[1], 4)
