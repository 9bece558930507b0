"""The runner on Ray: for each pool of `engine.pools` as many actors as it says; a slice goes from one to the next.

In: numbers of slices. Out: their reports, as they finish. The driver keeps the books, which slice waits for which pool and what
each actor has to do, and never sees a slice itself: an actor's answer stays where it was made until the next pool's actor asks
for it, and the last pool's actor spools it and gives back counts. An actor is only a supervisor: models run in its child
process, and what fails there never raises here. A lost actor or node is nobody's fault: Ray starts the actor again and repeats
what it had to do, without limit; a slice whose results went with a node begins anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from materia.base.ray_session import start_ray  # first, because it sets Ray's environment

# isort: split
import msgspec
import numpy as np
import ray
from ray.exceptions import ObjectLostError, OutOfDiskError, RayError

from pipeline.config import EngineSettings, PoolSettings
from pipeline.engine.messages import JobSpec, Report, Work, report
from pipeline.engine.placement import COMMIT_CPUS, UnschedulableError, check_placement, nodes_of
from pipeline.engine.spool import commit_chunk
from pipeline.engine.supervisor import CLOSE_S
from pipeline.engine.worker import PoolWorker, what_loads
from pipeline.plan import Plan
from pipeline.preflight import JobError

# An actor that is not needed any more ends its child itself, after the models were closed; Ray would kill the child first.
WORKER_ENV = {"RAY_kill_child_processes_on_worker_exit": "0"}
_WAIT_S = 0.5


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
        tell("starting Ray" if address is None else f"joining Ray at {address}")
        if not ray.is_initialized():  # planning may have started it
            start_ray(address, engine.object_store_mb, WORKER_ENV)
        try:
            check_placement(engine.pools, nodes_of(ray.nodes()))
        except UnschedulableError:
            self.close()
            raise

    def reports(self, slices: np.ndarray) -> Iterator[Report]:
        """Reports as slices finish. Raises JobError if Ray cannot run the actors."""
        pools = [_Pool(self._job, number, pool, len(slices)) for number, pool in enumerate(self._pools)]
        loading = {ref: pool for pool in pools for ref in pool.set_up()}
        self._tell(what_loads(pool.settings for pool in loading.values()))
        left = deque(slices.tolist())
        most = 2 * sum(len(pool.actors) for pool in pools)  # slices on their way: no pool starves, and none runs far ahead
        on_their_way = 0
        running: dict[Any, _Running] = {}
        while left or on_their_way:
            while left and on_their_way < most:
                number = left.popleft()
                on_their_way += 1
                pools[0].waiting.append((number, _packed(Work(chunk=self._plan.chunk_of(number), slice=number))))
            for pool in reversed(pools):
                running |= pool.dispatch()
            ref = _first_ready([*loading, *running])
            if ref in loading:
                del loading[ref]
                self._tell(what_loads(pool.settings for pool in loading.values()))
                continue
            done = running.pop(ref)
            pool = pools[done.pool]
            pool.load[done.actor] -= 1
            if pool is not pools[-1]:
                pools[done.pool + 1].waiting.append((done.slice, ref))
                continue
            on_their_way -= 1
            if (finished := _finished(ref)) is not None:
                yield finished
            else:
                left.appendleft(done.slice)
        closing = [ref for pool in pools for ref in pool.close()]
        ray.wait(closing, num_returns=len(closing), timeout=2 * CLOSE_S)  # who takes longer ends with the session

    def commit(self, chunk: int) -> Future[None]:
        """On a cluster a task, repeated if its node dies; here a thread, which costs no start of a process."""
        if self._committer is not None:
            return self._committer.submit(commit_chunk, self._job, chunk)
        task = ray.remote(commit_chunk).options(num_cpus=COMMIT_CPUS, max_retries=-1)
        future: Future[None] = task.remote(self._job, chunk).future()
        return future

    def close(self) -> None:
        """End the session; on an existing cluster, only this job's part of it."""
        if self._committer is not None:
            self._committer.shutdown(cancel_futures=True)
        ray.shutdown()


@dataclass(frozen=True)
class _Running:
    """What an actor was asked for: its pool and its number there, and the slice."""

    pool: int
    actor: int
    slice: int


class _Pool:
    """The actors of a pool, how many slices each has, and the slices that wait: number, and message or reference to it."""

    def __init__(self, job: JobSpec, number: int, settings: PoolSettings, n_slices: int) -> None:
        self.settings = settings
        self._number = number
        actor = ray.remote(_PoolActor).options(
            num_cpus=settings.num_cpus,
            num_gpus=settings.num_gpus or None,
            resources=dict(settings.resources),
            label_selector=dict(settings.labels) or None,
            max_restarts=-1,
            max_task_retries=-1,
        )
        self.actors = [actor.remote(job, number) for _ in range(min(settings.workers, n_slices))]
        self.load = [0] * len(self.actors)
        self.waiting: deque[tuple[int, Any]] = deque()

    def set_up(self) -> list[Any]:
        """References that are there when the models of an actor are loaded."""
        return [actor.set_up.remote() for actor in self.actors]

    def dispatch(self) -> dict[Any, _Running]:
        """Give waiting slices, the first ones first, to the actors that have least to do.

        An actor has one slice, and a second to go on with while there are enough for all: at the end none waits behind another.
        """
        given = {}
        while self.waiting:
            load, actor = min((load, actor) for actor, load in enumerate(self.load))
            if load >= (2 if len(self.waiting) > len(self.actors) else 1):
                break
            number, work = self.waiting.popleft()
            given[self.actors[actor].advance.remote(work)] = _Running(self._number, actor, number)
            self.load[actor] += 1
        return given

    def close(self) -> list[Any]:
        """Let the actors close their models. References that are there when it is done."""
        return [actor.close.remote() for actor in self.actors]


class _PoolActor:
    """A worker of a pool: one slice in, the same out; the last pool's gives the report. Messages are msgpack."""

    def __init__(self, job: JobSpec, pool: int) -> None:
        self._worker = PoolWorker(job, pool)

    def set_up(self) -> None:
        """Wait until the models are loaded, or cannot be: that is told with the first slice."""
        self._worker.set_up()

    def advance(self, message: bytes) -> bytes:
        """Do this pool's part of a slice."""
        done = self._worker.advance(msgspec.msgpack.decode(message, type=Work))
        return _packed(report(done) if self._worker.is_last else done)

    def close(self) -> None:
        """End the child; models may give back what they hold."""
        self._worker.close()


def _packed(message: Work | Report) -> bytes:
    return msgspec.msgpack.encode(message)


def _first_ready(refs: list[Any]) -> Any:
    """Wait for one of them; what is behind it stays where it is.

    In short waits: what a handler of signals raises comes out of Ray only when its call returns, as the cause of a SystemError.
    """
    ready: list[Any] = []
    while not ready:
        try:
            ready, _ = ray.wait(refs, timeout=_WAIT_S, fetch_local=False)
        except SystemError as error:
            raise error.__cause__ or error from None
    return ready[0]


def _finished(ref: Any) -> Report | None:
    """The last pool's answer; None if what it should have worked on is lost. Raises JobError."""
    try:
        return msgspec.msgpack.decode(ray.get(ref), type=Report)
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, ObjectLostError):
            return None
        if isinstance(cause, OutOfDiskError):
            raise JobError(
                5, "the disk of Ray's folder (RAY_TMPDIR, TMPDIR or /tmp) is full; make room, and the same command goes on"
            ) from error
        raise JobError(1, f"a worker on Ray cannot work: {str(cause).strip().splitlines()[-1]}") from error
