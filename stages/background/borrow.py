"""Pixels that the subject hides, taken from other frames of the clip in which they are seen.

In: the middle frame with its hole, and donors: other frames, with points that were followed from them to the middle frame and
what is not to be taken from them. Out: the frame with what could be borrowed, and which pixels that is. [ours] A donor is laid
over the frame by the homography that the camera's motion allows, matched in brightness around the hole, and left out where
that does not fit: a wrong pixel is worse than an invented one. Of the donors that show a pixel most must agree on it, and not
on what hides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WORK_PX = 640
"""Longer side at which frames are aligned; the homography holds for the whole size."""
GRID_PX = 12
"""At that size, least distance of the corners that are followed from the frame to a donor."""
NEAR_PX, MOST_CORNERS = 100, 300
"""At that size, how far from the hole corners are followed at most, and how many: what is far away may lie in another plane."""
NEIGHBOURS = 5
WINDOW_PX = 21
MOST_RETURN_PX = 1.0
"""How far from where it started a corner may end that is followed back: else it is none of the donor's."""
FEWEST_POINTS = 20
"""Of those that agree on a homography."""
MOST_OFF_PX = 2.5
"""How far from its place, at that size, a point may come to lie."""
LEAST_SHARE = 0.4
"""Share of the points that must agree: fewer, and the scene is no plane, or does not stand still."""
TRIES = 500
"""Of four points each: were but LEAST_SHARE of them right, one in 40 tries would meet four of these."""
RING_PX = 24
"""At that size, width of the surroundings of the hole in which frame and donor are compared."""
MOST_UNLIKE = 12.0
"""Median difference in grey levels that a donor, matched in brightness, may have from the frame around the hole."""
GAIN = (0.7, 1.4)
"""Least and most that a donor is made brighter."""
AGREE = 14
"""Grey levels by which donors may differ and still show the same."""
LEAST_DONORS = 2
UNKNOWN = 10_000
"""In the place of a grey level where a donor shows nothing."""
HIDDEN = 10.0
"""A place where donors show what the frame itself shows, up to so many grey levels, may still be hidden in them."""
LEAST_REGION = 0.002
"""Borrowed regions smaller than this share of the frame are left to the inpainter."""


class DonorFrame(NamedTuple):
    """`rgb` (h, w, 3) uint8, of the frame's shape, may be smaller; `points` (K, 4) float32: x, y in the donor, x, y in the
    middle frame, both in pixels of the latter; `hidden` (h, w) bool: what is not to be taken."""

    rgb: np.ndarray
    points: np.ndarray
    hidden: np.ndarray


class Borrowed(NamedTuple):
    """`rgb` (H, W, 3) uint8: the frame with borrowed pixels; `mask` (H, W) bool: which these are, all of them in the hole."""

    rgb: np.ndarray
    mask: np.ndarray


def borrow(rgb: np.ndarray, hole: np.ndarray, donors: Sequence[DonorFrame]) -> Borrowed:
    """`rgb` (H, W, 3) uint8; `hole` (H, W) bool: what is hidden."""
    nothing = Borrowed(rgb, np.zeros_like(hole))
    if not hole.any() or not donors:
        return nothing
    place = _Place(rgb, hole)
    seen = [layer for donor in donors if (layer := place.layer_of(donor)) is not None]
    if len(seen) < LEAST_DONORS:
        return nothing
    values, known = (np.stack(part) for part in zip(*seen, strict=True))  # (D, N, 3), (D, N)
    chosen, sure = _agreed(values, known)
    taken = np.zeros_like(hole)
    taken[hole] = sure
    filled = rgb.copy()
    filled[hole] = np.where(sure[:, None], chosen.clip(0, 255), rgb[hole]).astype(np.uint8)
    taken = _without_what_hides(rgb, filled, taken)
    return Borrowed(np.where(taken[..., None], filled, rgb), taken)


class _Place:
    """The middle frame as donors are laid over it."""

    def __init__(self, rgb: np.ndarray, hole: np.ndarray) -> None:
        import cv2

        self.rgb, self.hole = rgb, hole
        height, width = hole.shape
        self.scale = min(1.0, WORK_PX / max(height, width))
        self.size = max(1, round(width * self.scale)), max(1, round(height * self.scale))
        self.grey = cv2.cvtColor(cv2.resize(rgb, self.size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        usable = cv2.resize((~hole).astype(np.uint8), self.size, interpolation=cv2.INTER_NEAREST)
        away = cv2.distanceTransform(usable, cv2.DIST_L2, 3)
        near = usable * (away <= NEAR_PX).astype(np.uint8)
        self.corners = _corners(self.grey, near)
        if len(self.corners) < 2 * FEWEST_POINTS:
            self.corners = _corners(self.grey, usable)
        rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
        reach = round(RING_PX / self.scale)
        self.window = np.s_[
            max(0, rows[0] - reach) : min(height, rows[-1] + 1 + reach),
            max(0, columns[0] - reach) : min(width, columns[-1] + 1 + reach),
        ]
        near = cv2.dilate(hole[self.window].astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8)) > 0
        self.ring = near & ~hole[self.window]

    def layer_of(self, donor: DonorFrame) -> tuple[np.ndarray, np.ndarray] | None:
        """What a donor shows of the hole's N pixels, (N, 3) float32 as bright as the frame, and (N,) bool of which; None if it
        does not fit.
        """
        import cv2

        homography = self._homography(donor)
        if homography is None:
            return None
        top, left = self.window[0].start, self.window[1].start
        size = (self.window[1].stop - left, self.window[0].stop - top)
        there = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]], float) @ homography
        warped = cv2.warpPerspective(donor.rgb, there, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        usable = cv2.warpPerspective((~donor.hidden).astype(np.uint8) * 255, there, size, flags=cv2.INTER_LINEAR) > 250
        matched = _as_bright(warped, self.rgb[self.window], self.ring & usable)
        if matched is None:
            return None
        hole = self.hole[self.window]
        return matched[hole], usable[hole]

    def _homography(self, donor: DonorFrame) -> np.ndarray | None:
        """(3, 3) from pixels of the donor to those of the frame; None if points do not agree on one."""
        import cv2

        points = self._of_the_place(donor)
        if len(points) < FEWEST_POINTS // 2 or len(self.corners) < FEWEST_POINTS:
            return None
        scaled = points * self.scale
        start = self.corners + _moved(self.corners, scaled[:, 2:], scaled[:, :2])
        grey = cv2.cvtColor(cv2.resize(donor.rgb, self.size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        end, found = _followed(self.grey, grey, self.corners, start)
        back, again = _followed(grey, self.grey, end, self.corners)
        inside = ((end >= 0) & (end < self.size)).all(axis=1)
        good = found & again & inside & (np.linalg.norm(back - self.corners, axis=1) <= MOST_RETURN_PX)
        if good.sum() < FEWEST_POINTS:
            return None
        matrix, fits = cv2.findHomography(end[good], self.corners[good], cv2.RANSAC, MOST_OFF_PX, maxIters=TRIES)
        if matrix is None or fits.sum() < FEWEST_POINTS or fits.mean() < LEAST_SHARE:
            return None
        own = donor.rgb.shape[1] / self.hole.shape[1]
        down, up = np.diag([self.scale / own, self.scale / own, 1]), np.diag([1 / self.scale, 1 / self.scale, 1])
        homography: np.ndarray = up @ matrix @ down
        return homography

    def _of_the_place(self, donor: DonorFrame) -> np.ndarray:
        """The donor's points (K, 4) that are not on who hides the place, in the frame or the donor: those move on their own."""
        shrunk = donor.rgb.shape[1] / self.hole.shape[1]
        hidden = _at(self.hole, donor.points[:, 2:]) | _at(donor.hidden, donor.points[:, :2] * shrunk)
        points: np.ndarray = donor.points[~hidden]
        return points


def _corners(grey: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(N, 2) float32: x, y of corners of a picture (h, w) uint8 where `where` (h, w) uint8 is not 0, the best first."""
    import cv2

    found = cv2.goodFeaturesToTrack(grey, MOST_CORNERS, 0.01, GRID_PX, mask=where)
    return np.zeros((0, 2), np.float32) if found is None else found[:, 0]


def _at(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(K,) bool: the mask (H, W) bool at points (K, 2): x, y; beyond it, at its edge."""
    x, y = (points[:, axis].astype(int).clip(0, mask.shape[1 - axis] - 1) for axis in (0, 1))
    values: np.ndarray = mask[y, x]
    return values


def _moved(corners: np.ndarray, here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """How far corners (N, 2) moved, (N, 2) float32: the median of the NEIGHBOURS nearest of the points (K, 2) `here`."""
    away = ((corners[:, None] - here[None]) ** 2).sum(axis=2)  # (N, K)
    nearest = np.argsort(away, axis=1, kind="stable")[:, :NEIGHBOURS]
    shifts: np.ndarray = np.median((there - here)[nearest], axis=1).astype(np.float32)
    return shifts


def _followed(grey: np.ndarray, other: np.ndarray, points: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where points (N, 2) of a picture are in another one, looked for from `start`: (N, 2) float32, and (N,) whether found."""
    import cv2

    end, found, _ = cv2.calcOpticalFlowPyrLK(
        grey,
        other,
        points[:, None],
        start[:, None].copy(),
        winSize=(WINDOW_PX, WINDOW_PX),
        maxLevel=1,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return end[:, 0], found[:, 0] > 0


def _greatest(colours: np.ndarray) -> np.ndarray:
    """(..., 3) -> (...): the greatest of three colours; many times as fast as a reduction of so short an axis."""
    greatest: np.ndarray = np.maximum(np.maximum(colours[..., 0], colours[..., 1]), colours[..., 2])
    return greatest


def _as_bright(warped: np.ndarray, rgb: np.ndarray, ring: np.ndarray) -> np.ndarray | None:
    """(H, W, 3) float32: `warped`, each colour scaled to be as bright in the `ring` as in `rgb`; None if it still differs."""
    if ring.sum() < 50:
        return None
    there, here = warped[ring].astype(np.float32), rgb[ring].astype(np.float32)
    gain = ((here.mean(axis=0) + 1) / (there.mean(axis=0) + 1)).clip(*GAIN)
    if np.median(_greatest(np.abs(there * gain - here))) > MOST_UNLIKE:
        return None
    matched: np.ndarray = warped.astype(np.float32) * gain
    return matched


def _agreed(values: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of `values` (D, N, 3) of D donors, where they are `known` (D, N): the median (N, 3) int16, and (N,) whether most agree.

    Of an even number the lower one of the two in the middle.
    """
    shown = np.where(known[..., None], np.rint(values), UNKNOWN).astype(np.int16)
    ordered = np.sort(shown, axis=0)
    n_known = known.sum(axis=0)
    place = np.maximum(n_known - 1, 0) // 2
    middle = np.take_along_axis(ordered, place[None, :, None], axis=0)[0]
    close = known & (_greatest(np.abs(shown - middle)) <= AGREE)
    n_close = close.sum(axis=0)
    return middle, (n_close >= LEAST_DONORS) & (2 * n_close > n_known)


def _without_what_hides(rgb: np.ndarray, filled: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """(H, W) bool: regions of `taken` that are large enough, and do not show what the frame itself shows there: who stands
    still is in every donor.
    """
    import cv2

    reach = max(3, round(0.01 * max(taken.shape))) | 1
    same = (_greatest(np.abs(filled.astype(np.int16) - rgb)) <= HIDDEN) & taken
    counts = [cv2.boxFilter(part.astype(np.float32), -1, (reach, reach)) for part in (same, taken)]
    kept = taken & (counts[0] < 0.5 * np.maximum(counts[1], 1e-6))
    kept = cv2.morphologyEx(kept.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    _, labels, stats, _ = cv2.connectedComponentsWithStats(kept.astype(np.uint8), connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] >= LEAST_REGION * kept.size
    large[0] = False
    result: np.ndarray = large[labels]
    return result
