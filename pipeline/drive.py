"""The driver's loop: slices come back, chunks are committed when whole, and a failure of everything stops the job.

In: a runner, and numbers of slices. Out: every chunk of theirs committed, or JobError.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from concurrent.futures import Future, wait
from typing import Any

import msgspec

from materia.base import storage
from materia.base.conditional import Conflict
from materia.base.leases import Lease, LeaseLost
from materia.base.terminal import plural
from pipeline.engine.messages import JobSpec, Report, failures, mostly_failed
from pipeline.engine.spool import ChunkLost
from pipeline.engine.worker import Runner, told
from pipeline.ledger import Ledger, spans
from pipeline.metrics import Metrics
from pipeline.plan import Plan
from pipeline.preflight import RUN, JobError
from pipeline.progress import Progress
from pipeline.runlog import RunLog
from pipeline.snapshot import free_bytes

_KEPT = ""
_SLOWEST = 5  # slices that others are told of
_SYSTEMATIC_ROWS = 64  # in failed slices without a healthy one between them: the failure is not of single clips


class SystematicFailure(JobError):
    """Not single clips fail, but what they all need."""


class Drive:
    """Of one start of a job, which holds the lease on the chunks that it works at; `before`: those that are committed."""

    def __init__(
        self,
        job: JobSpec,
        plan: Plan,
        runner: Runner,
        log: RunLog,
        progress: Progress,
        metrics: Metrics,
        lease: Lease,
        ledger: Ledger,
        before: set[int],
    ) -> None:
        self._job = job
        self._plan = plan
        self._runner = runner
        self._log = log
        self._words = storage.join(job.out, RUN, "workers.log")
        self._progress = progress
        self._metrics = metrics
        self._lease = lease
        self._ledger = ledger
        self._before = before
        self._committed: set[int] = set()  # chunks, by this start
        self._last_commit = time.monotonic()
        self._finished: Counter[int] = Counter()  # chunk -> its slices that are finished
        self._whole: list[int] = []  # chunks ready to be committed
        self._commits: deque[tuple[int, Future[None]]] = deque()
        self._todo: deque[int] = deque()
        self._repeated: set[int] = set()  # slices that were finished and lost
        self._open: defaultdict[int, Counter[str]] = defaultdict(Counter)  # chunk -> what became of its rows until now
        self._outcomes: Counter[str] = Counter()  # of committed rows: reason, or `_KEPT`
        self._suspects: list[Report] = []  # failed slices since the last healthy one
        self._down: list[Report] = []  # slices of which a stage failed for every row that it was given
        self._reached = -1  # the last stage that did its work for some row of this start
        lease.tell = self._told

    def run(self, todo: deque[int]) -> None:
        """Process slices and commit their chunks; raises JobError when the job cannot go on, LeaseLost if another took over."""
        self._todo = todo
        self._run_slices()
        if self._down:
            self._try_again()
        self._finish_commits()
        self._ledger.finish()

    def _told(self) -> dict[str, Any]:
        """What others shall know of this start; called from another thread, so of copies (progress.py)."""
        snapshot = msgspec.structs.replace(
            self._progress.snapshot(),
            kept=self._outcomes[_KEPT],
            rejected={reason: rows for reason, rows in dict(self._outcomes).items() if reason != _KEPT},
            chunks_before=spans(list(self._before)),
            chunks=spans(list(self._committed)),
            since_commit_s=round(time.monotonic() - self._last_commit, 3),
            under_way=sorted(self._runner.under_way(), key=lambda one: -one.seconds)[:_SLOWEST],
            free_bytes=free_bytes(self._job.out),
        )
        told: dict[str, Any] = msgspec.to_builtins(snapshot)
        return told

    def _run_slices(self) -> None:
        while self._todo:
            for report in self._runner.reports(self._todo):
                if report is not None:
                    self._take(report)
                self._look_at_commits()
            while self._runner.troubles:
                self._log.tell(self._runner.troubles.pop())

    def _try_again(self) -> None:
        """Once more what met a stage that was down. Raises SystematicFailure if it still is.

        If it works for others, the rows are at fault, and their rejections stay.
        """
        self._todo.extend(sorted(report.slice for report in self._down))
        self._down = []
        self._run_slices()
        stuck = [report for report in self._down if report.down is not None and report.down > self._reached]
        if stuck:
            self._suspects = stuck
            self._finish_commits()
            raise self._systematic_failure()
        for report in self._down:
            self._count(report)

    def _take(self, report: Report) -> None:
        self._log.add(report)
        if report.failure:
            raise JobError(report.exit_code, f"{report.failure}\nsee {self._words}" if report.notes else report.failure)
        self._reached = max(self._reached, report.reached)
        if report.down is None:
            self._count(report)
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

    def _count(self, report: Report) -> None:
        if report.slice not in self._repeated:
            self._progress.add(report)
            self._metrics.add(report)
        self._metrics.queues(self._runner.queues())
        chunk = report.chunk
        self._open[chunk].update({_KEPT: report.kept, **report.rejected})
        self._finished[chunk] += 1
        if self._finished[chunk] == len(self._plan.slices_of(chunk)):
            del self._finished[chunk]
            self._whole.append(chunk)

    def _commit_whole(self) -> None:
        for chunk in self._whole:
            self._lease.check()
            self._commits.append((chunk, self._runner.commit(chunk)))
        self._whole.clear()

    def _look_at_commits(self) -> None:
        """Take notice of those that have ended. Raises JobError if the output could not be written, LeaseLost."""
        while self._commits and self._commits[0][1].done():
            chunk, commit = self._commits.popleft()
            try:
                commit.result()
            except ChunkLost:
                del self._open[chunk]
                self._repeated.update(self._plan.slices_of(chunk))
                self._todo.extendleft(reversed(self._plan.slices_of(chunk)))
            except (LeaseLost, Conflict) as error:
                raise LeaseLost(str(error)) from None
            except OSError as error:
                sentence, exit_code = told(error)
                raise JobError(exit_code, sentence) from None
            else:
                self._committed.add(chunk)
                self._log.committed(chunk)
                self._metrics.committed()
                self._outcomes.update(self._open.pop(chunk))
                self._last_commit = time.monotonic()
                self._ledger.add(chunk)

    def _finish_commits(self) -> None:
        """Commit what is whole, and wait for all commits."""
        self._commit_whole()
        while self._commits:
            wait(commit for _, commit in self._commits)
            self._look_at_commits()
            self._run_slices()  # of chunks that were lost
            self._commit_whole()
