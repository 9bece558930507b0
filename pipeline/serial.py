"""The runner without Ray: one slice after the other in this process, each pool with one child.

The engine of debugging and of most tests, and the baseline for Ray's overhead (engine: decision 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np

from pipeline.plan import Plan
from pipeline.slices import JobSpec, PoolWorker, Report, Work, commit_chunk, report


class SerialRunner:
    """Runs slices and commits where it is called."""

    def __init__(self, job: JobSpec, plan: Plan, n_pools: int) -> None:
        self._job = job
        self._plan = plan
        self._workers: list[PoolWorker] = []
        self._n_pools = n_pools

    def reports(self, slices: np.ndarray) -> Iterator[Report]:
        """Reports in the order of the slices."""
        self._workers = [PoolWorker(self._job, pool) for pool in range(self._n_pools)]
        for number in slices.tolist():
            work = Work(chunk=self._plan.chunk_of(number), slice=number)
            for worker in self._workers:
                work = worker.advance(work)
            yield report(work)

    def commit(self, chunk: int) -> Future[None]:
        """Commits before it returns."""
        done: Future[None] = Future()
        commit_chunk(self._job, chunk)
        done.set_result(None)
        return done

    def close(self) -> None:
        """End the children."""
        for worker in self._workers:
            worker.close()
