"""How alike two pictures of a subject are: as distributions of colours, which no network had a hand in, and by features.

In: crops (h, w, 4) uint8 RGBA, or a clip and the regions where a subject should be. Out: numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch

from trainer.data.augment import on_white_square
from trainer.encoders.base import ImageEncoder

DIRECTIONS, QUANTILES = 48, 32
"""Of the sliced Wasserstein distance."""
SIDE_PX = 224
"""Of the pictures whose features are compared."""


def colours(rgb: np.ndarray) -> np.ndarray:
    """Distribution of colours (n, 3) uint8 RGB: quantiles of their CIELAB values along directions, (DIRECTIONS, QUANTILES)."""
    lab = cv2.cvtColor(rgb[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]  # (n, 3)
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return np.asarray(np.quantile(lab @ _directions().T, levels, axis=0).T)


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Sliced Wasserstein-1 distance of two `colours`, times 2: so that a shift by a vector counts its length (the mean of
    |cos| over the sphere is 1/2)."""
    return 2 * float(np.abs(a - b).mean())


def _directions() -> np.ndarray:
    """Evenly spread over the half sphere by the golden angle, (DIRECTIONS, 3)."""
    place = np.arange(DIRECTIONS) + 0.5
    z, angle = place / DIRECTIONS, np.pi * (1 + math.sqrt(5)) * place
    ring = np.sqrt(1 - z**2)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)


def looks(video: np.ndarray, regions: Sequence[tuple[int, np.ndarray]]) -> list[np.ndarray]:
    """What is seen in a subject's regions of a clip (T, H, W, 3): crops (h, w, 4) uint8 RGBA."""
    crops = []
    for frame, mask in regions:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            crops.append(np.dstack([video[frame][box], np.where(mask[box], np.uint8(255), np.uint8(0))]))
    return crops


def opaque(crops: Sequence[np.ndarray]) -> np.ndarray:
    """All opaque pixels of some crops, (n, 3) uint8 RGB."""
    return np.concatenate([crop[crop[..., 3] > 127][:, :3] for crop in crops])


def features(crops: Sequence[np.ndarray], scorer: ImageEncoder) -> np.ndarray:
    """Mean token of crops on white, (width,)."""
    tokens = scorer.encode(torch.from_numpy(np.stack([on_white_square(crop, SIDE_PX) for crop in crops])))
    return np.asarray(tokens.mean(dim=(0, 1)).cpu())


def assigned(tables: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> bool:
    """Whether two subjects, by their `colours`, are each nearer to its own reference than crosswise."""
    straight = apart(tables[0], references[0]) + apart(tables[1], references[1])
    return straight < apart(tables[0], references[1]) + apart(tables[1], references[0])


def motion(video: np.ndarray) -> float:
    """Mean change from frame to frame of a clip (T, H, W, 3) uint8, grey levels."""
    return float(np.abs(np.diff(video.astype(np.float32), axis=0)).mean()) if len(video) > 1 else 0.0


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two vectors (width,)."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
