"""What a video truly is: geometry as displayed, light, and the time of every frame.

In: a local path, optionally a range of seconds. Out: an `OpenVideo` (or just its `Probe`). Times come from the packets
(timeline.py); size, orientation, light and interlacing from a decoded picture, as only that tells them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING

from stages.video.orientation import orientation_of
from stages.video.pictures import displayed_size
from stages.video.signature import mp4_problem
from stages.video.source import VideoError, open_container, plain_file
from stages.video.timeline import Key, Timeline, decoded, read_timeline, rewind, time_base
from stages.video.tone import is_hdr

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_PIXELS = 1 << 26
"""Largest picture that is decoded (8K is half of it): a header may claim any size, and memory is reserved for it."""
SQUARE_TOLERANCE = 0.005
"""A sample aspect ratio this close to 1 (640:639) is an encoder's rounding of the size and is not worth a resize."""


@dataclass(frozen=True)
class Probe:
    """A video (or the range of it) as a viewer gets it.

    `times_s[i]` is when frame i is shown, counted from the first frame, ascending. `width`, `height` are as displayed: after
    sample aspect ratio (`sar`, "num:den") and orientation: `mirrored` left to right, then by `rotation` (degrees clockwise).
    `tilt_deg`: by how much more its display matrix would turn it, which is not done.
    `hdr`, `interlaced`: so is the first picture. `duration_s` lasts to the end of the last frame; `fps` is the mean rate.
    `damaged`: the container lost data.
    """

    container: str
    codec: str
    pix_fmt: str
    width: int
    height: int
    rotation: int
    mirrored: bool
    tilt_deg: int
    sar: str
    hdr: bool
    interlaced: bool
    times_s: tuple[float, ...]
    duration_s: float
    damaged: bool

    @property
    def n_frames(self) -> int:
        """Counted, never read from a header."""
        return len(self.times_s)

    @property
    def fps(self) -> float:
        """Mean frames per second between the first and the last frame; of a single frame, 1 / its duration."""
        if self.n_frames > 1:
            return (self.n_frames - 1) / (self.times_s[-1] - self.times_s[0])
        return 1 / self.duration_s

    @cached_property
    def pixel_ratio(self) -> Fraction:
        """Width / height of a stored pixel: `sar` as a number."""
        return Fraction(self.sar.replace(":", "/"))


@dataclass(frozen=True)
class OpenVideo:
    """A probed video with its container still open. `whole`: no range was asked for. `address` opens it again."""

    address: str
    input: InputContainer
    stream: VideoStream
    probe: Probe
    timeline: Timeline
    whole: bool


def probe(path: str | os.PathLike[str]) -> Probe:
    """Probe a local file; raises VideoError."""
    with open_video(path) as video:
        return video.probe


@contextmanager
def open_video(
    path: str | os.PathLike[str], start_s: float | None = None, end_s: float | None = None, limit_s: float = float("inf")
) -> Iterator[OpenVideo]:
    """Open and probe a local video, or the frames of it in [start_s, end_s).

    Nothing is read beyond `limit_s` seconds of it: a longer one shows as longer than `limit_s`. Raises VideoError
    (`unreadable`, `no_video_stream`, and `too_short` if no frame lies in the range).
    """
    import av

    whole = start_s is None and end_s is None
    with plain_file(path) as address, open_container(address) as container:
        try:
            stream = _choose_stream(container)
            timeline = read_timeline(container, stream, start_s, end_s, limit_s)
            if not timeline.pts:
                span = f"in the range asked for (start {start_s or 0:g} s, end {end_s or float('inf'):g} s)"
                raise VideoError("too_short", f"the video has no frame{'' if whole else f' {span}'}")
            described = _describe(address, container, stream, timeline)
        except (av.FFmpegError, ValueError) as error:
            failed = VideoError("unreadable", f"the video cannot be decoded: {getattr(error, 'strerror', error)}")
            raise _explained(failed, address, whole) from error
        except VideoError as error:
            raise _explained(error, address, whole) from error
        yield OpenVideo(address, container, stream, described, timeline, whole)


def _explained(error: VideoError, address: str, whole: bool) -> VideoError:
    """The error; of an MP4 that lacks a part, this says so: half an index shows as a file without streams or frames."""
    problem = mp4_problem(address)
    if problem is None:
        return error
    if error.reason == "too_short" and not whole:
        return VideoError("too_short", f"{error}; it is {problem}")
    return VideoError("unreadable", problem)


def _choose_stream(container: InputContainer) -> VideoStream:
    """The default video stream, else the first; never a cover picture."""
    from av.stream import Disposition

    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise VideoError("no_video_stream", "the file has no video stream (audio only, or a cover picture)")
    stream = max(streams, key=lambda stream: bool(stream.disposition & Disposition.default))
    context = stream.codec_context
    if context is None or not 0 < context.width * context.height <= MAX_PIXELS:
        raise VideoError("unreadable", f"the picture size is not usable (0 or more than {MAX_PIXELS} pixels, or codec unknown)")
    context.options = {"max_pixels": str(MAX_PIXELS)}  # a later picture may claim another size
    context.thread_count = 1  # more threads cost CPU for little time, and workers are many
    return stream


def _describe(address: str, container: InputContainer, stream: VideoStream, timeline: Timeline) -> Probe:
    base = time_base(stream)
    frame = _some_frame(container, stream, timeline)
    orientation = orientation_of(frame)
    ratio = stream.sample_aspect_ratio or Fraction(1)
    sar = ratio if abs(ratio - 1) > SQUARE_TOLERANCE and Fraction(1, 8) <= ratio <= 8 else Fraction(1)
    width, height = displayed_size(frame, sar)
    return Probe(
        container=_container_name(address, container),
        codec=stream.codec_context.codec.canonical_name,
        pix_fmt=stream.codec_context.pix_fmt or frame.format.name,
        width=width,
        height=height,
        rotation=orientation.rotation,
        mirrored=orientation.mirrored,
        tilt_deg=orientation.tilt_deg,
        sar=f"{sar.numerator}:{sar.denominator}",
        hdr=is_hdr(frame),
        interlaced=frame.interlaced_frame,
        times_s=tuple(float((tick - timeline.pts[0]) * base) for tick in timeline.pts),
        duration_s=float((timeline.pts[-1] - timeline.pts[0] + timeline.last_shown) * base),
        damaged=timeline.damaged,
    )


def _some_frame(container: InputContainer, stream: VideoStream, timeline: Timeline) -> VideoFrame:
    """A picture like the first of the range: that of the key frame before it, else whichever can be decoded."""
    for lead in dict.fromkeys((timeline.lead, None)):
        rewind(container, stream, timeline)
        for _, frame in decoded(_from(lead, container.demux(stream))):
            return frame
    raise VideoError("unreadable", "no picture of the video can be decoded")


def _from(key: Key | None, packets: Iterator[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
    return packets if key is None else dropwhile(lambda packet: packet.pts != key.pts, packets)


def _container_name(address: str, container: InputContainer) -> str:
    """The short name that the file deserves by its bytes, whatever it is called."""
    name = container.format.name
    if name.startswith("mov"):
        return "mov" if container.metadata.get("major_brand", "qt").strip() == "qt" else "mp4"
    if name.startswith("matroska"):
        with Path(address).open("rb") as file:
            return "webm" if b"webm" in file.read(64) else "mkv"  # DocType of the EBML header
    return {"mpegts": "ts", "mpeg": "mpg", "asf": "wmv"}.get(name, name)
