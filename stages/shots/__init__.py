"""Scene cuts: where a clip stops showing one continuous shot, so that its frames of record would show different scenes.

In: small pictures of successive frames and their times, as the decoder meets them. Out: the times of changes. The backend
says how sure a change is (colours.py, transnetv2.py), the settings of the frames stage, which decodes and asks, what is enough.
"""

from __future__ import annotations

import numpy as np

from stages.answers import search
from stages.backends import CutSearcher


def find_cuts(
    searcher: CutSearcher,
    name: str,
    times_s: np.ndarray,
    pictures: np.ndarray,
    shot_threshold: float,
    dissolve_threshold: float,
) -> list[float]:
    """Times of scene changes, ascending; a dissolve may be told several times.

    `times_s` (N,) ascending, `pictures` (N, h, w, 3) uint8 RGB, N >= 1, in the size that the searcher wants. `name`: the
    searcher's, for messages. A change is where a cut is surer than `shot_threshold`, or a dissolve than
    `dissolve_threshold`. Raises stages.answers.BadAnswer.
    """
    found = search(searcher, name, times_s, pictures)
    told = (found.cuts > shot_threshold) | (found.dissolves > dissolve_threshold)
    return [float(time) for time in times_s[told]]
