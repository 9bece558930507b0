"""Generated frames to a file that every player shows: H.264 in MP4, 4:2:0, the same bytes for the same frames.

In: frames (T, H, W, 3) uint8 RGB. Out: the file, whole or not at all. An odd last row or column is left out, as 4:2:0 has none.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from materia.base import storage
from stages.video.encode import BT709, write_rgb

CRF = 12
"""x264's constant rate factor: no loss that is seen."""


def write_mp4(address: str, frames: np.ndarray, fps: float) -> None:
    """Write a clip to a path or fsspec address. Raises ValueError for frames of less than 2 x 2 px, OSError."""
    height, width = (side // 2 * 2 for side in frames.shape[1:3])
    if not len(frames) or not height or not width:
        raise ValueError(f"no video can be made of frames of shape {frames.shape}")
    frames = frames[:, :height, :width]
    rate = Fraction(fps).limit_denominator(1001)
    storage.atomic_write(address, lambda file: write_rgb(file, frames, size=(width, height), fps=rate, crf=CRF, colors=BT709))
