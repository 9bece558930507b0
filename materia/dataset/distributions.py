"""How a number is spread over millions of rows, in memory that does not grow with them.

In: values, some at a time. Out: a `Distribution` of all, its percentiles from an evenly thinned selection.
"""

from __future__ import annotations

import msgspec
import numpy as np

MAX_VALUES = 200_000
_BINS = 16


class Distribution(msgspec.Struct, frozen=True):
    """Of one column over its rows. Percentiles and `histogram` (equal bins from min to max) are of a thinned selection."""

    count: int
    min: float
    p5: float
    median: float
    p95: float
    max: float
    mean: float
    histogram: list[int]


class Values:
    """Count, sum and extremes of all values, and every `step`-th of them; the step doubles when they become too many."""

    def __init__(self) -> None:
        self.kept = np.empty(0)
        self.step, self.count, self.total = 1, 0, 0.0
        self.min, self.max = np.inf, -np.inf

    def add(self, values: np.ndarray) -> None:
        """Values (N,) float64."""
        if not len(values):
            return
        self.kept = np.concatenate([self.kept, values[-self.count % self.step :: self.step]])
        self.count += len(values)
        self.total += float(values.sum())
        self.min, self.max = min(self.min, float(values.min())), max(self.max, float(values.max()))
        while len(self.kept) > MAX_VALUES:
            self.kept, self.step = self.kept[::2], self.step * 2

    def summary(self) -> Distribution:
        """Of all of them; there must be one."""
        p5, median, p95 = (round(float(value), 6) for value in np.percentile(self.kept, (5, 50, 95)))
        histogram = np.histogram(self.kept, bins=_BINS, range=(self.min, self.max))[0].tolist()
        return Distribution(self.count, self.min, p5, median, p95, self.max, round(self.total / self.count, 6), histogram)
