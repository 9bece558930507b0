"""One joint choice for all words of a clip: which box of each frame shows the word, or none, so that a word is one individual.

In: how well boxes fit words, and how well boxes of different frames fit each other. Out: a box a frame for every word, or -1.
No two words take one thing. Solved exactly: words that want the same boxes are a small integer program (SciPy's HiGHS), the
others take their best; equally good choices are told apart by the order of boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

NONE = -1
LINK_WEIGHT = 1.2
"""What a link counts beside how well a box fits a word. [ours, tools/eval_identity.py]"""
NO_LINK = 0.5
"""A link below this speaks against taking both boxes."""
_TIE = 1e-6
"""Between choices that are equally good, the earlier one is better by so much."""


class Choices(NamedTuple):
    """Of a word: `boxes` (T, F) int64, a box of each frame or NONE; `values` (T,) descending. No choice: one row of NONE."""

    boxes: np.ndarray
    values: np.ndarray


def choices_of(fit: Sequence[np.ndarray], sure: Sequence[np.ndarray], links: dict[tuple[int, int], np.ndarray]) -> Choices:
    """The choices of a word that are better than none, best first.

    `fit[f]` (N_f,) float32: how well each box of frame f fits the word, NaN: it is no candidate. `sure[f]` (N_f,) bool: boxes
    of which a choice must have one at least. `links[f, g]` (N_f, N_g): how well boxes of frames f < g fit each other, 0-1.
    """
    frames = [[NONE, *np.flatnonzero(~np.isnan(scores)).tolist()] for scores in fit]
    found: list[tuple[float, tuple[int, ...]]] = []
    for boxes in product(*frames):
        taken = [(frame, box) for frame, box in enumerate(boxes) if box != NONE]
        if not any(sure[frame][box] for frame, box in taken):
            continue
        value = sum(float(fit[frame][box]) for frame, box in taken)
        value += sum(
            LINK_WEIGHT * (float(links[f, g][a, b]) - NO_LINK) for n, (f, a) in enumerate(taken) for g, b in taken[n + 1 :]
        )
        if value > 0:
            found.append((value, boxes))
    found.sort(key=lambda choice: (-round(choice[0], 6), choice[1]))
    none = (NONE,) * len(fit)
    return Choices(
        np.array([boxes for _, boxes in found] or [none], np.int64), np.array([value for value, _ in found] or [0.0])
    )


def choose(words: Sequence[Choices], same: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each word its boxes (F,) int64, NONE where it has none, of the greatest value together.

    `same[f]` (N_f, N_f) bool, symmetric, true on the diagonal: boxes of frame f that show one thing, which one word may take.
    """
    best = [word.boxes[0] for word in words]
    if not _clash(best, same):
        return best
    return _solved(words, same)


def second_best(word: Choices, boxes: np.ndarray, same: Sequence[np.ndarray]) -> float | None:
    """How good the best choice of a word is that has nothing of its chosen `boxes` (F,), as a share of how good these are, in
    [0, 1]; None if there is none, or the word has no boxes.
    """
    values = [value for row, value in zip(word.boxes, word.values, strict=True) if np.array_equal(row, boxes)]
    others = [value for row, value in zip(word.boxes, word.values, strict=True) if not _clash([row, boxes], same)]
    if not values or not others or (boxes == NONE).all():
        return None
    return min(1.0, float(others[0] / values[0]))


def _clash(chosen: Sequence[np.ndarray], same: Sequence[np.ndarray]) -> bool:
    return any(
        a[frame] != NONE and b[frame] != NONE and same[frame][a[frame], b[frame]]
        for n, a in enumerate(chosen)
        for b in chosen[n + 1 :]
        for frame in range(len(same))
    )


def _solved(words: Sequence[Choices], same: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A set packing: one choice a word at most, and of each pair of boxes that show one thing one at most."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    owner = np.concatenate([np.full(len(word.values), n) for n, word in enumerate(words)])
    boxes = np.concatenate([word.boxes for word in words])
    values = np.concatenate([word.values - _TIE * np.arange(len(word.values)) / 216 for word in words])
    rows = [owner == n for n in range(len(words))]
    for frame, alike in enumerate(same):
        uses = boxes[:, frame, None] == np.arange(len(alike))[None]  # (choices, boxes)
        pairs = np.argwhere(np.triu(alike))  # a box with itself: those that nothing else is like are among them
        rows += [uses[:, a] | uses[:, b] for a, b in pairs.tolist()]
    limits = csr_matrix(np.stack(rows).astype(float))
    solution = milp(-values, integrality=np.ones(len(values)), bounds=Bounds(0, 1), constraints=LinearConstraint(limits, ub=1))
    if solution.x is None:
        raise RuntimeError(f"no joint choice was found: {solution.message}")
    taken = np.flatnonzero(solution.x > 0.5)
    chosen = {int(owner[row]): boxes[row] for row in taken}
    return [chosen.get(n, np.full(len(same), NONE)) for n in range(len(words))]
