"""`materia run` as a function: check, plan, run what is not yet committed, commit, and say how it ended.

In: a configuration, the address of a manifest or folder, the address of an output. Out: a `JobResult` whose exit code is that
of design.md. The same call again continues: chunks with a commit record are left alone, all others computed, so a job may be
killed at any moment. The runners do the same work (pipeline/engine/); the driver only counts.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Literal, NamedTuple

import msgspec

from materia.base import retries, storage
from materia.base.errors import StorageFailed, UserError, explain, lasting_trouble
from materia.base.leases import Lease, LeaseLost, as_range
from materia.base.signals import heard
from materia.base.storage_settings import use_storage
from materia.base.terminal import plural, say
from materia.dataset.documents import Provenance
from materia.dataset.layout import commits, inspect, read_info, record_address
from materia.dataset.writer import PASSING
from pipeline.config import Config
from pipeline.drive import Drive
from pipeline.engine.child import load_stage_factory
from pipeline.engine.messages import JobSpec
from pipeline.engine.placement import UnschedulableError
from pipeline.engine.ray_tasks import RayTasks
from pipeline.engine.serial import SerialRunner
from pipeline.engine.worker import Runner
from pipeline.events import Events, open_events
from pipeline.ledger import Ledger
from pipeline.metrics import Exporter, Metrics, Port, RayExporter
from pipeline.opening import Opening
from pipeline.plan import Plan
from pipeline.pools import pools_of
from pipeline.preflight import JobError, check_nothing_missing, only_writer
from pipeline.progress import Planning, Progress
from pipeline.runlog import RunLog
from stages.specs import STAGE_ORDER

Engine = Literal["ray", "serial", "inline"]

STAGE_FACTORY = "stages.specs:build_stages"
_FEW = 0.1  # of the rows: keeping no more is worth a warning
_EXAMINED = 64  # chunks whose rejections are looked at for it


class JobResult(msgspec.Struct, frozen=True):
    """How a job ended. `message` is for the person who started it; counts are of the whole output, not of this start."""

    exit_code: int
    message: str
    rows: int = 0
    samples: int = 0
    rejections: int = 0


class _Interrupted(BaseException):
    def __init__(self, number: int) -> None:
        self.number = number


class Watched(NamedTuple):
    """What is told of a job while it runs, beside `_run/`: metrics on a port, events to a file ("-": standard output), and a
    trace of its first slices."""

    metrics_port: int | None = None
    events: str | None = None
    profile: int = 0


class _Asked(NamedTuple):
    """What is asked of a start, beside its configuration: see `run_job`."""

    input: str
    output: str
    engine: Engine
    ray_address: str | None
    limit: int | None
    append: bool
    chunks: tuple[int, int | None]
    retry: bool
    profile: int
    stage_factory: str

    def is_ours(self, chunk: int) -> bool:
        """Whether a chunk is among those asked for."""
        first, end = self.chunks
        return first <= chunk and (end is None or chunk < end)


def run_job(
    config: Config,
    *,
    input: str,
    output: str,
    engine: Engine = "ray",
    ray_address: str | None = None,
    limit: int | None = None,
    append: bool = False,
    chunks: tuple[int, int | None] = (0, None),
    retry_transient: bool = False,
    force_lease: bool = False,
    wait: bool = False,
    watched: Watched = Watched(),  # noqa: B008 - nobody changes it
    stage_factory: str = STAGE_FACTORY,
) -> JobResult:
    """Build an output, or go on with it. What a user can mend comes back as a result; errors of the configuration and the
    input raise ConfigError, BackendError, SourceError.

    `limit`: its first rows only, as a job of their own. `append`: also with rows that the input has gained. `chunks`: only
    those from the first number to before the second (None: to the end); other jobs may build others at the same time.
    `retry_transient`: chunks with rows that failed for reasons that may pass are built again. `force_lease`: whoever else holds
    them, or if the store cannot keep jobs apart. `wait`: for the claim of a dead job to run out. `watched`: what is told of it
    besides. `stage_factory` is an import path (pipeline/engine/child.py: StageFactory).
    """
    use_storage(config.storage)
    asked = _Asked(input, output, engine, ray_address, limit, append, chunks, retry_transient, watched.profile, stage_factory)
    with (
        open_events(output, watched.events) as events,
        nullcontext() if watched.metrics_port is None else closing(Port(watched.metrics_port)) as port,
    ):
        events.tell("start", input=input, chunks=chunks, engine=engine)
        result = _started(config, asked, force_lease, wait, events, port)
        events.tell("end", **msgspec.to_builtins(result))
    return result


def _started(config: Config, asked: _Asked, force: bool, wait: bool, events: Events, port: Port | None) -> JobResult:
    output, lease_s = asked.output, config.engine.lease_s
    lease: Lease | None = None
    try:
        with (
            _signals_raise(),
            only_writer(output, asked.chunks, lease_s, force=force, wait=wait, on_loss=_stopper()) as lease,
            closing(RayTasks(config, asked.ray_address)) as tasks,
        ):
            return _run(config, asked, lease, tasks, events, port)
    except JobError as error:
        return JobResult(error.exit_code, str(error))
    except LeaseLost as lost:
        return JobResult(5, f"stopped: {lost}; nothing of {output} was damaged")
    except OSError as error:
        if lasting_trouble(error) is None and not isinstance(error, StorageFailed):
            raise
        sentence, exit_code = explain(error)
        return JobResult(exit_code, sentence)
    except _Interrupted as interrupted:
        if lease is not None and lease.lost:
            return JobResult(
                5, f"stopped: the claim on {output} was taken over by another job, or could not be renewed in time"
            )
        name = signal.Signals(interrupted.number).name
        return JobResult(128 + interrupted.number, f"stopped by {name}; the same command continues")


def chunks_of_part(config: Config, output: str, part: int, parts: int) -> tuple[int, int]:
    """The chunks, from a first one to before an end, of a part (from 0) of a planned output; parts differ by a chunk at most.

    Raises UserError if it is not planned yet.
    """
    use_storage(config.storage)
    info = read_info(output)
    if info is None:
        raise UserError(f"{output} is not planned, so that its parts are not known; the same command with --range 0:0 plans it")
    return part * info.chunks // parts, (part + 1) * info.chunks // parts


def _stopper() -> Callable[[], None]:
    """What ends this job from another thread; outside of the main thread, which alone hears signals, its next commit does."""
    if threading.current_thread() is threading.main_thread():
        return lambda: os.kill(os.getpid(), signal.SIGTERM)
    return lambda: None


def _run(config: Config, asked: _Asked, lease: Lease, tasks: RayTasks, events: Events, port: Port | None) -> JobResult:
    began = time.monotonic()
    stages = load_stage_factory(asked.stage_factory)(config, STAGE_ORDER)
    check_nothing_missing(stages)
    with Planning() as planning:
        opening = Opening(config, stages, asked.input, asked.output, tasks if asked.engine == "ray" else None, planning.tell)
        plan, dataset = opening.open(asked.limit, append=asked.append, others=asked.chunks != (0, None))
    lease.narrow(*asked.chunks)
    ours = [chunk for chunk in range(plan.n_chunks) if asked.is_ours(chunk)]
    job = JobSpec(
        config.model_dump_json().encode(),
        asked.output,
        Provenance(dataset.prompt_sha, dataset.stage_sha),
        asked.stage_factory,
        [entry for entry in sys.path if entry],
        lease.claim.fence,
        asked.retry,
    )
    done, ledger = _found(asked, plan, lease)
    again = _to_try_again(asked.output, done, asked.is_ours) if asked.retry else set()
    ledger.remove(again)
    left = (plan.slices_of(chunk) for chunk in ours if chunk not in done or chunk in again)
    todo = deque(itertools.chain.from_iterable(left))
    rows = sum(len(plan.rows_of_chunk(chunk)) for chunk in ours)
    rows_done = rows - sum(len(plan.rows_of(number)) for number in todo)
    pools = pools_of(config.engine.pools)
    with (
        retries.patience(),  # until here it may have been a wrong address
        RunLog(asked.output, lease.claim.fence, events, asked.profile) as log,
        Progress(rows, rows_done, pools) as progress,
        closing(_runner(job, plan, config, asked, bool(todo), progress.tell)) as runner,
        _signals_raise(),  # Ray has set handlers of its own
    ):
        exporters: list[Exporter] = [port] if port else []
        if asked.engine == "ray" and asked.ray_address and todo:
            exporters.append(RayExporter())
        metrics = Metrics(exporters, pools, rows, rows_done)
        before = {chunk for chunk in ours if chunk in done} - again
        Drive(job, plan, runner, log, progress, metrics, lease, ledger, before).run(todo)
        summary = "\n".join(filter(None, [progress.summary(), log.troubles()]))
    return _result(asked, plan, len(ours), rows, time.monotonic() - began, summary)


def _found(asked: _Asked, plan: Plan, lease: Lease) -> tuple[set[int], Ledger]:
    """Chunks that are committed, and the ledger; what a start that was killed left half done is taken away."""
    alone = asked.chunks == (0, None) and lease.alone
    if alone:
        storage.clean_temporaries(asked.output)
    found = inspect(asked.output)
    for address in found.replaced if alone else ():
        storage.remove(address)
    ledger = Ledger(asked.output, plan.n_chunks, found.whole)
    broken = [(chunk, problem) for chunk, problem in found.broken if asked.is_ours(chunk)]
    ledger.remove(chunk for chunk, _ in broken)
    for chunk, problem in broken:
        say(f"{problem}; its chunk is built again")
        storage.remove(record_address(asked.output, chunk))
    return found.whole, ledger


def _to_try_again(out: str, done: set[int], is_ours: Callable[[int], bool]) -> set[int]:
    """Committed chunks of ours with rows that failed for reasons that may pass."""
    from materia.dataset.reader import read_table  # pyarrow's datasets take a second to import

    found = (commit for commit in commits(out) if commit.rejections and commit.chunk in done and is_ours(commit.chunk))
    return {commit.chunk for commit in found if PASSING in read_table(out, commit, "rejects", ["reason"])["reason"].to_pylist()}


def _runner(job: JobSpec, plan: Plan, config: Config, asked: _Asked, is_work: bool, tell: Callable[[str], None]) -> Runner:
    if asked.engine != "ray" or not is_work:
        return SerialRunner(job, plan, config.engine.pools, tell, inline=asked.engine == "inline")
    from pipeline.engine.ray_runner import RayRunner

    try:
        return RayRunner(job, plan, config.engine, asked.ray_address, tell)
    except UnschedulableError as error:
        raise JobError(2, str(error)) from None


def _result(asked: _Asked, plan: Plan, n_chunks: int, rows: int, wall_s: float, summary: str) -> JobResult:
    """Every chunk that was asked for must be there: nothing is dropped in silence. `summary`: more of it, in words."""
    output, chosen = asked.output, as_range(*asked.chunks)
    samples = rejections = 0
    lost = {chunk for chunk in range(plan.n_chunks) if asked.is_ours(chunk)}
    for commit in commits(output):
        if commit.chunk in lost:
            lost.remove(commit.chunk)
            samples += commit.samples
            rejections += commit.rejections
    if lost:
        some = sorted(lost)[:10]
        raise JobError(1, f"the engine ended without chunks {some} ({len(lost)} of {n_chunks}); start again to go on")
    part = f" (chunks {chosen})" if chosen else ""
    counts = f"{plural(rows, 'row')} = {plural(samples, 'sample')} + {plural(rejections, 'rejection')}"
    message = f"{output}{part}: {counts}, {wall_s:.0f} s" + (f"\n{summary}" if summary else "")
    if rejections and samples <= _FEW * rows:
        kept = "few rows were kept" if samples else "not one row was kept"
        message += f"\nwarning: {kept}: {_commonest_reason(output)}"
    return JobResult(0, message, rows, samples, rejections)


def _commonest_reason(output: str) -> str:
    """Of the rejections in the first chunks, in words, with its first message as an example."""
    from materia.dataset.reader import read_table  # pyarrow's datasets take a second to import

    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for commit in itertools.islice(commits(output), _EXAMINED):
        table = read_table(output, commit, "rejects", ["stage", "reason", "message"])
        for stage, reason, message in zip(*(column.to_pylist() for column in table.columns), strict=True):
            counts[stage, reason] += 1
            examples.setdefault((stage, reason), message)
    (stage, reason), times = counts.most_common(1)[0]
    return f"{times} of {plural(counts.total(), 'rejection')}: {reason} in {stage}, e.g. {examples[stage, reason]}"


@contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGINT and SIGTERM end the job in good order."""

    def stop(number: int) -> None:
        raise _Interrupted(number)

    with heard(stop):
        yield
