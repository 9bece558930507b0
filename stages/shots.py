"""Scene cuts: where a clip stops showing one continuous shot.

In: small pictures of successive frames and their times. Out: the times of cuts and dissolves. Not a shot detector in general
but a test whether the three frames of record show the same scene. [ours] Two pictures are unlike when their colours (histogram
intersection) *and* their layout (correlation) differ: fast camera motion changes the second and keeps the first, light changes
do the reverse. A cut is a pair of neighbours much less alike than the pairs around it, so shaky clips and one frame a second do
not count. A dissolve mixes two unlike pictures, and the mixture has less contrast than both.
"""

from __future__ import annotations

import numpy as np

NEIGHBOURS = 2
"""Pairs on each side that say how much change is usual here."""
DISSOLVE_HALVES_S = (0.3, 0.45, 0.6)
"""Half the lengths of dissolves that are looked for."""


def find_cuts(times_s: np.ndarray, glimpses: np.ndarray, cut_threshold: float, dissolve_threshold: float) -> list[float]:
    """Times of scene changes, ascending; a dissolve may be told several times.

    `times_s` (N,) ascending, `glimpses` (N, h, w, 3) uint8 RGB. `cut_threshold`: by how much two neighbours must be more unlike
    than the pairs around them. `dissolve_threshold`: unlikeness of what lies before and after, times the dip of contrast (a
    share of the lesser contrast); the unlikeness alone must be above `cut_threshold` too.
    """
    if len(glimpses) < 2:
        return []
    look = _Look(glimpses)
    found = _cuts(look, cut_threshold) + _dissolves(look, times_s, cut_threshold, dissolve_threshold)
    return [float(times_s[index]) for index in sorted(set(found))]


class _Look:
    """Colours, layout and contrast of N small pictures, and how unlike two of them are."""

    def __init__(self, glimpses: np.ndarray) -> None:
        import cv2

        hsv = [cv2.cvtColor(glimpse, cv2.COLOR_RGB2HSV) for glimpse in glimpses]
        ranges = [0, 180, 0, 256, 0, 256]
        counts = [cv2.calcHist([picture], [0, 1, 2], None, [8, 4, 8], ranges).ravel() for picture in hsv]
        self.colours = np.stack(counts) / hsv[0][..., 0].size  # (N, 256), sums to 1
        flat = glimpses.reshape(len(glimpses), -1).astype(np.float32)
        self.layout = flat - flat.mean(axis=1, keepdims=True)  # (N, h * w * 3)
        self.contrast = self.layout.std(axis=1) + 1e-3

    def distances(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances of colours and of layout, (K,) each in [0, 1], of pictures a[k], b[k]."""
        colours = 1 - np.minimum(self.colours[a], self.colours[b]).sum(axis=1)
        covariance = (self.layout[a] * self.layout[b]).mean(axis=1)
        layout = 1 - covariance / (self.contrast[a] * self.contrast[b])
        return np.clip(colours, 0, 1), np.clip(layout, 0, 1)


def _cuts(look: _Look, threshold: float) -> list[int]:
    """Index of the first picture after each hard cut. A flash is none: what lies before it and after it is alike."""
    first = np.arange(len(look.contrast) - 1)
    next_to = np.sqrt(np.multiply(*look.distances(first, first + 1)))
    wider = np.sqrt(np.multiply(*look.distances(np.maximum(first - 1, 0), np.minimum(first + 2, len(first)))))
    step = np.minimum(next_to, wider)
    cuts = []
    for index, value in enumerate(step):
        around = np.concatenate([step[max(0, index - NEIGHBOURS) : index], step[index + 1 : index + 1 + NEIGHBOURS]])
        if value - (around.mean() if len(around) else 0) > threshold:
            cuts.append(index + 1)
    return cuts


def _dissolves(look: _Look, times_s: np.ndarray, cut_threshold: float, threshold: float) -> list[int]:
    """Indices of pictures in the middle of a dissolve; fading out of a scene and back into it is none."""
    found = []
    for half_s in DISSOLVE_HALVES_S:
        middle = np.flatnonzero((times_s - half_s >= times_s[0]) & (times_s + half_s <= times_s[-1]))
        before = np.searchsorted(times_s, times_s[middle] - half_s + 1e-6)
        after = np.minimum(np.searchsorted(times_s, times_s[middle] + half_s - 1e-6), len(times_s) - 1)
        dip = 1 - look.contrast[middle] / np.minimum(look.contrast[before], look.contrast[after])
        unlike = np.minimum(*look.distances(before, after))
        found += middle[(unlike > cut_threshold) & (unlike * dip > threshold)].tolist()
    return found
