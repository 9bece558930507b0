"""Points followed from one frame of record to the next, through the pictures between them.

In: small grey pictures in display order, as a decoder meets them on its way. Out: for every two frames of record, the places of
the points that were followed from the one to the other; for other frames, of those that were followed to or from one of record.
A point is followed forward and back at every step (pyramidal Lucas-Kanade, Bouguet 2001; the backward check is that of Kalal et
al., "Forward-backward error", 2010): one that is hidden, leaves the picture or drifts is known as lost, and what is lost is
told nowhere. Between frames of record that many steps lie apart this says what no comparison of two pictures can: which of two
that look alike went where.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from stages.records import Motion
from stages.video.probe import Probe

AREA_PX = 256 * 144
"""Pixels of the small pictures, whatever their shape."""
CELL_PX = 9
"""Side of the squares of the small picture that have one point each, on their best texture: 29 x 16 of them at 16:9."""
STEP_S = 0.1
"""Least time between two pictures that are compared. With half of it points creep along with what hides them."""
WINDOW_PX, LEVELS = 9, 3
"""Side of the patch that is looked for, and how often the picture is halved: finds what moves by 36 pixels or so a step."""
MIN_TEXTURE = 3e-4
"""Least smaller eigenvalue of a patch's matrix of gradients, as OpenCV scales it: below, noise decides where a point goes."""
MAX_RETURN_PX = 0.5
"""How far from where it started a point may end when it is followed back."""
MAX_CHANGE = 15.0
"""Mean difference in grey levels that a patch may have after a step: what is hidden bit by bit looks different first."""
FEW = 6
"""Fewer points tell no camera motion."""
TOLERANCE_SHARE, LEAST_TOLERANCE_PX = 0.01, 2.0
"""How far from where the camera's motion takes them the points may lie that go along with it: a share of their extent."""


class Follower:
    """Follows points between the frames `indices` of a video, its frames of record 0, 1, ...

    `others`: indices of further frames, between these, in which it is noted where the points are; none start there.

    Ask `wants(index)` for each frame in display order, and give `see` those that it wants, as grey pictures of `size`
    (width, height); then `motion()`. The frames `indices` themselves are always wanted: points start and end in them. At most
    one point a cell is taken up, and in a later frame of record one for each cell that has none left.
    """

    def __init__(self, probe: Probe, indices: Sequence[int], others: Sequence[int] = ()) -> None:
        scale = min(1.0, (AREA_PX / (probe.width * probe.height)) ** 0.5)
        self.size = max(1, round(probe.width * scale)), max(1, round(probe.height * scale))
        self._displayed = np.array([probe.width, probe.height])
        self._per_pixel = (self._displayed / self.size).astype(np.float32)
        self._times_s = probe.times_s
        self._n_record = len(indices)
        self._marks = {index: mark for mark, index in enumerate([*indices, *others])}
        self._end = max(indices)
        self._places = np.empty((0, len(indices) + len(others), 2), np.float32)  # (points, marks, x y); nan: not there
        self._alive = np.empty(0, np.intp)  # which of the points are still followed,
        self._now = np.empty((0, 2), np.float32)  # and where they are in the picture seen last
        self._last, self._last_s = np.empty((0, 0), np.uint8), 0.0

    def wants(self, index: int) -> bool:
        """Whether the frame is one of record, or the next step between them; without points there is none."""
        return index in self._marks or self._is_step(index)

    def _is_step(self, index: int) -> bool:
        record = self._marks.get(index, self._n_record) < self._n_record
        return record or (len(self._alive) > 0 and self._times_s[index] - self._last_s > STEP_S - 1e-3)

    def see(self, index: int, picture: np.ndarray) -> None:
        """Follow the points into a (height, width) uint8 picture; in a frame of record, take up new ones."""
        alive, now = self._alive, self._now
        if len(alive):
            arrived, lost = _followed(self._last, picture, now)
            alive, now = alive[~lost], arrived[~lost]
        mark = self._marks.get(index)
        if mark is not None:
            self._places[alive, mark] = now
        if not self._is_step(index):  # another frame, looked at in passing: what is followed does not depend on it
            return
        self._alive, self._now = alive, now
        if index == self._end:
            self._alive, self._now = self._alive[:0], self._now[:0]
        elif mark is not None and mark < self._n_record:
            self._take_up(_corners(picture, self._now), mark)
        self._last, self._last_s = picture, self._times_s[index]

    def _take_up(self, points: np.ndarray, mark: int) -> None:
        places = np.full((len(points), *self._places.shape[1:]), np.nan, np.float32)
        places[:, mark] = points
        self._alive = np.concatenate([self._alive, len(self._places) + np.arange(len(points))])
        self._now = np.concatenate([self._now, points])
        self._places = np.concatenate([self._places, places])

    def motion(self, even: bool = False) -> list[Motion]:
        """Of every two frames of record, neighbours first (0-1, 1-2, 0-2), in the coordinates of boxes.

        `even`: without what lies in the last row or column of an odd size, which stages.frames.even_size cuts off.
        """
        places = self._displayed_places(even)
        pairs = sorted(combinations(range(self._n_record), 2), key=lambda pair: (pair[1] - pair[0], pair))
        return [Motion(start=start, end=end, points=_between(places, start, end)) for start, end in pairs]

    def points_to(self, record: int, even: bool = False) -> list[bytes]:
        """Of each of the `others`, points there and where they are in the frame of record: as in `Motion.points`."""
        places = self._displayed_places(even)
        return [_between(places, other, record) for other in range(self._n_record, places.shape[1])]

    def _displayed_places(self, even: bool) -> np.ndarray:
        # OpenCV counts from the middle of a pixel, boxes from its corner
        places: np.ndarray = (self._places + 0.5) * self._per_pixel
        if even:
            places[(places >= self._displayed // 2 * 2).any(axis=2)] = np.nan
        return places


def _between(places: np.ndarray, start: int, end: int) -> bytes:
    rows = places[:, (start, end)].reshape(-1, 4)
    points: bytes = rows[np.isfinite(rows).all(axis=1)].astype("<f4").tobytes()
    return points


def _corners(picture: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """(N, 2) float32: x, y of the best texture of every cell that has enough of it and none of the `taken` (M, 2) points."""
    import cv2

    height, width = picture.shape
    rows, columns = -(-height // CELL_PX), -(-width // CELL_PX)
    edge = WINDOW_PX // 2
    whole = slice(edge, height - edge), slice(edge, width - edge)  # where a patch lies in the picture
    texture = np.zeros((rows * CELL_PX, columns * CELL_PX), np.float32)
    if min(height, width) > 2 * edge:
        texture[whole] = cv2.cornerMinEigenVal(picture, WINDOW_PX)[whole]
    cells = texture.reshape(rows, CELL_PX, columns, CELL_PX).swapaxes(1, 2).reshape(rows, columns, -1)
    free = cells.max(axis=2) > MIN_TEXTURE
    column, row = (taken.round().astype(int) // CELL_PX).T
    free[row, column] = False
    row, column = np.nonzero(free)
    y, x = np.divmod(cells[row, column].argmax(axis=1), CELL_PX)
    return np.stack([column * CELL_PX + x, row * CELL_PX + y], axis=1).astype(np.float32)


def _followed(before: np.ndarray, after: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) float32: where the `points` of the picture `before` are in `after`; and (N,) bool: which are lost."""
    arrived, found, change = _tracked(before, after, points)
    returned, refound, _ = _tracked(after, before, arrived)
    inside = ((arrived >= 0) & (arrived <= np.array(after.shape[::-1]) - 1)).all(axis=1)
    back = np.linalg.norm(returned - points, axis=1) <= MAX_RETURN_PX
    return arrived, ~(found & refound & inside & back & (change <= MAX_CHANGE))


def _tracked(before: np.ndarray, after: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, 2) float32 places, (N,) bool whether found, (N,) float32 mean difference of the patches in grey levels."""
    import cv2

    enough = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 10, 0.03)  # steps, px
    arrived, found, change = cv2.calcOpticalFlowPyrLK(
        before,
        after,
        points[:, None],
        None,
        winSize=(WINDOW_PX, WINDOW_PX),
        maxLevel=LEVELS,
        criteria=enough,
        minEigThreshold=MIN_TEXTURE,
    )
    return arrived[:, 0], found[:, 0] > 0, change[:, 0]


def both_ways(motions: Sequence[Motion]) -> dict[tuple[int, int], np.ndarray]:
    """(frame, other frame) -> points (N, 4) float32: x, y in the one and in the other; also from the later to the earlier."""
    forward = {(motion.start, motion.end): motion.array for motion in motions}
    return forward | {(end, start): points[:, [2, 3, 0, 1]] for (start, end), points in forward.items()}


def camera_motion(points: np.ndarray) -> tuple[np.ndarray | None, float]:
    """The turn, scale and shift that most points share, and the share of them that do.

    `points` (N, 4): x, y in the one picture, x, y in the other, as in `Motion.array`. Gives a (2, 3) float64 matrix that takes
    (x, y, 1) of the one to the other, and None with 0.0 if there are fewer than FEW points or they lie in one place. What fills
    most of the picture is taken for what stands still. OpenCV's RANSAC starts with the same seed every time.
    """
    import cv2

    if len(points) < FEW:
        return None, 0.0
    start, end = points[:, :2].astype(np.float64), points[:, 2:].astype(np.float64)
    tolerance = max(LEAST_TOLERANCE_PX, TOLERANCE_SHARE * float(np.ptp(start, axis=0).max()))
    matrix, inliers = cv2.estimateAffinePartial2D(start, end, method=cv2.RANSAC, ransacReprojThreshold=tolerance)
    if matrix is None or not np.isfinite(matrix).all():
        return None, 0.0
    return matrix, float(inliers.mean())
