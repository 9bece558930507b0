"""Masks as KEY.json holds them, decoded in numpy with bounds checked: shards may be damaged or hostile."""

from __future__ import annotations

import numpy as np


def decode_rle(counts: str, size: tuple[int, int]) -> np.ndarray | None:
    """COCO's compressed run-length code -> mask (H, W) bool; None if the runs do not add up to `size` (height, width).

    A run is a base-32 number, least digits first: character - 48, bit 5 says that more follow, bit 4 of the last is the
    sign; from the fourth run on it is the difference to the run two places before. Columns follow each other.
    """
    height, width = size
    runs: list[int] = []
    value = shift = total = 0
    for character in counts:
        digit = ord(character) - 48
        value |= (digit & 31) << shift
        shift += 5
        if shift > 60:
            return None
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        run = value + (runs[-2] if len(runs) > 2 else 0)
        total += run
        if run < 0 or total > height * width:
            return None
        runs.append(run)
        value = shift = 0
    if shift or total != height * width:
        return None
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
