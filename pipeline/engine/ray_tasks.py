"""Functions as tasks on Ray, for planning (pipeline/plan: Tasks). Ray starts with the first, and stays for the job's runner."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from materia.base.signals import SIGNALS
from materia.base.storage_settings import use_storage
from pipeline.config import Config

W = TypeVar("W")
R = TypeVar("R")

_WAIT_S = 0.5


class RayTasks:
    """A Ray session in which tasks run, a CPU each; a task that is lost with its node is repeated."""

    def __init__(self, config: Config, address: str | None) -> None:
        self._config = config
        self._address = address
        self._started = False

    def __call__(self, function: Callable[[W], R], works: Sequence[W]) -> Iterator[tuple[int, R]]:
        """What the function gives for each of the works, with its number, as they finish."""
        ray = self._start()
        task = ray.remote(_run).options(num_cpus=1, max_retries=-1)
        left = iter(enumerate(works))
        most = 2 * max(int(ray.cluster_resources().get("CPU", 1)), 1)  # as many that wait as run
        running: dict[Any, int] = {}
        while True:
            for number, work in itertools.islice(left, most - len(running)):
                running[task.remote(self._config.storage, function, work)] = number
            if not running:
                return
            for ref in _ready(ray, list(running)):
                yield running.pop(ref), _result(ray, ref)

    def close(self) -> None:
        """End the session, if it was started."""
        if self._started:
            import ray

            ray.shutdown()

    def _start(self) -> Any:
        from materia.base.ray_session import start_ray  # first, because it sets Ray's environment

        # isort: split
        import ray

        from pipeline.engine.ray_runner import WORKER_ENV

        if not ray.is_initialized():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            start_ray(self._address, self._config.engine.object_store_mb, WORKER_ENV)
            self._started = True
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():  # Ray sets its own
                    signal.signal(number, handler)
        return ray


def _run(storage: Any, function: Callable[[W], R], work: W) -> R:
    use_storage(storage)  # the process may be one that nobody prepared
    return function(work)


def _ready(ray: Any, refs: list[Any]) -> list[Any]:
    """Those that are there, at least one. In short waits, as ray_runner.py waits, and why it says."""
    while True:
        try:
            ready, _ = ray.wait(refs, timeout=_WAIT_S)
        except SystemError as error:
            raise error.__cause__ or error from None
        if ready:
            return list(ready)


def _result(ray: Any, ref: Any) -> Any:
    """Raises what the function raised."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
