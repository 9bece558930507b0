"""A Ray session as both users of Ray start it, the engine (ray_runner.py) and the trainer (trainer/run/ray_launch.py).

In: the address of a cluster, or none: then Ray starts here and ends with this process. Out: `ray` is ready to use; nothing is
printed, no usage is reported, no dashboard is started. Import this before Ray, which reads the environment when it is imported.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_DATA_USAGE_DISABLED="1")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its "errors" are advice to Ray's authors

import psutil
import ray

_OF_NO_USE_HERE = ("ray/autoscaler/_private/monitor.py", "ray/_private/log_monitor.py")


def start_ray(address: str | None, object_store_mb: int, worker_env: Mapping[str, str] | None = None) -> None:
    """Join the cluster at `address`, or start one here that ends with this process; without a word on the terminal.

    `worker_env`: variables for Ray's processes. An existing cluster keeps its own object store.
    """
    env = dict(worker_env or {})
    os.environ.update(env)
    for name in ("ray", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"ray\..*")
    own: dict[str, Any] = {"object_store_memory": object_store_mb * 2**20, "include_dashboard": False}
    with _silent_stderr():  # the C++ side greets there
        # "local": a wrong RAY_ADDRESS in the environment must not change where a job runs
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({"runtime_env": {"env_vars": env}} if address else own),
        )
    if address is None:
        _end_idle_daemons()


def _end_idle_daemons() -> None:
    """End what Ray starts beside every session for clusters that grow and for logs on the terminal: nothing of either is here.

    They take a second of a core and more, and `ray.shutdown` would wait a second for the first, deaf to SIGTERM by then.
    """
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            if any(word.endswith(_OF_NO_USE_HERE) for word in process.cmdline()):
                process.kill()


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """File descriptor 2 leads nowhere for a while; exceptions are not affected."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
