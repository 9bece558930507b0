"""What a video truly is: geometry as displayed, and the time of every frame.

In: a local path, optionally a range of seconds. Out: an `OpenVideo` (or just its `Probe`). The frames' times come from reading
the packets, which decodes nothing: they are right for MP4, MOV, Matroska, WebM, MPEG-TS and GIF. They are not for AVI (in
decoding order, without display times), VP8 (invisible packets) and files with missing or repeated times: there frames are
counted by decoding once. Frames that no decoder can give, before the first key frame or cut away by an edit list, do not count.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stages.video.source import VideoError, open_container, plain_file

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_PIXELS = 1 << 26
"""Largest picture that is decoded (8K is half of it): a header may claim any size, and memory is reserved for it."""
SEEK_MARGIN_S = 1.0
"""How far before a range reading starts, so that frames shown before, but stored after, the range's key frame are found."""
SQUARE_TOLERANCE = 0.005
"""A sample aspect ratio this close to 1 (640:639) is an encoder's rounding of the size and is not worth a resize."""


class Key(NamedTuple):
    """A key frame, where decoding can start: display and decoding time in ticks of the stream's time base."""

    pts: int
    dts: int


@dataclass(frozen=True)
class Probe:
    """A video (or the range of it) as a viewer gets it.

    `times_s[i]` is when frame i is shown, counted from the first frame, ascending. `width`, `height` are as displayed: after
    sample aspect ratio (`sar`, "num:den") and `rotation` (degrees clockwise). `duration_s` lasts to the end of the last frame;
    `fps` is the mean rate. `damaged`: the container lost data.
    """

    container: str
    codec: str
    pix_fmt: str
    width: int
    height: int
    rotation: int
    sar: str
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


@dataclass(frozen=True)
class Timeline:
    """The frames of the range in display order, in ticks.

    `pts` identifies them, except `by_order`: there frame i is the (`skipped` + i)-th that the decoder puts out from the start.
    `keys` are the key frames to start from; empty: decoding must start at the packet stored first (`first_dts`).
    """

    pts: tuple[int, ...]
    last_duration: int
    first_dts: int = 0
    keys: tuple[Key, ...] = ()
    by_order: bool = False
    skipped: int = 0
    damaged: bool = False


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

    with plain_file(path) as address, open_container(address) as container:
        try:
            stream = _choose_stream(container)
            timeline = _read_timeline(container, stream, start_s, end_s, limit_s)
            if not timeline.pts:
                span = f"start {start_s or 0:g} s, end {end_s or float('inf'):g} s"
                raise VideoError("too_short", f"the video has no frame in the range asked for ({span})")
            described = _describe(address, container, stream, timeline)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError("unreadable", f"the video cannot be decoded: {getattr(error, 'strerror', error)}") from error
        yield OpenVideo(address, container, stream, described, timeline, whole=start_s is None and end_s is None)


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
    context.thread_count = 1  # more threads cost CPU for little time, and workers are many
    return stream


def _read_timeline(
    container: InputContainer, stream: VideoStream, start_s: float | None, end_s: float | None, limit_s: float
) -> Timeline:
    seekable = container.format.name.startswith(("mov", "matroska"))
    trusted = container.format.name != "avi" and stream.codec_context.name not in ("vp8", "libvpx")
    base = _time_base(stream)
    origin = stream.start_time or 0
    first = origin + _ticks(start_s or 0.0, base)
    last = origin + _ticks(min(end_s if end_s is not None else limit_s + 1, (start_s or 0.0) + limit_s + 1), base)
    if seekable and start_s:
        container.seek(max(origin, first - _ticks(SEEK_MARGIN_S, base)), stream=stream)

    keys, pts, damaged, duration, first_dts = [], [], False, 0, None
    for packet in container.demux(stream):
        if not packet.size:
            continue
        first_dts = packet.dts if first_dts is None else first_dts
        damaged |= packet.is_corrupt
        trusted &= packet.pts is not None
        if packet.is_keyframe and packet.pts is not None:
            keys.append(Key(packet.pts, packet.pts if packet.dts is None else packet.dts))
        if keys and packet.pts is not None and not packet.is_discard:
            pts.append(packet.pts)
            duration = packet.duration or duration
        if packet.dts is not None and packet.dts >= last:
            break
    if not trusted or len(set(pts)) < len(pts):
        return _count_by_decoding(
            container, stream, first if start_s else None, last, Timeline((), 0, first_dts or 0, damaged=damaged)
        )
    # HEVC decoders drop what is shown before the first key frame; for H.264 only broken pictures would come out
    shown = sorted(tick for tick in pts if max(first if start_s else tick, keys[0].pts) <= tick < last)
    return Timeline(tuple(shown), duration, first_dts or 0, tuple(keys) if seekable else (), damaged=damaged)


def _count_by_decoding(
    container: InputContainer, stream: VideoStream, first: int | None, last: int, read: Timeline
) -> Timeline:
    """The timeline of a file whose packets say too little: one decoding pass from the start that keeps no picture."""
    rewind(container, stream, read)
    base, rate = _time_base(stream), stream.average_rate or stream.guessed_rate or Fraction(25)
    step = max(1, round(1 / (rate * base)))
    ticks: list[int | None] = []
    for _, frame in decoded(container.demux(stream)):
        ticks.append(frame.pts)
        if len(ticks) * step > last:
            break
    known = [tick for tick in ticks if tick is not None]
    ascending = len(known) == len(ticks) and all(a < b for a, b in pairwise(known))
    by_order = container.format.name == "avi" or not ascending
    every = [round(index / (rate * base)) for index in range(len(ticks))] if by_order else known
    skipped = sum(first is not None and tick < first for tick in every)
    shown = tuple(tick for tick in every[skipped:] if tick < last)
    return replace(read, pts=shown, last_duration=step, by_order=by_order, skipped=skipped)


def decoded(packets: Iterator[Packet[VideoStream]]) -> Iterator[tuple[bool, VideoFrame]]:
    """(damaged, frame) of every frame that the decoder gives; packets that it refuses are passed over and taint the next."""
    import av

    broken = False
    for packet in packets:
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            broken = True
            continue
        for frame in frames:
            yield broken or frame.is_corrupt, frame
            broken = False


def rewind(container: InputContainer, stream: VideoStream, timeline: Timeline) -> None:
    """Back to the first packet that was read, key frame or not; may land before it."""
    container.seek(min(0, timeline.first_dts) if not timeline.keys else timeline.first_dts, stream=stream, any_frame=True)


def _describe(address: str, container: InputContainer, stream: VideoStream, timeline: Timeline) -> Probe:
    base = _time_base(stream)
    context = stream.codec_context
    frame = _some_frame(container, stream, timeline)
    rotation = round(-frame.rotation / 90) * 90 % 360
    ratio = stream.sample_aspect_ratio or Fraction(1)
    sar = ratio if abs(ratio - 1) > SQUARE_TOLERANCE and Fraction(1, 8) <= ratio <= 8 else Fraction(1)
    width, height = max(1, round(context.width * sar)), context.height
    if rotation in (90, 270):
        width, height = height, width
    return Probe(
        container=_container_name(address, container),
        codec=context.codec.canonical_name,
        pix_fmt=context.pix_fmt or frame.format.name,
        width=width,
        height=height,
        rotation=rotation,
        sar=f"{sar.numerator}:{sar.denominator}",
        times_s=tuple(float((tick - timeline.pts[0]) * base) for tick in timeline.pts),
        duration_s=float((timeline.pts[-1] - timeline.pts[0] + _last_duration(timeline)) * base),
        damaged=timeline.damaged,
    )


def _some_frame(container: InputContainer, stream: VideoStream, timeline: Timeline) -> VideoFrame:
    """Any decoded picture: rotation is told only there."""
    rewind(container, stream, timeline)
    for _, frame in decoded(container.demux(stream)):
        return frame
    raise VideoError("unreadable", "no picture of the video can be decoded")


def _last_duration(timeline: Timeline) -> int:
    """How long the last frame is shown: what its packet says unless that is absurd, else as long as the one before."""
    pts = timeline.pts
    before = pts[-1] - pts[-2] if len(pts) > 1 else timeline.last_duration or 1
    return timeline.last_duration if 0 < timeline.last_duration <= 4 * before else before


def _container_name(address: str, container: InputContainer) -> str:
    """The short name that the file deserves by its bytes, whatever it is called."""
    name = container.format.name
    if name.startswith("mov"):
        return "mov" if container.metadata.get("major_brand", "qt").strip() == "qt" else "mp4"
    if name.startswith("matroska"):
        with Path(address).open("rb") as file:
            return "webm" if b"webm" in file.read(64) else "mkv"  # DocType of the EBML header
    return {"mpegts": "ts"}.get(name, name)


def _time_base(stream: VideoStream) -> Fraction:
    return stream.time_base or Fraction(1, 90000)


def _ticks(seconds: float, base: Fraction) -> int:
    """Seconds in ticks, at most what a 64-bit clock holds."""
    return round(min(seconds / float(base), 2.0**62))
