"""The books of the runner on Ray: which slice waits for which pool, what each worker has to do, and what may start next.

In: what became of slices, with the bytes that they take in Ray's object store. Out: who does what next. Nothing here knows Ray.

What waits is bounded by bytes: a pool that would make more than `bound` is held back, unless the pool behind it would soon have
nothing to do. So a quick pool never floods a slow one and a slow one never starves, however large slices are: it has two for
each of its workers, and at most one more for each worker of the pool before. Lower slices go first, so that chunks become whole
and leave; what is finished counts until it is committed. Only commits that do not keep up hold everything back.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_MOST_LOAD = 2  # slices of a worker: one that it works at, and the next
_LEAST_COMMITS = 4  # may be open at once, more if the last pool has more workers
_FORGET = 0.9  # of a pool's largest slice, with each smaller one


class Given(NamedTuple):
    """What a worker is asked for: the numbers of its pool, of itself in there, and of the slice."""

    pool: int
    worker: int
    slice: int


class _Pool:
    """Workers by what they have to do, slices that wait (a heap), and about how large what the pool makes is."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.by_load: list[dict[int, None]] = [dict.fromkeys(range(workers)), *({} for _ in range(_MOST_LOAD))]
        self.load = [0] * workers
        self.given = 0
        self.waiting: list[int] = []
        self.makes = 0.0

    @property
    def has(self) -> int:
        """Slices in it."""
        return len(self.waiting) + self.given

    def change(self, worker: int, by: int) -> None:
        """A worker got a slice, or is done with one."""
        del self.by_load[self.load[worker]][worker]
        self.load[worker] += by
        self.by_load[self.load[worker]][worker] = None
        self.given += by

    def freest(self, most: int) -> int | None:
        """A worker with the least to do, if that is less than `most`."""
        return next((next(iter(workers)) for workers in self.by_load[:most] if workers), None)

    def made(self, size: int) -> None:
        """Remember the size of a slice that the pool is done with."""
        self.makes = max(size, _FORGET * self.makes)


class Flow:
    """Slices on their way through pools of so many workers; `bound`: bytes that may wait or be worked at."""

    def __init__(self, workers: Sequence[int], bound: float) -> None:
        self._pools = [_Pool(count) for count in workers]
        self._most = _MOST_LOAD * sum(workers)
        self._most_commits = max([_LEAST_COMMITS, *workers[-1:]])
        self._bound = bound
        self._sizes: dict[int, int] = {}  # slice -> bytes of what there is of it, if it waits, is worked at, or is finished
        self._grows: dict[int, float] = {}  # slice -> bytes that its worker is about to make of it, beyond those
        self._held = self._growth = 0.0  # their sums
        self.on_their_way = 0
        self.committing: set[int] = set()  # chunks

    def admit(self, left: deque[int]) -> Iterator[int]:
        """Take slices off `left`, the first ones first, as far as the first pool can use them."""
        first = self._pools[0]
        while left and self.on_their_way < self._most and len(first.waiting) < first.workers:
            self.on_their_way += 1
            number = left.popleft()
            self._wait(0, number, 0)
            yield number

    def next(self, left: int) -> Iterator[Given]:
        """What shall be done now, later pools first. `left`: slices that were not admitted yet."""
        if len(self.committing) >= self._most_commits:
            return
        for number in reversed(range(len(self._pools))):
            pool = self._pools[number]
            to_come = left + sum(before.has for before in self._pools[:number])
            while pool.waiting:
                fits = self._fits(number, pool.waiting[0])
                if not fits and not self._is_needed(number):
                    break
                # At the end none waits behind another.
                worker = pool.freest(_MOST_LOAD if fits and len(pool.waiting) + to_come > pool.workers else 1)
                if worker is None:
                    break
                yield self._give(number, worker)

    def done(self, given: Given, size: int) -> bool:
        """A worker is done with a slice, of which there are `size` bytes now; whether that was the last pool."""
        pool = self._pools[given.pool]
        self._take_back(given)
        pool.made(size)
        if given.pool + 1 < len(self._pools):
            self._wait(given.pool + 1, given.slice, size)
            return False
        self.on_their_way -= 1
        self._resize(given.slice, size)
        return True

    def lost(self, given: Given) -> None:
        """What the worker should have worked at is gone; the slice must be admitted again."""
        self._take_back(given)
        self.on_their_way -= 1
        self.forget(given.slice)

    def forget(self, number: int) -> None:
        """A finished slice is not held any more."""
        self._held -= self._sizes.pop(number, 0)

    def at_work(self, pool: int) -> int:
        """How many workers of a pool have something to do."""
        return sum(map(len, self._pools[pool].by_load[1:]))

    def waiting(self, pool: int) -> int:
        """How many slices wait for a worker of a pool."""
        return len(self._pools[pool].waiting)

    @property
    def held(self) -> float:
        """Bytes of all slices that wait, are worked at, or are finished."""
        return self._held

    def _give(self, number: int, worker: int) -> Given:
        slice_ = heapq.heappop(self._pools[number].waiting)
        self._pools[number].change(worker, 1)
        self._grows[slice_] = self._would_grow(number, slice_)
        self._growth += self._grows[slice_]
        return Given(number, worker, slice_)

    def _take_back(self, given: Given) -> None:
        self._pools[given.pool].change(given.worker, -1)
        self._growth -= self._grows.pop(given.slice)

    def _would_grow(self, number: int, slice_: int) -> float:
        return max(0.0, self._pools[number].makes - self._sizes[slice_])

    def _wait(self, number: int, slice_: int, size: int) -> None:
        self._resize(slice_, size)
        heapq.heappush(self._pools[number].waiting, slice_)

    def _resize(self, slice_: int, size: int) -> None:
        self.forget(slice_)
        self._sizes[slice_] = size
        self._held += size

    def _fits(self, number: int, slice_: int) -> bool:
        return self._held + self._growth + self._would_grow(number, slice_) <= self._bound

    def _is_needed(self, number: int) -> bool:
        """Whether the next pool would soon have nothing to do; the last pool is what makes room, unless commits do."""
        if number + 1 == len(self._pools):
            return not self.committing
        return self._pools[number + 1].has < _MOST_LOAD * self._pools[number + 1].workers
