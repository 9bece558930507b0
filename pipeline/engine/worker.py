"""A worker of a pool: a slice read from the plan, run through the pool's stages, and handed on.

The runners (serial.py, ray_runner.py) do just these steps. Results do not depend on who runs a slice, when, or how often.
"""

from __future__ import annotations

import os
import platform
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from materia.base import retries
from materia.base.errors import explain
from materia.base.storage_settings import use_storage
from pipeline.config import Config, PoolSettings
from pipeline.engine.inline import InProcess
from pipeline.engine.messages import Hello, JobSpec, Report, Trouble, Work
from pipeline.engine.spool import plan_folder
from pipeline.engine.supervisor import Limits, SetupError, Supervisor
from pipeline.plan import Plan, frozen_plan
from pipeline.snapshot import UnderWay
from pipeline.sources.access import resolve
from pipeline.sources.settings import SourceSettings
from stages.records import Clip, Row, Sample
from stages.specs import STAGES


class Runner(Protocol):
    """What runs slices and commits: in this process, or Ray. `troubles`: of workers, that a report may not have told."""

    troubles: list[Trouble]

    def reports(self, slices: deque[int]) -> Iterator[Report | None]:
        """Take slices off, the first ones first, until none is left; give reports as they finish, in any order.

        None comes when something else happened, such as a commit's end. Whoever gets the reports may put slices in again. The
        rows are kept for the commit of their chunk.
        """
        ...

    def commit(self, chunk: int) -> Future[None]:
        """Start the commit of a chunk whose slices are all finished. Its result raises OSError, and ChunkLost."""
        ...

    def under_way(self) -> list[UnderWay]:
        """What workers are at just now, and for how long; may be asked from another thread."""
        ...

    def queues(self) -> list[Queue]:
        """Of each pool, now."""
        ...

    def close(self) -> None:
        """End every process that this runner started."""
        ...


class Queue(NamedTuple):
    """Of a pool, at a moment: slices that wait for it, and workers that have one."""

    waiting: int
    at_work: int


class PoolWorker:
    """One worker of a pool; the first pool's also reads slices from the plan.

    Stages run in a child, or `inline` in this process.
    """

    def __init__(self, job: JobSpec, pool: int, inline: bool = False) -> None:
        config = Config.model_validate_json(job.config_json)
        use_storage(config.storage)
        retries.be_patient()
        self._plan_folder, self._source = plan_folder(job.out), config.source
        self._first, self.is_last = pool == 0, pool == len(config.engine.pools) - 1
        settings = config.engine.pools[pool]
        hello = Hello(
            job.config_json,
            list(settings.stages),
            job.stage_factory,
            job.import_path,
            rows_at_once=settings.rows_at_once,
        )
        bounds = limits(config, settings)
        self._stages = InProcess(hello, bounds.rows_per_batch, bounds.threads) if inline else Supervisor(hello, bounds)
        self._cannot_start: SetupError | OSError | None = None

    def set_up(self) -> None:
        """Wait until the models are loaded; that they cannot be is told with the first slice that needs them."""
        try:
            self._stages.set_up()
        except (SetupError, OSError) as error:
            self._cannot_start = error

    def advance(self, work: Work) -> Work:
        """Do this pool's part of a slice; what makes the job impossible becomes `failure`."""
        began, before = time.perf_counter(), retries.asked()
        try:
            if self._first:
                work.rows = read_rows(frozen_plan(self._plan_folder), work.slice, self._source)
            if self._cannot_start is not None and any(isinstance(row, Sample) for row in work.rows):
                raise self._cannot_start
            done = self._stages.process(work.rows)
            for span in done.spans:
                span.worker = f"{platform.node()} {os.getpid()}"
            work.rows, work.spans, work.notes = done.rows, work.spans + done.spans, work.notes + done.notes
            work.notices, work.ready = work.notices + done.notices, work.ready + done.ready
            work.troubles = work.troubles + done.troubles
            for asked in done.asked:
                work.asked = work.asked.plus(asked)
        except SetupError as error:
            work.failure, work.notes = str(error), [*work.notes, f"{error}\n{error.log}"]
        except OSError as error:
            work.failure, work.exit_code = told(error)
        work.asked = work.asked.plus(retries.asked().since(before))
        work.wall_s += time.perf_counter() - began
        return work

    def close(self) -> None:
        """End the child."""
        self._stages.close()


def told(error: OSError) -> tuple[str, int]:
    """(sentence, exit code) of what storage did to a running job: 5 where the same command may go on."""
    sentence, exit_code = explain(error)
    return f"{sentence} (on {platform.node()})", exit_code


def read_rows(plan: Plan, number: int, source: SourceSettings) -> list[Row]:
    """Manifest rows of a slice as samples whose video was found, or rejections."""
    found = [resolve(row, plan.root, source) if isinstance(row, Clip) else row for row in plan.read(number)]
    return [Sample(clip=row) if isinstance(row, Clip) else row for row in found]


def what_loads(pools: Iterable[PoolSettings]) -> str:
    """For a person who waits: what the workers of pools, not all there yet, have to load."""
    stages = {stage for pool in pools for stage in pool.stages}
    if not stages:
        return "the first clips are with the models"
    models = [spec.model for spec in STAGES if spec.model and spec.name in stages]
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
