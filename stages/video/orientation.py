"""Which way up a picture is shown: what the display matrix of its container or stream asks for.

In: a decoded frame. Out: an `Orientation`, as the ffmpeg program applies it when it turns pictures by itself ("autorotate"):
the matrix is reduced to one of the eight ways in which a rectangle can lie. PyAV's `frame.rotation` tells four of them; front
cameras and editors write the other four, which mirror.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

if TYPE_CHECKING:
    from av.sidedata.sidedata import SideData
    from av.video.frame import VideoFrame


class Orientation(NamedTuple):
    """The stored picture is mirrored left to right, if `mirrored`, then turned by `rotation` degrees clockwise.

    `rotation` is 0, 90, 180 or 270. `tilt_deg`, -45 to 45, is what the matrix asks for beyond that; nothing here shows it.
    """

    rotation: int = 0
    mirrored: bool = False
    tilt_deg: int = 0

    def applied(self, pixels: np.ndarray, axes: tuple[int, int] = (0, 1)) -> np.ndarray:
        """A view of `pixels` as it is shown; `axes` are those of height and width."""
        shown = np.flip(pixels, axes[1]) if self.mirrored else pixels
        return np.rot90(shown, -self.rotation // 90 % 4, axes)

    def sides(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) as stored -> as shown, or the reverse."""
        return size[::-1] if self.rotation in (90, 270) else size


UPRIGHT = Orientation()


def orientation_of(frame: VideoFrame) -> Orientation:
    """By the frame's display matrix; upright without one."""
    from av.sidedata.sidedata import SideDataContainer

    try:
        # Not `frame.side_data`: the frame would keep that, which keeps the frame, and its picture, until garbage is collected.
        every = cast("Iterable[SideData]", SideDataContainer(frame))  # type: ignore[call-arg]  # of its stubs
        found = [bytes(data) for data in every if data.type.name == "DISPLAYMATRIX"]
    except ValueError:  # side data of a type that this PyAV does not know hides the rest, but for the angle
        return Orientation(round(-frame.rotation / 90) * 90 % 360)
    return orientation_of_matrix(struct.unpack_from("=9i", found[0])) if found else UPRIGHT


def orientation_of_matrix(matrix: tuple[int, ...]) -> Orientation:
    """Of a display matrix a b u, c d v, x y w, as FFmpeg keeps it (libavutil/display.h): (p, q) is shown at (ap + cq, bp + dq).

    Only a, b, c, d count, and of them no scale. As in ffmpeg (fftools/ffmpeg_filter.c), angles are rounded to whole degrees,
    and a matrix without area counts for nothing.
    """
    a, b, _, c, d, *_ = matrix
    across, down = math.hypot(a, c), math.hypot(b, d)
    if not across or not down:
        return UPRIGHT
    turn = round(math.degrees(math.atan2(b / down, a / across)))  # where the stored x axis points
    mirrored = a * d < b * c
    right = round(turn / 90) * 90
    return Orientation((right + 180 * mirrored) % 360, mirrored, turn - right)
