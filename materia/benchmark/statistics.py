"""Means with intervals."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """An estimate and its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: np.ndarray, rng: np.random.Generator) -> Interval:
    """Mean of (runs, clips) and the 2.5 % and 97.5 % quantiles of the means of runs and clips drawn again (Efron 1979)."""
    runs, clips = values.shape
    of_runs = rng.multinomial(runs, np.full(runs, 1 / runs), size=RESAMPLES) / runs  # (RESAMPLES, runs)
    of_clips = rng.multinomial(clips, np.full(clips, 1 / clips), size=RESAMPLES) / clips  # (RESAMPLES, clips)
    means = (of_runs @ values * of_clips).sum(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def wilson(right: int, n: int) -> Interval:
    """A share and its interval (Wilson 1927), which stays inside [0, 1]."""
    z, p = 1.959964, right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n))
