"""The runner without Ray: one slice after the other, each pool with one child, or inline, without any.

The engine of most tests, and the baseline for Ray's overhead (engine: decision 3); inline it is the one of debugging.
"""

from __future__ import annotations

import platform
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

from pipeline.config import PoolSettings
from pipeline.engine.messages import JobSpec, Report, Trouble, Work, report
from pipeline.engine.spool import Spool, commit_chunk
from pipeline.engine.worker import PoolWorker, Queue, told, what_loads
from pipeline.plan import Plan
from pipeline.snapshot import UnderWay
from stages.records import encode_rows


class SerialRunner:
    """Runs slices and commits where it is called."""

    def __init__(
        self, job: JobSpec, plan: Plan, pools: Sequence[PoolSettings], tell: Callable[[str], None], inline: bool = False
    ) -> None:
        self._job = job
        self._plan = plan
        self._pools = pools
        self._tell = tell
        self._inline = inline
        self._workers: list[PoolWorker] = []
        self._spool = Spool(job.out)
        self.troubles: list[Trouble] = []  # all are in reports
        self._at: tuple[int, int, float] | None = None  # slice, pool, since when

    def reports(self, slices: deque[int]) -> Iterator[Report]:
        """Reports in the order of the slices."""
        if not self._workers:
            self._workers = [PoolWorker(self._job, pool, self._inline) for pool in range(len(self._pools))]
            for number, worker in enumerate(self._workers):
                self._tell(what_loads(self._pools[number:]))
                worker.set_up()
            self._tell(what_loads([]))
        while slices:
            number = slices.popleft()
            yield self._run(Work(chunk=self._plan.chunk_of(number), slice=number))

    def _run(self, work: Work) -> Report:
        for pool, worker in enumerate(self._workers):
            if not work.failure:
                self._at = work.slice, pool, time.monotonic()
                work = worker.advance(work)
        self._at = None
        finished = report(work)
        try:
            self._spool.add(work.chunk, work.slice, encode_rows(work.rows))
        except OSError as error:
            finished.failure, finished.exit_code = told(error)
        return finished

    def under_way(self) -> list[UnderWay]:
        """The slice that is worked at."""
        if (at := self._at) is None:
            return []
        number, pool, since = at
        return [UnderWay(number, list(self._pools[pool].stages), platform.node(), round(time.monotonic() - since, 3))]

    def queues(self) -> list[Queue]:
        """None waits; asked between slices, nobody works."""
        return [Queue(0, 0) for _ in self._pools]

    def commit(self, chunk: int) -> Future[None]:
        """Commits before it returns."""
        done: Future[None] = Future()
        try:
            commit_chunk(self._job, self._plan.extra, chunk, self._spool.take(chunk))
        except OSError as error:
            done.set_exception(error)
        else:
            done.set_result(None)
        return done

    def close(self) -> None:
        """End the children."""
        for worker in self._workers:
            worker.close()
