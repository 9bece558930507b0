"""`materia run` as a function: check, plan, run what is not yet committed, commit, and say how it ended.

In: a configuration, the address of a manifest or folder, the address of an output. Out: a `JobResult` whose exit code is that
of design.md. The same call again continues: chunks with a commit record are left alone, all others computed, so a job may be
killed at any moment. The runners do the same work (pipeline/engine/); the driver only counts.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import closing, contextmanager
from importlib.metadata import version
from typing import Literal

import msgspec

from materia.base import storage
from materia.base.errors import disk_trouble, explain
from materia.base.signals import heard
from materia.base.storage_settings import use_storage
from materia.base.terminal import plural
from materia.dataset.documents import Provenance
from materia.dataset.layout import DatasetInfo, address_of, commits, committed, incomplete, write_info
from pipeline.config import Config
from pipeline.engine.child import load_stage_factory
from pipeline.engine.messages import JobSpec, Report, failures, mostly_failed
from pipeline.engine.placement import UnschedulableError
from pipeline.engine.serial import SerialRunner
from pipeline.engine.spool import ChunkLost, plan_folder
from pipeline.engine.worker import Runner, told
from pipeline.plan import Plan, make_plan, open_plan, say
from pipeline.preflight import RUN, JobError, check_nothing_missing, check_same, existing_dataset, only_writer, record_libraries
from pipeline.progress import Progress
from pipeline.runlog import RunLog
from stages.base import Stage
from stages.specs import STAGE_ORDER, library_versions, stage_fingerprints

Engine = Literal["ray", "serial", "inline"]

STAGE_FACTORY = "stages.specs:build_stages"
_FEW = 0.1  # of the rows: keeping no more is worth a warning
_SYSTEMATIC_ROWS = 64  # in failed slices without a healthy one between them: the failure is not of single clips


class JobResult(msgspec.Struct, frozen=True):
    """How a job ended. `message` is for the person who started it; counts are of the whole output, not of this start."""

    exit_code: int
    message: str
    rows: int = 0
    samples: int = 0
    rejections: int = 0


class SystematicFailure(JobError):
    """Not single clips fail, but what they all need."""


class _Interrupted(BaseException):
    def __init__(self, number: int) -> None:
        self.number = number


def run_job(
    config: Config,
    *,
    input: str,
    output: str,
    engine: Engine = "ray",
    ray_address: str | None = None,
    limit: int | None = None,
    stage_factory: str = STAGE_FACTORY,
) -> JobResult:
    """Build an output, or go on with it; `limit`: of its first rows only. What a user can mend comes back as a result; errors
    of the configuration and the input raise ConfigError, BackendError, SourceError. `stage_factory` is an import path
    (pipeline/engine/child.py: StageFactory).
    """
    use_storage(config.storage)
    try:
        with _signals_raise(), only_writer(output):
            return _run(config, input, output, engine, ray_address, limit, stage_factory)
    except JobError as error:
        return JobResult(error.exit_code, str(error))
    except OSError as error:
        if disk_trouble(error) is None:
            raise
        sentence, exit_code = explain(error)
        return JobResult(exit_code, sentence)
    except _Interrupted as interrupted:
        name = signal.Signals(interrupted.number).name
        return JobResult(128 + interrupted.number, f"stopped by {name}; the same command continues")


def _run(
    config: Config, input: str, output: str, engine: Engine, ray_address: str | None, limit: int | None, stage_factory: str
) -> JobResult:
    began = time.monotonic()
    stages = load_stage_factory(stage_factory)(config, STAGE_ORDER)
    check_nothing_missing(stages)
    plan, dataset = _open_output(config, stages, input, output, limit)
    provenance = Provenance(dataset.prompt_sha, dataset.stage_sha)
    job = JobSpec(config.model_dump_json().encode(), output, provenance, stage_factory, [entry for entry in sys.path if entry])
    storage.clean_temporaries(output)
    for chunk, problem in incomplete(output):
        say(f"{problem}; its chunk is built again")
        storage.remove(address_of(output, "commits", chunk))
    done = committed(output)
    todo = deque(n for n in range(plan.n_slices) if plan.chunk_of(n) not in done)
    workers = {stage: pool.workers for pool in config.engine.pools for stage in pool.stages}
    with (
        RunLog(output) as log,
        Progress(plan.rows, plan.rows - sum(_rows_in(plan, number) for number in todo), workers) as progress,
        closing(_start(job, plan, config, engine if todo else "serial", ray_address, progress.tell)) as runner,
        _signals_raise(),  # Ray has set handlers of its own
    ):
        _Drive(job, plan, runner, log, progress).run(todo)
    return _result(output, plan, time.monotonic() - began, log.troubles())


def _start(
    job: JobSpec, plan: Plan, config: Config, engine: Engine, ray_address: str | None, tell: Callable[[str], None]
) -> Runner:
    if engine != "ray":
        return SerialRunner(job, plan, config.engine.pools, tell, inline=engine == "inline")
    from pipeline.engine.ray_runner import RayRunner

    try:
        return RayRunner(job, plan, config.engine, ray_address, tell)
    except UnschedulableError as error:
        raise JobError(2, str(error)) from None


def _open_output(config: Config, stages: list[Stage], input: str, output: str, limit: int | None) -> tuple[Plan, DatasetInfo]:
    """The output's plan and dataset.json, made if this is the first start; otherwise nothing that matters may have changed.

    A manifest whose file changed is planned again: if its rows are the same, so is the plan.
    """
    old = existing_dataset(output)
    if old is not None:
        check_same(output, old, _dataset(config, stages, old.rows, old.chunks, old.plan_sha256), library_versions())
    folder = plan_folder(output)
    plan = open_plan(folder) if old is not None else None  # one without dataset.json is of a start that died
    if plan is not None and plan.limit != limit:
        planned = f"with --limit {plan.limit}" if plan.limit else "without --limit"
        raise JobError(4, f"{output} was planned {planned}; give the same, or choose another output")
    if plan is None or plan.changed(input, config.source):
        storage.remove(storage.join(folder, "plan.json"))
        engine = config.engine
        plan = make_plan(input, folder, config.source, engine.rows_per_chunk, engine.rows_per_slice, limit=limit)
    if old is not None and plan.sha256 != old.plan_sha256:
        message = f"{input} is not as it was when {output} was planned ({plural(old.rows, 'row')} then, {plan.rows} now)"
        raise JobError(4, f"{message}; choose another output, or bring the input back")
    dataset = old or _dataset(config, stages, plan.rows, plan.n_chunks, plan.sha256)
    if old is None:
        record_libraries(output, library_versions())
    write_info(output, dataset)
    return plan, dataset


def _dataset(config: Config, stages: list[Stage], rows: int, chunks: int, plan_sha256: str) -> DatasetInfo:
    return DatasetInfo(
        version=version("prima-materia"),
        rows=rows,
        chunks=chunks,
        rows_per_chunk=config.engine.rows_per_chunk,
        plan_sha256=plan_sha256,
        config=config.result_fields(),
        prompt_sha=next(stage.identity() for stage in stages if stage.name == "entities")["prompt"],
        stage_sha=stage_fingerprints(config, stages),
    )


def _rows_in(plan: Plan, number: int) -> int:
    """Rows of a slice; the last one of a chunk may be short."""
    chunk = plan.chunk_of(number)
    first = (number - plan.slices_of(chunk).start) * plan.rows_per_slice
    return min(plan.rows_per_slice, plan.rows_per_chunk - first, plan.rows - plan.first_row(chunk) - first)


def _result(output: str, plan: Plan, wall_s: float, troubles: str) -> JobResult:
    """Every planned chunk must be there: nothing is dropped in silence. `troubles`: of workers, in words."""
    samples = rejections = chunks = 0
    for commit in commits(output):
        chunks += 1
        samples += commit.samples
        rejections += commit.rejections
    if chunks != plan.n_chunks:
        lost = sorted(set(range(plan.n_chunks)) - committed(output))
        raise JobError(1, f"the engine ended without chunks {lost[:10]} ({len(lost)} of {plan.n_chunks}); start again to go on")
    counts = f"{plural(plan.rows, 'row')} = {plural(samples, 'sample')} + {plural(rejections, 'rejection')}"
    message = f"{output}: {counts}, {wall_s:.0f} s" + (f"\n{troubles}" if troubles else "")
    if rejections and samples <= _FEW * plan.rows:
        kept = "few rows were kept" if samples else "not one row was kept"
        message += f"\nwarning: {kept}: {_commonest_reason(output)}"
    return JobResult(0, message, plan.rows, samples, rejections)


def _commonest_reason(output: str) -> str:
    """Of all rejections, in words, with its first message as an example."""
    from materia.dataset.reader import read_table  # pyarrow's datasets take a second to import

    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for commit in commits(output):
        table = read_table(output, commit, "rejects", ["stage", "reason", "message"])
        for stage, reason, message in zip(*(column.to_pylist() for column in table.columns), strict=True):
            counts[stage, reason] += 1
            examples.setdefault((stage, reason), message)
    (stage, reason), times = counts.most_common(1)[0]
    return f"{times} of {plural(counts.total(), 'rejection')}: {reason} in {stage}, e.g. {examples[stage, reason]}"


class _Drive:
    """The driver's loop: slices come back, chunks are committed when whole, and a failure of everything stops the job."""

    def __init__(self, job: JobSpec, plan: Plan, runner: Runner, log: RunLog, progress: Progress) -> None:
        self._job = job
        self._plan = plan
        self._runner = runner
        self._log = log
        self._words = storage.join(job.out, RUN, "workers.log")
        self._progress = progress
        self._finished: Counter[int] = Counter()  # chunk -> its slices that are finished
        self._whole: list[int] = []  # chunks ready to be committed
        self._commits: deque[tuple[int, Future[None]]] = deque()
        self._todo: deque[int] = deque()
        self._repeated: set[int] = set()  # slices that were finished and lost
        self._suspects: list[Report] = []  # failed slices since the last healthy one
        self._down: list[Report] = []  # slices of which a stage failed for every row that it was given
        self._reached = -1  # the last stage that did its work for some row of this start

    def run(self, todo: deque[int]) -> None:
        """Process slices and commit their chunks; raises JobError when the job cannot go on."""
        self._todo = todo
        self._run_slices()
        if self._down:
            self._try_again()
        self._finish_commits()

    def _run_slices(self) -> None:
        while self._todo:
            for report in self._runner.reports(self._todo):
                self._take(report)
                self._look_at_commits()

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
            self._progress.add(report)
            self._count(report.chunk)

    def _take(self, report: Report) -> None:
        self._log.add(report)
        if report.failure:
            raise JobError(report.exit_code, f"{report.failure}\nsee {self._words}" if report.notes else report.failure)
        self._reached = max(self._reached, report.reached)
        if report.down is None:
            if report.slice not in self._repeated:
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
        self._finished[chunk] += 1
        if self._finished[chunk] == len(self._plan.slices_of(chunk)):
            del self._finished[chunk]
            self._whole.append(chunk)

    def _commit_whole(self) -> None:
        self._commits.extend((chunk, self._runner.commit(chunk)) for chunk in self._whole)
        self._whole.clear()

    def _look_at_commits(self) -> None:
        """Take notice of those that have ended. Raises JobError if the output could not be written."""
        while self._commits and self._commits[0][1].done():
            chunk, commit = self._commits.popleft()
            try:
                commit.result()
            except ChunkLost:
                self._repeated.update(self._plan.slices_of(chunk))
                self._todo.extendleft(reversed(self._plan.slices_of(chunk)))
            except OSError as error:
                sentence, exit_code = told(error)
                raise JobError(exit_code, sentence) from None

    def _finish_commits(self) -> None:
        """Commit what is whole, and wait for all commits."""
        self._commit_whole()
        while self._commits:
            wait(commit for _, commit in self._commits)
            self._look_at_commits()
            self._run_slices()  # of chunks that were lost
            self._commit_whole()


@contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGINT and SIGTERM end the job in good order."""

    def stop(number: int) -> None:
        raise _Interrupted(number)

    with heard(stop):
        yield
