"""Interlaced frames, which hold two moments in alternate rows, as pictures of one moment.

In: frames with their indices, in display order. Out: the same, those deinterlaced that the decoder says are interlaced, with
FFmpeg's `bwdif=mode=send_frame`: a frame stays one picture, at its time. Of content that is partly interlaced, only those
frames change. The filter looks at the frame before and the one after; without them it does with fewer rows, as at the ends of
a file.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from fractions import Fraction
from itertools import chain, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

Walked = tuple[bool, int, "VideoFrame"]
"""(damaged, index, frame), as `decode.walk` gives them."""


def with_neighbours(wanted: list[int], count: int) -> list[int]:
    """The indices of frames that `progressive` needs for the `wanted` ones of `count`, ascending."""
    around = {near for index in wanted for near in (index - 1, index, index + 1)}
    return sorted(index for index in around if 0 <= index < count)


def progressive(frames: Iterator[Walked], wanted: Container[int]) -> Iterator[Walked]:
    """The frames, the `wanted` ones without combing; each is given when its successor is there, or is known to be missing."""
    before: Walked | None = None
    for current, after in pairwise(chain(frames, [None])):
        if current is None:
            return
        damaged, index, frame = current
        if frame.interlaced_frame and index in wanted:
            frame = _deinterlaced(_adjacent(before, current), frame, _adjacent(after, current))
        yield damaged, index, frame
        before = current


def _adjacent(other: Walked | None, to: Walked) -> VideoFrame | None:
    """Another frame, if it is a neighbour and of the same kind."""
    if other is None or abs(other[1] - to[1]) != 1:
        return None
    a, b = other[2], to[2]
    return a if (a.width, a.height, a.format.name) == (b.width, b.height, b.format.name) else None


def _deinterlaced(before: VideoFrame | None, frame: VideoFrame, after: VideoFrame | None) -> VideoFrame:
    from av.filter import Graph

    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 90000)
    )
    graph.link_nodes(source, graph.add("bwdif", mode="send_frame"), graph.add("buffersink")).configure()
    for given in (before, frame, after):
        if given is not None:
            graph.vpush(given)
    graph.vpush(None)
    if before is not None:
        graph.vpull()
    return graph.vpull()
