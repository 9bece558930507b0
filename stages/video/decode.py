"""`frames_at`: the pictures of a video at given times, as displayed. Everyone decodes with it.

In: a path or an open video, and times in seconds. Out: RGB frames, their true times and indices. The cost is the distance from
the key frame before each picture, not the duration: PyAV seeks there, and of the frames on the way only those are decoded that
others refer to, which halves the work and changes no bit. decord 0.6.0 serves where it is right and nobody watches the frames
on the way (see `_decord_is_right`); there both give the same bits. It saves nothing: 201 ms of CPU for three frames where PyAV
takes 121, and 173 with a watcher, at the same memory (mean of 12 clips of 2-20 s; tools/bench_decode.py prints it).
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stages.video.fields import Walked, progressive, with_neighbours
from stages.video.motion import Follower
from stages.video.pictures import as_displayed, fitted, glimpse, grey, has_shape_of
from stages.video.probe import OpenVideo, Probe, open_video
from stages.video.source import VideoError
from stages.video.timeline import Key, decoded, rewind
from stages.video.tone import is_hdr

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

DECORD_CODECS = ("h264", "hevc", "vp9", "mpeg4")
DECORD_PIX_FMTS = ("yuv420p", "yuvj420p")

Fit = Callable[[np.ndarray], np.ndarray]
"""(H, W, 3) uint8 RGB as displayed -> what is kept of it."""


class Watcher(NamedTuple):
    """Who is shown the frames on the way: `see` is called with (index, (height, width, 3) uint8 RGB), in display order.

    `size`: (width, height). `every_frame`: also the frames that no other refers to.
    """

    see: Callable[[int, np.ndarray], None]
    size: tuple[int, int]
    every_frame: bool = False


class Seen(NamedTuple):
    """What was met among the frames that were decoded, those on the way too.

    `damaged`: the decoder reported errors (decord never does). `interlaced`, `hdr`: there were such frames. `reshaped`: there
    was one whose picture has another shape than the video's.
    """

    damaged: bool = False
    interlaced: bool = False
    hdr: bool = False
    reshaped: bool = False


class Decoded(NamedTuple):
    """`frames[i]` (H, W, 3) uint8 RGB as displayed is frame `indices[i]` of the video, shown at `pts_s[i]`."""

    frames: list[np.ndarray]
    pts_s: list[float]
    indices: list[int]
    seen: Seen

    def first(self, n: int) -> Decoded:
        """Of the first `n` times."""
        return self._replace(frames=self.frames[:n], pts_s=self.pts_s[:n], indices=self.indices[:n])


def indices_at(probe: Probe, times_s: Sequence[float]) -> list[int]:
    """The indices of the frames shown at `times_s`, seconds from the first frame.

    A time before the first frame gives the first, one beyond the end the last.
    """
    return [max(0, bisect.bisect_right(probe.times_s, time + 1e-6) - 1) for time in times_s]


def frames_at(
    source: str | os.PathLike[str] | OpenVideo,
    times_s: Sequence[float],
    watch: Watcher | None = None,
    fit: Fit | None = None,
    follow: Follower | None = None,
) -> Decoded:
    """The frames shown at `times_s`, seconds from the first frame (of the range, if `source` was opened with one).

    They are those of `indices_at`. With `watch` or `follow`, every reference frame from before the first picture to the last is
    decoded in one pass and shown in small to them; a watcher may want the others too. `fit` is applied to each picture as it is
    decoded, so that many large ones need not be held. With any of the three PyAV decodes, as decord hands out all at once.
    Interlaced frames are deinterlaced (but not what is watched), HDR is tone-mapped, a frame of another shape than the video's
    gets black bars. Raises VideoError if a picture cannot be had.
    """
    if not isinstance(source, OpenVideo):
        with open_video(source) as video:
            return frames_at(video, times_s, watch, fit, follow)
    shown = source.probe.times_s
    indices = indices_at(source.probe, times_s)
    wanted = sorted(set(indices))
    found, seen = None, Seen()
    if watch is None and fit is None and follow is None and _decord_is_right(source) and _stays_alike(source, wanted):
        found = _decode_with_decord(source, wanted)
    if found is None:
        found, seen = _decode_with_pyav(source, wanted, watch, fit, follow)
    return Decoded([found[index] for index in indices], [shown[index] for index in indices], indices, seen)


def _decord_is_right(video: OpenVideo) -> bool:
    """Whether decord 0.6.0 is known to give the same frames as PyAV: measured, and checked again on what it says of the file.

    Not: ranges, AVI, MPEG-TS, GIF, fragmented MP4, an edit list or a start without key frame (it counts packets that are never
    shown), AV1, VP8, more than 8 bits, 4:4:4, odd sizes, rotation, mirroring, HDR, interlacing, several video streams.
    """
    probe, stream = video.probe, video.stream
    return (
        video.whole
        and probe.container in ("mp4", "mov", "mkv", "webm")
        and (probe.container in ("mkv", "webm") or stream.frames == probe.n_frames)
        and probe.codec in DECORD_CODECS
        and probe.pix_fmt in DECORD_PIX_FMTS
        and not (probe.rotation or probe.mirrored or probe.hdr or probe.interlaced)
        and stream.codec_context.width % 2 == stream.codec_context.height % 2 == 0
        and len(video.input.streams.video) == 1
        and not video.timeline.by_order
    )


def _decode_with_decord(video: OpenVideo, wanted: list[int]) -> dict[int, np.ndarray] | None:
    """None if decord is not installed, fails, or disagrees about count or times: then PyAV decodes.

    One request, one thread, and the reader is deleted at once: it keeps decoding behind one's back and never gives memory back.
    """
    try:
        import decord
    except ImportError:
        return None
    decord.logging.set_level(decord.logging.QUIET)
    times_s = video.probe.times_s
    try:
        reader = decord.VideoReader(video.address, num_threads=1)
        stamps = reader.get_frame_timestamp(wanted)[:, 0] if len(reader) == len(times_s) else []
        expected = [times_s[index] for index in wanted]
        if len(stamps) != len(wanted) or np.abs(stamps - stamps[0] - expected + expected[0]).max() > 1e-3:
            return None
        batch = reader.get_batch(wanted).asnumpy()
    except decord.DECORDError:
        return None
    finally:
        reader = None
    size = (video.probe.width, video.probe.height)
    return {index: fitted(pixels, video.probe, size) for index, pixels in zip(wanted, batch, strict=True)}


def _stays_alike(video: OpenVideo, wanted: list[int]) -> bool:
    """Whether the video is at the wanted frames what it is at the first one: decord does not say. Decodes their key frames."""
    index_of = {tick: index for index, tick in enumerate(video.timeline.pts)}
    starts = {index_of.get(key.pts, 0) for index in wanted if (key := _key_before(video, video.timeline.pts[index]))}
    frames = [frame for _, index, frame in walk(video, sorted(starts)) if index in starts]
    return not any(frame.interlaced_frame or is_hdr(frame) or not has_shape_of(frame, video.probe) for frame in frames)


def _decode_with_pyav(
    video: OpenVideo,
    wanted: list[int],
    watch: Watcher | None,
    fit: Fit | None = None,
    follow: Follower | None = None,
) -> tuple[dict[int, np.ndarray], Seen]:
    import av

    try:
        found, seen = _one_pass(video, wanted, video.probe.interlaced, watch, fit, follow)
        combed = [index for index in wanted if index not in found] if seen.interlaced and not video.probe.interlaced else []
        if combed:  # the video began progressive, so their neighbours were not decoded
            found |= _one_pass(video, combed, True, None, fit, None)[0]
    except (av.FFmpegError, ValueError) as error:
        raise VideoError("unreadable", f"the video cannot be decoded: {getattr(error, 'strerror', error)}") from error
    lost = [index for index in wanted if index not in found]
    if lost:
        raise VideoError(
            "unreadable", f"frame {lost[0]} of {video.probe.n_frames} cannot be decoded (the file is damaged or cut off)"
        )
    return found, seen


def _one_pass(
    video: OpenVideo,
    wanted: list[int],
    neighbours: bool,
    watch: Watcher | None,
    fit: Fit | None,
    follow: Follower | None,
) -> tuple[dict[int, np.ndarray], Seen]:
    """Pictures of the wanted frames, of interlaced ones only if their `neighbours` are decoded too; and what was seen."""
    from av.video.reformatter import VideoReformatter

    scaler, grey_scaler = VideoReformatter(), VideoReformatter()  # kept: setting one up costs more than a small picture
    found: dict[int, np.ndarray] = {}
    damaged = interlaced = hdr = reshaped = False
    sizes: set[tuple[int, int]] = set()

    def looked_at(walked: Iterator[Walked]) -> Iterator[Walked]:
        nonlocal damaged, interlaced, hdr, reshaped
        for broken, index, frame in walked:
            damaged |= broken
            interlaced |= frame.interlaced_frame
            hdr |= is_hdr(frame)
            if (size := (frame.width, frame.height)) not in sizes:
                sizes.add(size)
                reshaped |= not has_shape_of(frame, video.probe)
            if watch is not None:
                watch.see(index, glimpse(frame, watch.size, scaler))
            if follow is not None and follow.wants(index):
                follow.see(index, grey(frame, follow.size, grey_scaler))
            yield broken, index, frame

    needed = with_neighbours(wanted, video.probe.n_frames) if neighbours else wanted
    everything = watch is not None or follow is not None
    frames = looked_at(walk(video, needed, everything, every_frame=watch is not None and watch.every_frame))
    for _, index, frame in progressive(frames, wanted) if neighbours else frames:
        if index in wanted and not frame.interlaced_frame:
            picture = as_displayed(frame, video.probe)
            found[index] = picture if fit is None else fit(picture)
    return found, Seen(damaged, interlaced, hdr, reshaped)


def walk(video: OpenVideo, wanted: Sequence[int], everything: bool = False, *, every_frame: bool = False) -> Iterator[Walked]:
    """(damaged, index, frame) in display order of the wanted frames (ascending) and of those decoded for their sake.

    `everything`: in one pass from the key frame before the first to the last wanted, else GOP by GOP. `every_frame`: also of
    those on the way that no other refers to.
    """
    pts = video.timeline.pts
    starts = [_key_before(video, pts[index]) for index in wanted]
    if everything:
        starts = starts[:1] * len(starts)
    for start, group in groupby(zip(starts, wanted, strict=True), key=lambda pair: pair[0]):
        yield from _walk_from(video, start, [index for _, index in group], every_frame)


def _walk_from(video: OpenVideo, start: Key | None, wanted: list[int], every_frame: bool) -> Iterator[Walked]:
    timeline = video.timeline
    index_of = {tick: index for index, tick in enumerate(timeline.pts)}
    packets = _packets_from(video, start)
    if timeline.timed and not timeline.by_order and not every_frame:
        packets = _sparing(video, packets, {timeline.pts[index] for index in wanted})
    for count, (broken, frame) in enumerate(decoded(packets)):
        index = count - timeline.skipped if timeline.by_order else index_of.get(-1 if frame.pts is None else frame.pts, -1)
        if index >= 0:
            yield broken, index, frame
        if index >= wanted[-1]:
            return


def _sparing(video: OpenVideo, packets: Iterator[Packet[VideoStream]], wanted_pts: set[int]) -> Iterator[Packet[VideoStream]]:
    """Tell the decoder, packet by packet, to leave out frames that are neither wanted nor referred to."""
    context = video.stream.codec_context
    try:
        for packet in packets:
            context.skip_frame = "DEFAULT" if packet.pts in wanted_pts else "NONREF"
            yield packet
    finally:
        context.skip_frame = "DEFAULT"


def _packets_from(video: OpenVideo, start: Key | None) -> Iterator[Packet[VideoStream]]:
    """Packets in decoding order from the key frame on (None: from the beginning), then the one that empties the decoder.

    A seek may land elsewhere in files with a poor index: what lies before is passed over; if it landed behind, all is read.
    """
    container, stream = video.input, video.stream
    if start is None:
        rewind(container, stream, video.timeline)
        yield from container.demux(stream)
        return
    container.seek(start.dts, stream=stream, any_frame=True)
    for again in (False, True):
        packets = container.demux(stream)
        for packet in packets:
            if packet.is_keyframe and packet.pts == start.pts:
                yield packet
                yield from packets
                return
            if not again and packet.dts is not None and packet.dts > start.dts:
                rewind(container, stream, video.timeline)
                break


def _key_before(video: OpenVideo, pts: int) -> Key | None:
    """The last key frame shown at or before `pts`; frames shown before a key frame but stored after it need the one before."""
    keys = video.timeline.keys
    place = bisect.bisect_right(keys, pts, key=lambda key: key.pts)
    return keys[place - 1] if place else None
