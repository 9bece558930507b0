"""The runner on Ray Data: one pool of actors per `engine.pools` entry, one slice per block (engine: decisions 1, 2, 4).

A lazy source gives slice numbers; between pools a slice travels as msgpack in one large_binary column; the last pool spools it
and gives back counts, so that no payload reaches the driver. An actor is only a supervisor: models run in its child process,
and what fails there never raises here, because Ray Data's unit of failure is the block. So a lost actor or node may be
restarted, and its tasks repeated, without limit (Ray Data's default). Commits are plain tasks that overlap with processing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from pipeline.ray_session import start_ray  # first, because it sets Ray's environment

# isort: split
import msgspec
import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data._internal.execution.operators import map_operator
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from pipeline.config import EngineSettings
from pipeline.placement import COMMIT_CPUS, SOURCE_CPUS, UnschedulableError, check_placement, nodes_of
from pipeline.plan import open_plan
from pipeline.slices import JobSpec, PoolWorker, Report, Work, commit_chunk, plan_folder, report
from pipeline.supervisor import CLOSE_S

# An actor that is not needed any more ends its child itself, after the models were closed; Ray would kill the child first.
_WORKER_ENV = {"RAY_kill_child_processes_on_worker_exit": "0"}

# Ray Data keeps 2 KB of statistics of every block that ever passed an operator, for a summary that nobody asks for here. With
# them the driver grew by 45 MB over 6,000 slices, without by 6 MB. Private to Ray, hence the exact minor version in pyproject.
map_operator.to_stats = lambda _metadata: []


class RayRunner:
    """A Ray session and a Ray Data pipeline on it."""

    def __init__(self, job: JobSpec, engine: EngineSettings, address: str | None) -> None:
        self._job = job
        self._engine = engine
        self._own = address is None
        start_ray(address, engine.object_store_mb, _WORKER_ENV)
        try:
            check_placement(engine.pools, nodes_of(ray.nodes()))
        except UnschedulableError:
            self.close()
            raise

    def reports(self, slices: np.ndarray) -> Iterator[Report]:
        """Reports as slices finish."""
        context = DataContext.get_current()
        context.target_max_block_size = 1  # bytes: every slice is a block of its own
        context.execution_options.preserve_order = False
        context.raise_original_map_exception = True
        dataset = ray.data.read_datasource(
            _SliceSource(slices, self._job.out),
            override_num_blocks=1,
            num_cpus=SOURCE_CPUS,
            max_calls=1,  # unlike any pool's arguments, or Ray Data may run the source and all slices inside one worker
        )
        for number, pool in enumerate(self._engine.pools):
            dataset = dataset.map_batches(
                _PoolActor,
                fn_constructor_args=(self._job, number),
                batch_size=1,
                batch_format="pyarrow",
                zero_copy_batch=True,
                compute=ActorPoolStrategy(size=pool.workers),
                num_cpus=pool.num_cpus,
                num_gpus=pool.num_gpus or None,
                resources=dict(pool.resources),
                label_selector=dict(pool.labels) or None,
            )
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for data in table["work"].to_pylist():
                yield msgspec.msgpack.decode(data, type=Report)
        if self._own:
            _let_actors_end()

    def commit(self, chunk: int) -> Future[None]:
        """A task, repeated if its node dies."""
        task = ray.remote(commit_chunk).options(num_cpus=COMMIT_CPUS, max_retries=-1)
        future: Future[None] = task.remote(self._job, chunk).future()
        return future

    def close(self) -> None:
        """End the session; on an existing cluster, only this job's part of it."""
        ray.shutdown()


class _PoolActor:
    """A worker of a pool as Ray Data calls it: a table of one slice in, the same out; the last pool's gives the report."""

    def __init__(self, job: JobSpec, pool: int) -> None:
        self._worker = PoolWorker(job, pool)

    def __call__(self, table: pa.Table) -> pa.Table:
        work = msgspec.msgpack.decode(table["work"][0].as_py(), type=Work)
        done = self._worker.advance(work)
        return _table(report(done) if self._worker.is_last else done)

    def __del__(self) -> None:
        """Ray Data drops it when no slice is left; what models hold is given back then."""
        self._worker.close()


def _let_actors_end() -> None:
    """Wait, for CLOSE_S at most, for actors that are closing their models: the end of our own session would kill them."""
    until = time.monotonic() + CLOSE_S
    while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"] and time.monotonic() < until:
        time.sleep(0.05)


class _SliceSource(Datasource):  # type: ignore[misc]
    """One generator task of one-row blocks: Ray Data pulls slices as the pools need them, so the driver never holds them."""

    def __init__(self, slices: np.ndarray, out: str) -> None:
        self._slices = slices
        self._out = out

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        slices, out = self._slices, self._out

        def read() -> Iterator[pa.Table]:
            plan = open_plan(plan_folder(out))
            assert plan is not None
            for number in slices.tolist():
                yield _table(Work(chunk=plan.chunk_of(number), slice=number))

        metadata = BlockMetadata(num_rows=len(slices), size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(read, metadata)]


def _table(message: Work | Report) -> pa.Table:
    data = pa.array([msgspec.msgpack.encode(message)], pa.large_binary())
    return pa.table({"chunk": [message.chunk], "slice": [message.slice], "work": data})
