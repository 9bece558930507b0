"""Means with intervals."""

from __future__ import annotations

import numpy as np

from materia.base.intervals import Interval

RESAMPLES = 10_000
CONFIDENCE = 0.95


def bootstrap(values: np.ndarray, rng: np.random.Generator) -> Interval:
    """Mean of (runs, clips) and the 2.5 % and 97.5 % quantiles of the means of runs and clips drawn again (Efron 1979)."""
    runs, clips = values.shape
    of_runs = rng.multinomial(runs, np.full(runs, 1 / runs), size=RESAMPLES) / runs  # (RESAMPLES, runs)
    of_clips = rng.multinomial(clips, np.full(clips, 1 / clips), size=RESAMPLES) / clips  # (RESAMPLES, clips)
    means = (of_runs @ values * of_clips).sum(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))
