"""The engine on Ray in simulated time: its own books (pipeline/engine/flow.py), and workers that only take their time.

In: pools of workers, and what a slice takes in each. Out: how long a job takes and how busy its pools are, for any number of
workers. The driver does one thing at a time, which is what bounds very many workers; without a cluster it also commits, one
chunk at a time.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from pipeline.engine.flow import Flow, Given


class SimulatedPool(NamedTuple):
    """So many workers that take `seconds` for a slice and make `size` bytes of it."""

    workers: int
    seconds: float
    size: int = 0


class Simulated(NamedTuple):
    """`busy`: of each pool, its workers' share of the time, from when the first slice reached it to when the last one left.

    `most_held`: bytes that waited or were worked at, at most. `finished`: slices in the order in which they left.
    """

    wall_s: float
    busy: list[float]
    most_held: float
    finished: list[int]


def simulate(
    pools: Sequence[SimulatedPool],
    n_slices: int,
    *,
    slices_per_chunk: int,
    bound: float = math.inf,
    driver_s: float = 0.0,
    commit_s: float = 0.0,
    on_cluster: bool = False,
    loses: Collection[int] = (),
) -> Simulated:
    """Run a job. `bound`: bytes, see Flow; `driver_s`: that the driver is busy with each slice of each pool; `commit_s`: of a
    chunk. `on_cluster`: commits run side by side. `loses`: slices whose first answer of the last pool is lost with a node.
    """
    return _Simulation(pools, n_slices, slices_per_chunk, bound, driver_s, commit_s, on_cluster, set(loses)).run()


class _Simulation:
    def __init__(
        self,
        pools: Sequence[SimulatedPool],
        n_slices: int,
        slices_per_chunk: int,
        bound: float,
        driver_s: float,
        commit_s: float,
        on_cluster: bool,
        loses: set[int],
    ) -> None:
        self._pools = pools
        self._n_slices, self._slices_per_chunk = n_slices, slices_per_chunk
        self._driver_s, self._commit_s, self._on_cluster = driver_s, commit_s, on_cluster
        self._loses = loses
        self._flow = Flow([pool.workers for pool in pools], bound)
        self._left = deque(range(n_slices))
        self._events: list[tuple[float, int, Given | int]] = []  # (when, number, done or a chunk that is committed)
        self._numbers: Iterator[int] = iter(range(2**63))
        self._has: dict[tuple[int, int], deque[Given]] = {}  # (pool, worker) -> what it has to do
        self._busy_s = [0.0] * len(pools)
        self._spans = [(math.inf, 0.0)] * len(pools)
        self._of_chunk: Counter[int] = Counter()
        self._committer_free = 0.0
        self._most_held = 0.0
        self._finished: list[int] = []

    def run(self) -> Simulated:
        """Event after event; the driver looks at one when it is done with those before."""
        now = 0.0
        while self._left or self._flow.on_their_way or self._flow.committing:
            list(self._flow.admit(self._left))
            for given in self._flow.next(len(self._left)):
                queue = self._has.setdefault(given[:2], deque())
                queue.append(given)
                if len(queue) == 1:
                    self._begin(now, given)
            self._most_held = max(self._most_held, self._flow.held)
            when, _, what = heapq.heappop(self._events)
            now = max(now, when) + self._driver_s
            if isinstance(what, Given):
                self._done(when, now, what)
            else:
                self._committed(what)
        assert self._flow.held == 0
        busy = [
            spent / (pool.workers * (end - start)) if end > start else 0.0
            for pool, spent, (start, end) in zip(self._pools, self._busy_s, self._spans, strict=True)
        ]
        return Simulated(now, busy, self._most_held, self._finished)

    def _begin(self, now: float, given: Given) -> None:
        seconds = self._pools[given.pool].seconds
        self._busy_s[given.pool] += seconds
        start, end = self._spans[given.pool]
        self._spans[given.pool] = min(start, now), max(end, now + seconds)
        heapq.heappush(self._events, (now + seconds, next(self._numbers), given))

    def _done(self, when: float, now: float, given: Given) -> None:
        queue = self._has[given[:2]]
        queue.popleft()
        if queue:
            self._begin(when, queue[0])  # it was there already: the worker does not wait for the driver
        if given.pool == len(self._pools) - 1 and given.slice in self._loses:
            self._loses.discard(given.slice)
            self._flow.lost(given)
            self._left.appendleft(given.slice)
        elif self._flow.done(given, self._pools[given.pool].size):
            self._finished.append(given.slice)
            self._commit_if_whole(now, given.slice // self._slices_per_chunk)

    def _commit_if_whole(self, now: float, chunk: int) -> None:
        self._of_chunk[chunk] += 1
        if self._of_chunk[chunk] == min(self._slices_per_chunk, self._n_slices - chunk * self._slices_per_chunk):
            self._flow.committing.add(chunk)
            begins = now if self._on_cluster else max(now, self._committer_free)
            self._committer_free = begins + self._commit_s
            heapq.heappush(self._events, (self._committer_free, next(self._numbers), chunk))

    def _committed(self, chunk: int) -> None:
        self._flow.committing.discard(chunk)
        for number in range(chunk * self._slices_per_chunk, min((chunk + 1) * self._slices_per_chunk, self._n_slices)):
            self._flow.forget(number)
