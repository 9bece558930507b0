"""The look of a box by its colours, part by part: hair, clothes, legs. No weights.

In: pictures and boxes. Out: a description of each, whose dot product with another is the share of colour that they have in
common (Bhattacharyya), 0 to 1. Colours count by how near the middle of the box they are: at its edge there is background.
"""

from __future__ import annotations

import numpy as np

from stages.backends import Recogniser
from stages.images import colour_numbers
from stages.link.crops import crop

PARTS = 3
"""Bands from top to bottom."""
BINS = (5, 9, 9)
"""See stages.images.colour_numbers."""
N_COLOURS = BINS[0] * BINS[1] * BINS[2]
SIDE_PX = (48, 72)
"""Width and height that a box is scaled to."""


class Colours(Recogniser):
    """Histograms of the three bands of a box."""

    alike = (0.45, 0.85)

    def describe(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[np.ndarray]:
        """See stages.backends.Recogniser; D = PARTS * N_COLOURS."""
        return [colours(image, own) for image, own in zip(images, boxes, strict=True)]


def colours(image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Image (H, W, 3) uint8 RGB, boxes (N, 4) -> histograms (N, PARTS * N_COLOURS) float32 of length 1."""
    return np.array([_colours(image, box) for box in boxes], np.float32).reshape(-1, PARTS * N_COLOURS)


def _colours(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    place = colour_numbers(crop(image, box, SIDE_PX), BINS)
    weights = _middle()
    parts = zip(np.array_split(place, PARTS), np.array_split(weights, PARTS), strict=True)
    counts = [np.bincount(p.ravel(), w.ravel(), N_COLOURS) for p, w in parts]
    return np.concatenate([np.sqrt(count / count.sum() / PARTS) for count in counts]).astype(np.float32)


def _middle() -> np.ndarray:
    """Weights of the pixels, (H, W): what a box is about stands in its middle, and fills it from top to bottom."""
    width, height = SIDE_PX
    x, y = (2 * (np.arange(n) + 0.5) / n - 1 for n in (width, height))
    return np.exp(-((1.6 * x[None]) ** 2) - (0.7 * y[:, None]) ** 2)
