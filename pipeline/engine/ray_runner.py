"""The runner on Ray: for each pool of `engine.pools` as many actors as it says; a slice goes from one to the next.

In: numbers of slices. Out: their reports, as they finish. The driver keeps the books (flow.py) and references, and never sees a
slice itself: what an actor makes of it stays in Ray's object store, where it was made, until the next pool's actor asks for it,
or the commit of its chunk. An actor is only a supervisor: models run in its child process, and what fails there never raises
here. A lost actor or node is nobody's fault: Ray starts the actor again and repeats what it had to do, without limit; a slice
whose results went with a node begins anew.
"""

from __future__ import annotations

import platform
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any

from materia.base.ray_session import start_ray  # first, because it sets Ray's environment

# isort: split
import msgspec
import numpy as np
import ray
from ray.exceptions import ObjectLostError, OutOfDiskError, RayError

from materia.dataset.extra import ExtraType
from pipeline.config import Config, EngineSettings, PoolSettings
from pipeline.engine.flow import Flow, Given
from pipeline.engine.messages import Done, JobSpec, Report, Trouble, Work, report
from pipeline.engine.notice import Notice
from pipeline.engine.placement import COMMIT_CPUS, UnschedulableError, check_placement, nodes_of
from pipeline.engine.spool import ChunkLost, commit_chunk
from pipeline.engine.supervisor import CLOSE_S
from pipeline.engine.worker import PoolWorker, Queue, what_loads
from pipeline.plan import Plan
from pipeline.preflight import JobError
from pipeline.snapshot import UnderWay
from stages.records import encode_rows

# An actor that is not needed any more ends its child itself, after the models were closed; Ray would kill the child first.
WORKER_ENV = {"RAY_kill_child_processes_on_worker_exit": "0"}
_SHARE = 0.5
"""Of Ray's object stores, that slices may fill; the rest is for copies on other nodes and for what is being written."""


class RayRunner:
    """A Ray session, and a job's actors on it."""

    def __init__(
        self, job: JobSpec, plan: Plan, engine: EngineSettings, address: str | None, tell: Callable[[str], None]
    ) -> None:
        self._job = job
        self._plan = plan
        self._pools = engine.pools
        self._tell = tell
        self._committer = ThreadPoolExecutor(1) if address is None else None
        self._flow = Flow([], 0)  # anew with each call of `reports`
        self._rows: dict[int, Any] = {}  # slice -> reference to what there is of it
        self._heard: SimpleQueue[Callable[[], Report | None]] = SimpleQueue()  # what to do about what happened
        self.troubles: list[Trouble] = []
        self._asked: dict[Given, float] = {}  # what workers have to do, and since when
        self._nodes: dict[tuple[int, int], str] = {}  # (pool, worker) -> where it was last
        tell("starting Ray" if address is None else f"joining Ray at {address}")
        if not ray.is_initialized():  # planning may have started it
            start_ray(address, engine.object_store_mb, WORKER_ENV)
        try:
            check_placement(engine.pools, nodes_of(ray.nodes()))
        except UnschedulableError:
            self.close()
            raise

    def reports(self, slices: deque[int]) -> Iterator[Report | None]:
        """Reports as slices finish, None when anything else happened. Raises JobError if Ray cannot run the actors."""
        pools = [_Pool(self._job, number, pool, len(slices)) for number, pool in enumerate(self._pools)]
        self._flow = Flow([len(pool.actors) for pool in pools], _SHARE * ray.cluster_resources()["object_store_memory"])
        loading = [pool.settings for pool in pools for _ in pool.actors]
        for pool in pools:
            for ref in pool.set_up():
                self._when_there(ref, partial(self._loaded, loading, pool.settings))
        self._tell(what_loads(loading))
        while slices or self._flow.on_their_way:
            for number in self._flow.admit(slices):
                self._rows.pop(number, None)  # of a chunk that was lost
            for given in self._flow.next(len(slices)):
                self._ask(pools[given.pool], given, slices)
            yield self._heard.get()()
        closing = [ref for pool in pools for ref in pool.close()]
        closed, _ = ray.wait(closing, num_returns=len(closing), timeout=2 * CLOSE_S)  # who takes longer ends with the session
        for ref in closed:
            with suppress(RayError):
                self.troubles += msgspec.msgpack.decode(ray.get(ref), type=list[Trouble])

    def commit(self, chunk: int) -> Future[None]:
        """On a cluster a task, repeated if its node dies; here a thread, which costs no start of a process."""
        rows = {number: self._rows[number] for number in self._plan.slices_of(chunk)}
        request = self._job, self._plan.extra, chunk, list(rows.values())
        task: Future[None]
        if self._committer is not None:
            task = self._committer.submit(_commit, *request)
        else:
            task = ray.remote(_commit).options(num_cpus=COMMIT_CPUS, max_retries=-1).remote(*request).future()
        self._flow.committing.add(chunk)
        commit = _plain(task)
        commit.add_done_callback(lambda _: self._heard.put(partial(self._committed, chunk, rows)))
        return commit

    def under_way(self) -> list[UnderWay]:
        """What each worker has been working at, and for how long; a second slice that it was given is only waiting there."""
        first: dict[tuple[int, int], tuple[Given, float]] = {}
        for given, since in dict(self._asked).items():  # a copy at once: progress.py
            first.setdefault((given.pool, given.worker), (given, since))
        now = time.monotonic()
        return [
            UnderWay(given.slice, list(self._pools[given.pool].stages), self._nodes.get(worker, ""), round(now - since, 3))
            for worker, (given, since) in first.items()
        ]

    def queues(self) -> list[Queue]:
        """Of the driver's books."""
        return [Queue(self._flow.waiting(pool), self._flow.at_work(pool)) for pool in range(len(self._pools))]

    def close(self) -> None:
        """End the session; on an existing cluster, only this job's part of it."""
        if self._committer is not None:
            self._committer.shutdown(cancel_futures=True)
        ray.shutdown()

    def _ask(self, pool: _Pool, given: Given, slices: deque[int]) -> None:
        """Have a worker do its part of a slice, of which nothing is here if it comes to the first pool."""
        work = Work(chunk=self._plan.chunk_of(given.slice), slice=given.slice)
        done, rows = pool.actors[given.worker].advance.remote(self._rows.get(given.slice) if given.pool else _packed(work))
        self._asked[given] = time.monotonic()
        self._when_there(done, partial(self._done, given, rows, slices))

    def _when_there(self, ref: Any, react: Callable[[Future[Any]], Report | None]) -> None:
        """Costs the same, however many are waited for; `ray.wait` would look at all of them."""
        ref.future().add_done_callback(lambda future: self._heard.put(partial(react, future)))

    def _loaded(self, loading: list[PoolSettings], settings: PoolSettings, _: Future[None]) -> None:
        loading.remove(settings)
        self._tell(what_loads(loading))

    def _done(self, given: Given, rows: Any, slices: deque[int], future: Future[bytes]) -> Report | None:
        del self._asked[given]
        for other in [other for other in self._asked if other[:2] == given[:2]]:
            self._asked[other] = time.monotonic()  # it begins now
        try:
            done = msgspec.msgpack.decode(future.result(), type=Done)
        except RayError as error:
            if not _is_lost(error):
                raise _told(error) from error
            self._flow.lost(given)
            self._rows.pop(given.slice, None)
            slices.appendleft(given.slice)
            return None
        self._nodes[given[:2]] = done.node
        self._rows[given.slice] = rows
        self._flow.done(given, done.bytes)
        return done.report

    def _committed(self, chunk: int, rows: dict[int, Any]) -> None:
        """Let go of a chunk's slices; but not of those that are here again, after they were lost."""
        self._flow.committing.discard(chunk)
        for number, ref in rows.items():
            if self._rows.get(number) is ref:
                del self._rows[number]
                self._flow.forget(number)


class _Pool:
    """The actors of a pool."""

    def __init__(self, job: JobSpec, number: int, settings: PoolSettings, n_slices: int) -> None:
        self.settings = settings
        actor = ray.remote(_PoolActor).options(
            num_cpus=settings.num_cpus,
            num_gpus=settings.num_gpus or None,
            resources=dict(settings.resources),
            label_selector=dict(settings.labels) or None,
            max_restarts=-1,
            max_task_retries=-1,
        )
        self.actors = [actor.remote(job, number) for _ in range(min(settings.workers, n_slices))]

    def set_up(self) -> list[Any]:
        """References that are there when the models of an actor are loaded."""
        return [actor.set_up.remote() for actor in self.actors]

    def close(self) -> list[Any]:
        """Let the actors close their models. References that are there when it is done."""
        return [actor.close.remote() for actor in self.actors]


class _PoolActor:
    """A worker of a pool: one slice in, the same out, as its next pool or its commit reads it. Messages are msgpack."""

    def __init__(self, job: JobSpec, pool: int) -> None:
        settings = Config.model_validate_json(job.config_json).engine
        self._notice = Notice(settings.notice_s, self._give_back, settings.pools[pool].stages)
        self._worker = PoolWorker(job, pool)

    def set_up(self) -> None:
        """Wait until the models are loaded, or cannot be: that is told with the first slice."""
        self._worker.set_up()

    @ray.method(num_returns=2)  # type: ignore[untyped-decorator]  # Ray's
    def advance(self, message: bytes | memoryview) -> tuple[bytes, np.ndarray]:
        """Do this pool's part of a slice: what the driver hears of it, and what there is of the slice now.

        Of arrays, unlike bytes, Ray makes no copy in the process that reads them.
        """
        work = msgspec.msgpack.decode(message, type=Work)
        with self._notice.at_work(work):
            work = self._worker.advance(work)
            finished = report(work) if self._worker.is_last or work.failure else None
            packed = np.frombuffer(encode_rows(work.rows) if finished else _packed(work), np.uint8)
            return _packed(Done(packed.nbytes, platform.node(), finished)), packed

    def close(self) -> bytes:
        """End the child; models may give back what they hold. Gives why earlier processes ended: no slice may have told."""
        self._give_back()
        return msgspec.msgpack.encode(self._notice.troubles)

    def _give_back(self) -> None:
        self._worker.close()


def _packed(message: Work | Done) -> bytes:
    return msgspec.msgpack.encode(message)


def _commit(job: JobSpec, extra: Mapping[str, ExtraType], chunk: int, slices: Sequence[Any]) -> None:
    """Commit a chunk; of its slices, references, one at a time is here. Raises OSError, ChunkLost, RayError."""
    try:
        commit_chunk(job, extra, chunk, (ray.get(rows).data for rows in slices))
    except RayError as error:
        if not _is_lost(error):
            raise
        raise ChunkLost(chunk) from error


def _plain(task: Future[None]) -> Future[None]:
    """The same, but what it raises is not wrapped by Ray: OSError, ChunkLost, and JobError for Ray's own."""
    plain: Future[None] = Future()

    def pass_on(_: Future[None]) -> None:
        error = task.exception()
        cause = getattr(error, "cause", None) or error
        if cause is None:
            plain.set_result(None)
        else:
            plain.set_exception(_told(cause) if isinstance(cause, RayError) else cause)

    task.add_done_callback(pass_on)
    return plain


def _is_lost(error: RayError) -> bool:
    """Whether it says that an object went with a node."""
    return isinstance(getattr(error, "cause", None) or error, ObjectLostError)


def _told(error: RayError) -> JobError:
    """Why the job cannot go on."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, OutOfDiskError):
        return JobError(
            5,
            "Ray's object store is full, and so is the disk of Ray's folder (RAY_TMPDIR, TMPDIR or /tmp), where it goes on;"
            " make room, and the same command goes on",
        )
    return JobError(1, f"a worker on Ray cannot work: {str(cause).strip().splitlines()[-1]}")
