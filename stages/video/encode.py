"""Writing H.264 in MP4: the one way in which everything here encodes.

In: pictures with their times, or RGB arrays. Out: the file. One thread and no version in any header: the same pictures give the
same bytes. 4:2:0, 8 bit, limited ("MPEG") range, which every player shows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_LIMITED = 1  # of AVColorRange


class Colors(NamedTuple):
    """How players make RGB of pictures, in the numbers of AVColorSpace, AVColorPrimaries and AVColorTransferCharacteristic."""

    space: int
    primaries: int
    transfer: int


BT709 = Colors(1, 1, 1)


def write_h264(
    target: Path | IO[bytes],
    pictures: Iterable[VideoFrame],
    *,
    size: tuple[int, int],
    rate: Fraction | int,
    crf: int,
    time_base: Fraction | None = None,
    preset: str = "medium",
    tune: str | None = None,
    gop: int | None = None,
    colors: Colors | None = None,
) -> int:
    """Encode pictures, one after the other, and give their number.

    `size` (width, height) is even. A picture's `pts` counts `time_base`s, or pictures if there is none; `rate` is only told to
    players. `crf`, `preset`, `tune` are x264's, `gop` the most pictures between two that stand alone; `colors` are told, no
    picture is converted but to 4:2:0.
    """
    import av

    options = {"fflags": "+bitexact", "movflags": "+faststart"}
    with av.open(str(target) if isinstance(target, Path) else target, "w", format="mp4", options=options) as output:
        stream = output.add_stream("libx264", rate=rate)
        encoder = stream.codec_context
        encoder.width, encoder.height = size
        encoder.pix_fmt = "yuv420p"
        encoder.thread_count = 1  # the number of threads shows in the bytes
        encoder.options = {"preset": preset, "crf": str(crf), "flags": "+bitexact"} | ({"tune": tune} if tune else {})
        if _has_avx512():
            encoder.options = {**encoder.options, "x264-params": "asm=avx2"}
        if time_base is not None:
            encoder.time_base = stream.time_base = time_base
        if gop is not None:
            encoder.gop_size = gop
        if colors is not None:
            encoder.colorspace, encoder.color_primaries, encoder.color_trc = colors
            encoder.color_range = _LIMITED
        count = 0
        for picture in pictures:
            output.mux(stream.encode(picture))
            count += 1
        output.mux(stream.encode(None))
    return count


def write_rgb(
    target: Path | IO[bytes],
    frames: Iterable[np.ndarray],
    *,
    size: tuple[int, int],
    fps: Fraction | int,
    crf: int,
    preset: str = "medium",
    colors: Colors | None = None,
) -> None:
    """Encode (H, W, 3) uint8 RGB arrays of the even `size` (width, height); `colors`: BT709, or None for what FFmpeg does."""
    write_h264(target, _pictures(frames, colors is not None), size=size, rate=fps, crf=crf, preset=preset, colors=colors)


@functools.cache
def _has_avx512() -> bool:
    """With x264's AVX-512 code (builds 164, 165) files of some sizes differ from run to run, through its tree of macroblocks.

    Its AVX2 code, which such a processor can run too, gives the same bytes every time. Seen on Intel Xeon; mbtree=0 would
    mend it as well, but costs twice the bytes.
    """
    cpu = Path("/proc/cpuinfo")
    return cpu.exists() and "avx512" in cpu.read_text(errors="replace")


def _pictures(frames: Iterable[np.ndarray], bt709: bool) -> Iterator[VideoFrame]:
    from av.video.frame import VideoFrame as Picture

    for index, pixels in enumerate(frames):
        picture = Picture.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        if bt709:
            picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        picture.pts = index
        yield picture
