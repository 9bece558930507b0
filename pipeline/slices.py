"""A slice's way through a job: read from the plan, run through the pools, spooled, and with its chunk's other slices committed.

Both runners (pipeline/serial.py, pipeline/ray_runner.py) do just these steps; all of them may be repeated, because every file
is keyed by slice or chunk and appears whole or not at all. Results do not depend on who runs a slice, when, or how often.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Protocol

import msgspec
import numpy as np

from pipeline import storage
from pipeline.access import resolve
from pipeline.child import Hello, Ready
from pipeline.config import Config, PoolSettings
from pipeline.plan import Plan, open_plan
from pipeline.preflight import RUN
from pipeline.shards import Provenance, write_chunk
from pipeline.source_settings import SourceSettings
from pipeline.supervisor import Limits, SetupError, Supervisor
from stages.records import REASONS, Clip, Row, Sample, StageName, decode_rows, encode_rows


class JobSpec(msgspec.Struct, frozen=True):
    """What every worker must know. `stage_factory` and `import_path`: see pipeline/child.py, Hello."""

    config_json: bytes
    out: str
    provenance: Provenance
    stage_factory: str
    import_path: list[str]


class Work(msgspec.Struct):
    """A slice on its way. `failure` says why the job cannot go on; such a slice passes through without being touched."""

    chunk: int
    slice: int
    rows: list[Row] = []
    seconds: dict[StageName, float] = {}
    wall_s: float = 0.0
    notes: list[str] = []
    notices: list[str] = []
    ready: list[Ready] = []
    failure: str = ""


class Report(msgspec.Struct):
    """What the driver hears of a spooled slice; or, in `failure`, why the job must stop.

    `rejected` counts reason codes, `seconds` is per stage, `wall_s` what the slice took in all pools without waiting for its
    turn, `notes` tell of children that died, `example` is the message of a row that the engine, not the method, rejected,
    `notices` are what models had to say (stages/notices.py), `ready` the workers that began with this slice.
    """

    chunk: int
    slice: int
    rows: int
    kept: int
    rejected: dict[str, int]
    seconds: dict[StageName, float]
    wall_s: float
    notes: list[str]
    example: str
    failure: str
    notices: list[str] = []
    ready: list[Ready] = []


class Runner(Protocol):
    """What runs slices and commits: in this process, or Ray."""

    def reports(self, slices: np.ndarray) -> Iterator[Report]:
        """Process and spool slices, (N,) int64, giving reports as they finish, in any order."""
        ...

    def commit(self, chunk: int) -> Future[None]:
        """Start the commit of a chunk whose slices are all spooled."""
        ...

    def close(self) -> None:
        """End every process that this runner started."""
        ...


def plan_folder(out: str) -> str:
    """Where the plan of an output lies."""
    return storage.join(out, RUN, "plan")


class PoolWorker:
    """One worker of a pool; the first pool's also reads slices from the plan, the last one's spools them."""

    def __init__(self, job: JobSpec, pool: int) -> None:
        config = Config.model_validate_json(job.config_json)
        plan = open_plan(plan_folder(job.out))
        if plan is None:
            raise FileNotFoundError(f"no plan in {plan_folder(job.out)}; workers must see the output's folder")
        self._out, self._plan, self._source = job.out, plan, config.source
        self._first, self.is_last = pool == 0, pool == len(config.engine.pools) - 1
        settings = config.engine.pools[pool]
        hello = Hello(
            job.config_json,
            list(settings.stages),
            job.stage_factory,
            job.import_path,
            rows_at_once=settings.rows_at_once,
        )
        self._supervisor = Supervisor(hello, limits(config, settings))
        self._cannot_start: SetupError | None = None

    def set_up(self) -> None:
        """Wait until the models are loaded; that they cannot be is told with the first slice that needs them."""
        try:
            self._supervisor.set_up()
        except SetupError as error:
            self._cannot_start = error

    def advance(self, work: Work) -> Work:
        """Do this pool's part of a slice; what makes the job impossible becomes `failure`."""
        if work.failure:
            return work
        began = time.perf_counter()
        try:
            if self._first:
                work.rows = read_rows(self._plan, work.slice, self._source)
            if self._cannot_start is not None and any(isinstance(row, Sample) for row in work.rows):
                raise self._cannot_start
            done = self._supervisor.process(work.rows)
            work.rows, work.seconds, work.notes = done.rows, work.seconds | done.seconds, work.notes + done.notes
            work.notices, work.ready = work.notices + done.notices, work.ready + done.ready
            if self.is_last:
                storage.atomic_write(spool_address(self._out, work.slice), encode_rows(work.rows))
        except SetupError as error:
            work.failure, work.notes = str(error), [*work.notes, f"{error}\n{error.log}"]
        except OSError as error:
            work.failure = f"{type(error).__name__}: {error}"
        work.wall_s += time.perf_counter() - began
        return work

    def close(self) -> None:
        """End the child."""
        self._supervisor.close()


_LOADED = {
    "entities": "the language model",
    "localise": "the detector",
    "segment": "the segmenter",
    "faces": "the face detector",
    "background": "the inpainter",
}


def what_loads(pools: Iterable[PoolSettings]) -> str:
    """For a person who waits: what the workers of pools, not all there yet, have to load."""
    stages = {stage for pool in pools for stage in pool.stages}
    if not stages:
        return "the first clips are with the models"
    models = [model for stage, model in _LOADED.items() if stage in stages]
    return f"loading {', '.join(models)}" if models else "starting workers"


def limits(config: Config, pool: PoolSettings) -> Limits:
    """What a child of the pool may use."""
    threads = [getattr(getattr(config, stage, None), "threads", 1) for stage in pool.stages]
    return Limits(
        min_deadline_s=config.engine.min_deadline_s,
        setup_deadline_s=config.engine.setup_deadline_s,
        memory_limit_gib=pool.memory_limit_gib,
        rows_per_batch=pool.rows_per_batch,
        threads=max(threads),
        cards=pool.num_gpus > 0,
    )


def read_rows(plan: Plan, number: int, source: SourceSettings) -> list[Row]:
    """Manifest rows of a slice as samples whose video was found, or rejections."""
    found = [resolve(row, plan.root, source) if isinstance(row, Clip) else row for row in plan.read(number)]
    return [Sample(clip=row) if isinstance(row, Clip) else row for row in found]


def report(work: Work) -> Report:
    """What the driver needs to know of a finished slice."""
    rejections = [row for row in work.rows if not isinstance(row, Sample)]
    return Report(
        chunk=work.chunk,
        slice=work.slice,
        rows=len(work.rows),
        kept=len(work.rows) - len(rejections),
        rejected=dict(Counter(row.reason for row in rejections)),
        seconds=work.seconds,
        wall_s=work.wall_s,
        notes=work.notes,
        example=next((f"row {row.row}: {row.message}" for row in rejections if row.reason in REASONS["any"]), ""),
        failure=work.failure,
        notices=work.notices,
        ready=work.ready,
    )


def failures(rejected: Mapping[str, int]) -> Counter[str]:
    """Of counted reasons, those that the engine gave and not the method."""
    return Counter({reason: rejected[reason] for reason in REASONS["any"] if rejected.get(reason)})


def mostly_failed(reported: Report) -> bool:
    """Whether most rows of a slice failed in the engine: a sign that something else than these clips is wrong."""
    return 2 * failures(reported.rejected).total() > reported.rows


def discard_failures(out: str) -> None:
    """Take slices that mostly failed off the spool, so that their rows get another chance when the cause is gone."""
    for number in spooled(out):
        rows = decode_rows(storage.read_bytes(spool_address(out, number)))
        if mostly_failed(report(Work(chunk=0, slice=number, rows=rows))):
            storage.remove(spool_address(out, number))


def spool_address(out: str, number: int) -> str:
    """Where a finished slice waits for its chunk's commit."""
    return storage.join(out, RUN, "spool", f"{number:09d}.msgpack")


def spooled(out: str) -> set[int]:
    """Slices that wait in the spool."""
    names = storage.listdir(storage.join(out, RUN, "spool"))
    return {int(name.removesuffix(".msgpack")) for name in names if name.endswith(".msgpack")}


def commit_chunk(job: JobSpec, chunk: int) -> None:
    """Write the shard, index and rejects of a chunk from the spool, then its commit record, then empty its spool."""
    plan = open_plan(plan_folder(job.out))
    assert plan is not None
    numbers = plan.slices_of(chunk)
    rows = (row for number in numbers for row in decode_rows(storage.read_bytes(spool_address(job.out, number))))
    write_chunk(job.out, chunk, rows, provenance=job.provenance)  # reads no row if a repeated task comes after the commit
    for number in numbers:
        storage.remove(spool_address(job.out, number))
