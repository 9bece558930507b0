"""How sure it is that two boxes of different frames show the same individual: motion, appearance, face, place.

In: boxes of two frames of record, what moved between the frames (stages/video/motion.py), descriptions of how the boxes look.
Out: for each pair of boxes each kind of evidence from 0 (another) to 1 (the same), NaN where it says nothing, and their mean.
[ours] Weights and scales were chosen with tools/eval_identity.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MOTION_WEIGHT, APPEARANCE_WEIGHT, FACE_WEIGHT, PLACE_WEIGHT = 1.0, 0.8, 3.0, 0.3
"""A face outweighs all others together."""
ENOUGH_POINTS = 10.0
"""Points in a box, weighted, from which on motion counts in full."""
FEWEST_POINTS = 3.0
"""With fewer in both boxes motion says nothing."""
SAME_SHARE = 0.7
"""Share of a box's points that end in the other one, from which on motion is sure: boxes hold some background, too."""
PLACE_SCALE = 1.0
"""Diagonals of a box that an individual moves between two frames, beside what the camera does, at which place says 1/e."""


class Pairs(NamedTuple):
    """Evidence of each pair of N boxes of a frame and M of a later one, all (N, M) float32 in [0, 1] or NaN."""

    motion: np.ndarray
    appearance: np.ndarray
    face: np.ndarray
    score: np.ndarray


def weigh(
    first: np.ndarray,
    second: np.ndarray,
    points: np.ndarray,
    camera: np.ndarray | None,
    alike: np.ndarray,
    face: np.ndarray,
) -> Pairs:
    """Boxes (N, 4), (M, 4) xyxy in pixels; `points` (K, 4) that were followed from the one frame to the other; `camera` (2, 3)
    what the camera does to a place, None if that is not known; `alike` (N, M) in [0, 1] how alike the boxes look, `face` (N, M)
    their faces, NaN where one of them shows none.
    """
    motion, reliable = _motion(first, second, points)
    place = _place(first, second, camera)
    evidence = np.stack([motion, alike, face, place])
    constant = [np.full_like(alike, weight) for weight in (APPEARANCE_WEIGHT, FACE_WEIGHT, PLACE_WEIGHT)]
    weights = np.where(np.isnan(evidence), 0, np.stack([MOTION_WEIGHT * reliable, *constant]))
    score = (np.nan_to_num(evidence) * weights).sum(axis=0) / np.maximum(weights.sum(axis=0), 1e-6)
    return Pairs(motion, alike, face, score.astype(np.float32))


def _motion(first: np.ndarray, second: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Evidence (N, M), and how much it counts, (N, M) in [0, 1]."""
    inside_first = inside(first, points[:, :2])  # (N, K)
    inside_second = inside(second, points[:, 2:])  # (M, K)
    n_first, n_second = inside_first.sum(axis=1), inside_second.sum(axis=1)
    both = np.minimum(inside_first[:, None], inside_second[None]).sum(axis=2)  # (N, M)
    share = both / np.sqrt(np.maximum(n_first[:, None] * n_second[None], 1e-6))
    most = np.maximum(n_first[:, None], n_second[None])
    motion = np.where(most >= FEWEST_POINTS, np.minimum(1, share / SAME_SHARE), np.nan)
    return motion.astype(np.float32), np.minimum(1, most / ENOUGH_POINTS).astype(np.float32)


def inside(boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How much each point (K, 2) belongs to what each box (N, 4) shows, (N, K): 1 in its middle, 0 at its edge and outside."""
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6)
    away = 2 * np.abs(points[None] - centres[:, None]) / sizes[:, None]  # (N, K, 2), 1 at the edge
    weight: np.ndarray = np.clip(1 - away**2, 0, 1).prod(axis=2)
    return weight


def _place(first: np.ndarray, second: np.ndarray, camera: np.ndarray | None) -> np.ndarray:
    if camera is None:
        return np.full((len(first), len(second)), np.nan, np.float32)
    centres = (first[:, :2] + first[:, 2:]) / 2
    carried = centres @ camera[:, :2].T + camera[:, 2]
    there = (second[:, :2] + second[:, 2:]) / 2
    distance = np.linalg.norm(carried[:, None] - there[None], axis=2)
    diagonals = [np.linalg.norm(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    scale = PLACE_SCALE * np.minimum(diagonals[0][:, None], diagonals[1][None])
    place: np.ndarray = np.exp(-distance / np.maximum(scale, 1e-6)).astype(np.float32)
    return place
