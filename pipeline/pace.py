"""How fast a job goes now, and how long the rest will take.

In: when slices finish, and how long each was worked at. Out: clips a second over the last minute or less, and seconds left.
Models load and caches fill before the first slice is there, so time counts from shortly before that one. In a steady state as
many clips finish in a second as begin: those in the pools need no count of their own.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 60.0
_SHARE = 0.25
"""The pace is measured over the last `_SHARE` of the time, at most `WINDOW_S`: a slow start is forgotten."""
_SLICES = 2
"""So many times as long as a slice is worked at, it is measured at least: all workers may finish theirs at once."""

_NEWS = 0.1  # weight of a slice in the running mean of how long they are worked at
_LEAST_S = 1e-3  # no division by zero


class Pace:
    """Fed with slices in the order in which they finish."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque()  # (when it finished, its clips)
        self._all = 0
        self._began = 0.0  # the first slice's work, as if others had been before it
        self._known_since = 0.0  # slices that finished later are in `_recent`
        self.slice_s = 0.0  # for which a slice is worked at, lately

    def add(self, now: float, rows: int, wall_s: float, step_s: float) -> None:
        """A slice of `rows` clips finished at `now`; it was worked at for `wall_s`, and one such is expected every `step_s`."""
        if not self._recent:
            self._began = self._known_since = now - step_s
            self.slice_s = wall_s
        self.slice_s += _NEWS * (wall_s - self.slice_s)
        self._recent.append((now, rows))
        self._all += rows
        while len(self._recent) > 1 and self._recent[1][0] <= now - self._window_s(now):
            self._known_since, _ = self._recent.popleft()

    def rate(self, now: float) -> tuple[float, float]:
        """(clips a second, over how many seconds), once a slice is there. Falls when the next slice is overdue."""
        rows, span_s, _ = self._measured(now)
        return rows / span_s, span_s

    def overall(self, now: float) -> float:
        """Clips a second since the first slice began; 0 until one is there."""
        return self._all / max(now - self._began, _LEAST_S) if self._recent else 0.0

    def left_s(self, now: float, rows: int) -> float:
        """Seconds until `rows` more clips are done: at this pace, counted from the last slice."""
        per_s, _ = self.rate(now)
        _, _, interval_s = self._measured(now)
        return max(0.0, rows / per_s - min(now - self._recent[-1][0], interval_s))

    def _measured(self, now: float) -> tuple[int, float, float]:
        """(clips, in so many seconds, seconds from slice to slice): from the last slice before the window that ends now."""
        *earlier, (last, rows) = list(self._recent)
        start = now - self._window_s(now)
        since = max((when for when, _ in earlier if when <= start), default=self._known_since)
        counted = [rows, *(clips for when, clips in earlier if when > since)]
        interval_s = (last - since) / len(counted)
        overdue_s = max(0.0, now - last - interval_s)
        return sum(counted), max(last - since + overdue_s, _LEAST_S), interval_s

    def _window_s(self, now: float) -> float:
        return max(min(WINDOW_S, _SHARE * (now - self._began)), _SLICES * self.slice_s)
