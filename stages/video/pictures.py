"""From a decoded frame to the picture that a viewer sees: SDR, upright, with square pixels, of the size of the whole video.

In: a frame, progressive (stages/video/fields.py), and what the video is. Out: RGB for frames of record and training, or 4:2:0
for a re-encoded cut: the same picture.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from stages.video.encode import Colors
from stages.video.orientation import UPRIGHT, orientation_of
from stages.video.source import VideoError
from stages.video.tone import deep_rgb, is_hdr, light_of, tone_mapped

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter

    from stages.video.probe import Probe

SAME_SHAPE = 0.02
"""Pictures whose width / height differ by less than this share have the same shape: sizes are rounded to whole macroblocks."""


def as_displayed(frame: VideoFrame, probe: Probe) -> np.ndarray:
    """(probe.height, probe.width, 3) uint8 RGB, C-contiguous: colours by the frame's own matrix and range.

    A frame of another size than the video's is scaled to it; one of another shape keeps its own, with black bars.
    """
    orientation = orientation_of(frame)
    pixels = _sdr(frame)
    return np.ascontiguousarray(orientation.applied(fitted(pixels, probe, orientation.sides((probe.width, probe.height)))))


def fitted(pixels: np.ndarray, probe: Probe, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 as stored, at `size` (width, height): pixels that are not square get it by width.

    What has another shape gets black bars.
    """
    stored = (pixels.shape[1], pixels.shape[0])
    own = _square(stored, probe.pixel_ratio)
    inner = size if _same_shape(own, size) else _inside(own, size)
    if inner != stored:
        import cv2

        shrinks = inner[0] < stored[0]
        pixels = cv2.resize(pixels, inner, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4)
    if inner == size:
        return pixels
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    return np.pad(pixels, ((top, size[1] - inner[1] - top), (left, size[0] - inner[0] - left), (0, 0)))


def has_shape_of(frame: VideoFrame, probe: Probe) -> bool:
    """Whether the frame fills a picture of the video's size."""
    size = displayed_size(frame, probe.pixel_ratio)
    return _same_shape(size, (probe.width, probe.height))


def several_sizes(probe: Probe) -> VideoError:
    """What to raise where bars would be needed and are not wanted."""
    size = f"{probe.width}x{probe.height}"
    return VideoError(
        "several_sizes",
        f"the picture begins as {size} and has another shape later: give start and end of one part, or re-encode it",
    )


def displayed_size(frame: VideoFrame, sar: Fraction) -> tuple[int, int]:
    """(width, height) of a frame with the sample aspect ratio `sar` when it is upright and its pixels are square."""
    return orientation_of(frame).sides(_square((frame.width, frame.height), sar))


def as_420(frame: VideoFrame, probe: Probe, colors: Colors) -> VideoFrame:
    """A frame as displayed, 8 bit 4:2:0 of limited range in the matrix `colors.space`, which is the frame's own unless it is
    HDR.

    Of even size: an odd one loses its last row or column, so pixels keep their places.
    """
    from av.video.frame import VideoFrame as Picture

    width, height, orientation = probe.width, probe.height, orientation_of(frame)
    if is_hdr(frame):
        rgb = as_displayed(frame, probe)[: height // 2 * 2, : width // 2 * 2]
        picture = Picture.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        return picture.reformat(format="yuv420p", dst_colorspace=colors.space, dst_color_range="MPEG", threads=1)
    if orientation == UPRIGHT and width % 2 == height % 2 == 0:
        return frame.reformat(width, height, "yuv420p", dst_color_range="MPEG", threads=1)
    stored = orientation.sides((width, height))
    planes = frame.reformat(*stored, "yuv444p", dst_color_range="MPEG", threads=1).to_ndarray()  # (3, H, W)
    planes = orientation.applied(planes, axes=(1, 2))[:, : height // 2 * 2, : width // 2 * 2]
    picture = Picture.from_ndarray(np.ascontiguousarray(planes, np.uint8), format="yuv444p")
    picture.colorspace, picture.color_range = frame.colorspace, 1
    return picture.reformat(format="yuv420p", threads=1)


def glimpse(frame: VideoFrame, size: tuple[int, int], scaler: VideoReformatter) -> np.ndarray:
    """(height, width, 3) uint8 RGB: the frame in small, as it is stored, squeezed into `size` (width, height).

    Pixels are picked at twice the size before averaging: three times quicker, and no difference to the check for cuts.
    """
    import cv2

    width, height = size
    hdr = is_hdr(frame)
    form = "rgb48le" if hdr else "rgb24"
    picked = scaler.reformat(frame, 2 * width, 2 * height, form, interpolation="POINT", threads=1).to_ndarray()
    picked = tone_mapped(picked, light_of(frame)) if hdr else picked
    return np.asarray(cv2.resize(picked, size, interpolation=cv2.INTER_AREA))


def grey(frame: VideoFrame, size: tuple[int, int], scaler: VideoReformatter) -> np.ndarray:
    """(height, width) uint8: how bright the frame is, upright, scaled to `size` (width, height) of the displayed picture."""
    orientation = orientation_of(frame)
    width, height = orientation.sides(size)
    small = scaler.reformat(frame, width, height, "gray", interpolation="AREA", threads=1).to_ndarray()
    return np.ascontiguousarray(orientation.applied(small))


def _sdr(frame: VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8 RGB as stored."""
    if is_hdr(frame):
        return tone_mapped(deep_rgb(frame), light_of(frame))
    return frame.reformat(format="rgb24", threads=1).to_ndarray()


def _square(size: tuple[int, int], sar: Fraction) -> tuple[int, int]:
    return size if sar == 1 else (max(1, round(size[0] * sar)), size[1])


def _same_shape(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return abs(a[0] * b[1] - a[1] * b[0]) <= SAME_SHAPE * a[1] * b[0]


def _inside(own: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the shape `own` that lies in `size`."""
    scale = min(size[0] / own[0], size[1] / own[1])
    return max(1, round(own[0] * scale)), max(1, round(own[1] * scale))
