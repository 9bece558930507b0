"""The driver's loop: slices come back, chunks are committed when whole, and a failure of everything stops the job.

In: a runner, and numbers of slices that are to do or wait in the spool. Out: every chunk of theirs committed, or JobError.
"""

from __future__ import annotations

from collections import Counter, deque
from concurrent.futures import Future

import numpy as np

from materia.base import storage
from materia.base.conditional import Conflict
from materia.base.leases import Lease, LeaseLost
from materia.base.terminal import plural
from pipeline.engine.messages import JobSpec, Report, failures, mostly_failed
from pipeline.engine.spool import spool_address
from pipeline.engine.worker import Runner, told
from pipeline.ledger import Ledger, spans
from pipeline.plan import Plan
from pipeline.preflight import RUN, JobError
from pipeline.progress import Progress
from pipeline.runlog import RunLog

_MOST_COMMITS = 4  # that run at once
_SYSTEMATIC_ROWS = 64  # in failed slices without a healthy one between them: the failure is not of single clips


class SystematicFailure(JobError):
    """Not single clips fail, but what they all need."""


class Drive:
    """Of one start of a job, which holds the lease on the chunks that it works at."""

    def __init__(
        self, job: JobSpec, plan: Plan, runner: Runner, log: RunLog, progress: Progress, lease: Lease, ledger: Ledger
    ) -> None:
        self._job = job
        self._plan = plan
        self._runner = runner
        self._log = log
        self._words = storage.join(job.out, RUN, "workers.log")
        self._progress = progress
        self._lease = lease
        self._ledger = ledger
        self._committed: set[int] = set()  # chunks, by this start
        lease.tell = lambda: {"chunks": spans(list(self._committed))}
        self._spooled: Counter[int] = Counter()  # chunk -> its slices in the spool
        self._whole: list[int] = []  # chunks ready to be committed
        self._commits: deque[tuple[int, Future[None]]] = deque()
        self._suspects: list[Report] = []  # failed slices since the last healthy one
        self._down: list[Report] = []  # slices of which a stage failed for every row that it was given
        self._reached = -1  # the last stage that did its work for some row of this start

    def run(self, todo: np.ndarray, waiting: set[int], done: set[int]) -> None:
        """Process slices `todo`, with `waiting` in the spool already; raises JobError when the job cannot go on."""
        for number in sorted(waiting):
            chunk = self._plan.chunk_of(number)
            if chunk in done:  # killed between a commit and the emptying of its spool
                storage.remove(spool_address(self._job.out, number))
            else:
                self._count(chunk)
        self._commit_whole()
        if len(todo):
            for report in self._runner.reports(todo):
                self._take(report)
            if self._down:
                self._try_again()
        self._finish_commits()
        self._ledger.finish()

    def _try_again(self) -> None:
        """Once more what met a stage that was down. Raises SystematicFailure if it still is.

        If it works for others, the rows are at fault, and their rejections stay.
        """
        slices, self._down = np.array(sorted(report.slice for report in self._down), np.int64), []
        for report in self._runner.reports(slices):
            self._take(report)
        stuck = [report for report in self._down if report.down is not None and report.down > self._reached]
        if stuck:
            self._suspects = stuck
            self._finish_commits()
            raise self._systematic_failure()
        for report in self._down:
            self._progress.add(report)
            self._count(report.chunk)

    def _take(self, report: Report) -> None:
        self._log.add(report)
        if report.failure:
            raise JobError(report.exit_code, f"{report.failure}\nsee {self._words}" if report.notes else report.failure)
        self._reached = max(self._reached, report.reached)
        if report.down is None:
            self._progress.add(report)
            self._count(report.chunk)
        else:
            self._down.append(report)
        if not mostly_failed(report):
            self._suspects.clear()
            self._commit_whole()
            return
        self._suspects.append(report)
        if sum(suspect.rows for suspect in self._suspects) >= _SYSTEMATIC_ROWS:
            raise self._systematic_failure()

    def _systematic_failure(self) -> SystematicFailure:
        reasons = sum((failures(suspect.rejected) for suspect in self._suspects), Counter[str]())
        reason, times = reasons.most_common(1)[0]
        rows = sum(suspect.rows for suspect in self._suspects)
        example = next((suspect.example for suspect in self._suspects if suspect.example), "")
        return SystematicFailure(
            5,
            f"stopped: {times} of the last {plural(rows, 'row')} ended as {reason}, e.g. {example}\n"
            f"see {self._words}; then start again",
        )

    def _count(self, chunk: int) -> None:
        self._spooled[chunk] += 1
        if self._spooled[chunk] == len(self._plan.slices_of(chunk)):
            del self._spooled[chunk]
            self._whole.append(chunk)

    def _commit_whole(self) -> None:
        for chunk in self._whole:
            while len(self._commits) >= _MOST_COMMITS:
                self._wait(*self._commits.popleft())
            self._lease.check()
            self._commits.append((chunk, self._runner.commit(chunk)))
        self._whole.clear()

    def _finish_commits(self) -> None:
        """Commit what is whole, and wait for all commits."""
        self._commit_whole()
        while self._commits:
            self._wait(*self._commits.popleft())

    def _wait(self, chunk: int, commit: Future[None]) -> None:
        """Raises JobError if the output could not be written, LeaseLost if it is another job's now."""
        try:
            commit.result()
        except OSError as error:
            cause = getattr(error, "cause", error)  # Ray wraps it
            if isinstance(cause, LeaseLost | Conflict):
                raise LeaseLost(str(cause)) from None
            sentence, exit_code = told(cause)
            raise JobError(exit_code, sentence) from None
        self._committed.add(chunk)
        self._ledger.add(chunk)
