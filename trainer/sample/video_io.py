"""Generated frames to a file that every player shows: H.264 in MP4, 4:2:0, the same bytes for the same frames.

In: frames (T, H, W, 3) uint8 RGB. Out: the file, whole or not at all. An odd last row or column is left out, as 4:2:0 has none.
"""

from __future__ import annotations

from fractions import Fraction
from typing import IO

import av
import numpy as np

from materia.base import storage

CRF = 12
"""x264's constant rate factor: no loss that is seen."""
_BT709 = 1  # of AVColorSpace, AVColorPrimaries and AVColorTransferCharacteristic


def write_mp4(address: str, frames: np.ndarray, fps: float) -> None:
    """Write a clip to a path or fsspec address. Raises ValueError for frames of less than 2 x 2 px, OSError."""
    height, width = (side // 2 * 2 for side in frames.shape[1:3])
    if not len(frames) or not height or not width:
        raise ValueError(f"no video can be made of frames of shape {frames.shape}")
    storage.atomic_write(address, lambda file: _encode(file, frames[:, :height, :width], fps))


def _encode(file: IO[bytes], frames: np.ndarray, fps: float) -> None:
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}) as output:
        stream = output.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        encoder = stream.codec_context
        encoder.height, encoder.width = frames.shape[1:3]
        encoder.pix_fmt = "yuv420p"
        encoder.thread_count = 1  # the number of threads shows in the bytes
        encoder.options = {"preset": "medium", "crf": str(CRF), "flags": "+bitexact"}
        encoder.colorspace = encoder.color_primaries = encoder.color_trc = _BT709
        encoder.color_range = 1  # limited ("MPEG")
        for number, pixels in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            picture.pts = number
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
