"""Cuts by colours and layout: a test whether pictures show the same scene, in a tenth of a millisecond each. No weights.

In: small pictures of successive frames. Out: how sure a shot changes at each. [ours] Two pictures are unlike when their colours
(histogram intersection) *and* their layout (correlation) differ: fast camera motion changes the second and keeps the first,
light changes do the reverse. A cut is a pair of neighbours much less alike than the pairs around it, so shaky clips and one
frame a second do not count. A dissolve mixes two unlike pictures, and the mixture has less contrast than both.
"""

from __future__ import annotations

import numpy as np

from stages.backends import CutSearcher, ShotChanges

NEIGHBOURS = 2
"""Pairs on each side that say how much change is usual here."""
DISSOLVE_HALVES_S = (0.3, 0.45, 0.6)
"""Half the lengths of dissolves that are looked for."""
LEAST_UNLIKE = 0.38
"""How unlike the pictures before and after a dissolve are at least."""


class Colours(CutSearcher):
    """Colours and layout of neighbours, beside those of the pairs around them.

    A cut is as sure as two neighbours are more unlike than the pairs around them; a dissolve as what lies before it and after
    it is unlike, times the dip of contrast (a share of the lesser contrast).
    """

    picture_size = (64, 36)
    every_frame = False

    def search(self, times_s: np.ndarray, pictures: np.ndarray) -> ShotChanges:
        """See stages.backends.CutSearcher."""
        look = _Look(pictures)
        return ShotChanges(_cuts(look), _dissolves(look, times_s))


class _Look:
    """Colours, layout and contrast of N small pictures, and how unlike two of them are."""

    def __init__(self, pictures: np.ndarray) -> None:
        import cv2

        hsv = [cv2.cvtColor(picture, cv2.COLOR_RGB2HSV) for picture in pictures]
        ranges = [0, 180, 0, 256, 0, 256]
        counts = [cv2.calcHist([picture], [0, 1, 2], None, [8, 4, 8], ranges).ravel() for picture in hsv]
        self.colours = np.stack(counts) / hsv[0][..., 0].size  # (N, 256), sums to 1
        flat = pictures.reshape(len(pictures), -1).astype(np.float32)
        self.layout = flat - flat.mean(axis=1, keepdims=True)  # (N, h * w * 3)
        self.contrast = self.layout.std(axis=1) + 1e-3

    def distances(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances of colours and of layout, (K,) each in [0, 1], of pictures a[k], b[k]."""
        colours = 1 - np.minimum(self.colours[a], self.colours[b]).sum(axis=1)
        covariance = (self.layout[a] * self.layout[b]).mean(axis=1)
        layout = 1 - covariance / (self.contrast[a] * self.contrast[b])
        return np.clip(colours, 0, 1), np.clip(layout, 0, 1)


def _cuts(look: _Look) -> np.ndarray:
    """(N,) float32: that a hard cut is right before a picture. A flash is none: what lies before it and after it is alike."""
    first = np.arange(len(look.contrast) - 1)
    next_to = np.sqrt(np.multiply(*look.distances(first, first + 1)))
    wider = np.sqrt(np.multiply(*look.distances(np.maximum(first - 1, 0), np.minimum(first + 2, len(first)))))
    step = np.minimum(next_to, wider)
    sure = np.zeros(len(look.contrast), np.float32)
    for index, value in enumerate(step):
        around = np.concatenate([step[max(0, index - NEIGHBOURS) : index], step[index + 1 : index + 1 + NEIGHBOURS]])
        sure[index + 1] = max(0, value - (around.mean() if len(around) else 0))
    return sure


def _dissolves(look: _Look, times_s: np.ndarray) -> np.ndarray:
    """(N,) float32: that a picture is in the middle of a dissolve; fading out of a scene and back into it is none."""
    sure = np.zeros(len(look.contrast), np.float32)
    for half_s in DISSOLVE_HALVES_S:
        middle = np.flatnonzero((times_s - half_s >= times_s[0]) & (times_s + half_s <= times_s[-1]))
        before = np.searchsorted(times_s, times_s[middle] - half_s + 1e-6)
        after = np.minimum(np.searchsorted(times_s, times_s[middle] + half_s - 1e-6), len(times_s) - 1)
        dip = 1 - look.contrast[middle] / np.minimum(look.contrast[before], look.contrast[after])
        unlike = np.minimum(*look.distances(before, after))
        sure[middle] = np.maximum(sure[middle], np.where(unlike > LEAST_UNLIKE, unlike * dip, 0))
    return sure
