"""When every frame of a video is shown, and from where it can be decoded.

In: an open container, optionally a range of seconds. Out: a `Timeline`. The frames' times come from reading the packets, which
decodes nothing: they are right for MP4, MOV, Matroska, WebM, MPEG-TS and GIF. They are not for AVI (in decoding order, without
display times), VP8 (invisible packets), files with missing or repeated times, and raw H.264 that was copied into a container
(its times follow the order of decoding): there frames are counted by decoding once. Frames that no decoder can give, before
the first key frame or cut away by an edit list, do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

SEEK_MARGIN_S = 1.0
"""How far before a range reading starts, so that frames shown before, but stored after, the range's key frame are found."""
CLOCK_S = 1e-6
"""A container's start is told in microseconds, so a frame this much before the start of a range lies in it."""
RAW_WITHOUT_TIMES = ("h264", "hevc", "vvc")
"""Codecs whose raw streams get no times of showing when they are copied: libavformat tells their order only by decoding."""
MOST_REORDERED = 16
"""Frames that a decoder may hold back at most (H.264, annex A.3: max_num_reorder_frames)."""


class Key(NamedTuple):
    """A key frame, where decoding can start: display and decoding time in ticks of the stream's time base."""

    pts: int
    dts: int


@dataclass(frozen=True)
class Timeline:
    """The frames of the range in display order, in ticks.

    `pts` identifies them, except `by_order`: there frame i is the (`skipped` + i)-th that the decoder puts out from the start.
    `keys` are the key frames to start from; empty: decoding must start at the packet stored first (`first_dts`). `lead`: the
    last key frame shown at or before the first frame. `timed`: every packet tells when its picture is shown.
    """

    pts: tuple[int, ...]
    last_duration: int
    first_dts: int = 0
    keys: tuple[Key, ...] = ()
    lead: Key | None = None
    timed: bool = False
    by_order: bool = False
    skipped: int = 0
    damaged: bool = False

    @property
    def last_shown(self) -> int:
        """How long the last frame is shown: what its packet says unless that is absurd, else as long as the one before."""
        before = self.pts[-1] - self.pts[-2] if len(self.pts) > 1 else self.last_duration or 1
        return self.last_duration if 0 < self.last_duration <= 4 * before else before


def read_timeline(
    container: InputContainer, stream: VideoStream, start_s: float | None, end_s: float | None, limit_s: float
) -> Timeline:
    """The frames in [start_s, end_s), of at most about `limit_s` seconds; without a picture if there is none there."""
    seekable = container.format.name.startswith(("mov", "matroska"))
    trusted = container.format.name != "avi" and stream.codec_context.name not in ("vp8", "libvpx")
    base, origin = time_base(stream), stream.start_time or 0
    first, last = _span(container, stream, start_s, end_s, limit_s)
    if seekable and first is not None:
        container.seek(max(origin, first - _ticks(SEEK_MARGIN_S, base)), stream=stream)

    keys, pts, damaged, timed, duration, first_dts = [], [], False, True, 0, None
    for packet in container.demux(stream):
        if not packet.size:
            continue
        first_dts = packet.dts if first_dts is None else first_dts
        damaged |= packet.is_corrupt
        timed &= packet.pts is not None
        if packet.is_keyframe and packet.pts is not None:
            keys.append(Key(packet.pts, packet.pts if packet.dts is None else packet.dts))
        if keys and packet.pts is not None and not packet.is_discard:
            pts.append(packet.pts)
            duration = packet.duration or duration
        if packet.dts is not None and packet.dts >= last:
            break
    timed &= len(set(pts)) == len(pts)
    read = Timeline((), duration, first_dts or 0, damaged=damaged, timed=timed)
    if timed and trusted:
        # HEVC decoders drop what is shown before the first key frame; for H.264 only broken pictures would come out
        begin = max([keys[0].pts] if first is None else [first, keys[0].pts]) if keys else last
        shown = tuple(sorted(tick for tick in pts if begin <= tick < last))
        lead = next((key for key in sorted(keys, reverse=True) if shown and key.pts <= shown[0]), None)
        told = replace(read, pts=shown, keys=tuple(keys) if seekable else (), lead=lead)
        context = stream.codec_context
        may_mislead = context.name in RAW_WITHOUT_TIMES and context.has_b_frames and pts == sorted(pts)
        if not may_mislead or _comes_in_order(container, stream, told):
            return told
    return _count_by_decoding(container, stream, first, last, read)


def _span(
    container: InputContainer, stream: VideoStream, start_s: float | None, end_s: float | None, limit_s: float
) -> tuple[int | None, int]:
    """(first, last) tick of the range, the last exclusive; first is None for the video's first frame, whenever it is shown.

    Seconds of a range count as in players and `ffmpeg -ss`: from the container's start, which may be another stream's.
    """
    base, origin = time_base(stream), stream.start_time or 0
    zero = origin if container.start_time is None else round(Fraction(container.start_time, 1_000_000) / base)
    slack = _ticks(CLOCK_S, base)
    first = zero + _ticks(start_s, base) - slack if start_s else None
    last = (origin if first is None else max(first, origin)) + _ticks(limit_s + 1, base)
    return first, last if end_s is None else min(last, zero + _ticks(end_s, base) - slack)


def _comes_in_order(container: InputContainer, stream: VideoStream, timeline: Timeline) -> bool:
    """Whether pictures leave the decoder in the order of their times.

    Raw H.264 that was copied into a container has the times of decoding for those of showing. A codec that may reorder pictures
    and packets in plain order look the same in a clip that just has no B-frames, so only decoding tells.
    """
    rewind(container, stream, timeline)
    before: int | None = None
    for _, frame in decoded(container.demux(stream)):
        if frame.pts is None or (before is not None and frame.pts <= before):
            return False
        if not timeline.pts or frame.pts >= timeline.pts[-1]:
            break
        before = frame.pts
    return True


def _count_by_decoding(
    container: InputContainer, stream: VideoStream, first: int | None, last: int, read: Timeline
) -> Timeline:
    """The timeline of a file whose packets say too little: one decoding pass from the start that keeps no picture."""
    rewind(container, stream, read)
    base, rate = time_base(stream), stream.average_rate or stream.guessed_rate or Fraction(25)
    origin, step = stream.start_time or 0, max(1, round(1 / (rate * base)))
    ticks: list[int | None] = []
    late = 0
    for _, frame in decoded(container.demux(stream)):
        late += (origin + len(ticks) * step if frame.pts is None else frame.pts) >= last
        ticks.append(frame.pts)
        if late > MOST_REORDERED:
            break
    known = [tick for tick in ticks if tick is not None]
    by_rate = container.format.name == "avi" or len(set(known)) < len(ticks)
    by_order = by_rate or known != sorted(known)
    every = [origin + round(index / (rate * base)) for index in range(len(ticks))] if by_rate else sorted(known)
    skipped = sum(first is not None and tick < first for tick in every) if by_order else 0
    shown = tuple(tick for tick in every if (first is None or tick >= first) and tick < last)
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
    import av

    start = timeline.first_dts if timeline.keys else min(0, timeline.first_dts)
    try:
        container.seek(start, stream=stream, any_frame=True)
    except av.FFmpegError:  # some FLV know of nothing before their first packet
        container.seek(timeline.first_dts, stream=stream, any_frame=True)


def time_base(stream: VideoStream) -> Fraction:
    """Seconds of a tick."""
    return stream.time_base or Fraction(1, 90000)


def _ticks(seconds: float, base: Fraction) -> int:
    """Seconds in ticks, at most what a 64-bit clock holds."""
    return round(min(seconds / float(base), 2.0**61))
