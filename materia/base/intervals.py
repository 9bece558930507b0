"""Shares with intervals."""

from __future__ import annotations

import math
from typing import NamedTuple


class Interval(NamedTuple):
    """An estimate and its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson(right: int, n: int) -> Interval:
    """A share and its interval (Wilson 1927), which stays inside [0, 1]."""
    z, p = 1.959964, right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n))
