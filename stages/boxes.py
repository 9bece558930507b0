"""Geometry of boxes: xyxy in pixels, end exclusive."""

from __future__ import annotations

import numpy as np


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (N, 4) and (M, 4) -> (N, M) in [0, 1]; 0 for boxes without area."""
    corners = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    inter = corners.clip(0).prod(axis=-1)
    areas = [(c[:, 2:] - c[:, :2]).prod(axis=-1) for c in (a, b)]
    union = areas[0][:, None] + areas[1][None] - inter
    share: np.ndarray = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return share
