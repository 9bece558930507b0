"""Preemption with notice: what a worker on Ray does when it is told to leave by SIGTERM.

One that has nothing to do closes its models and ends; one that works finishes its slice, if that takes less than `notice_s`,
and hands it on; else it ends at once. Ray starts the actor again where there is room and repeats what it had to do: nobody is
blamed. The next process tells why the one before ended, which leaves word in Ray's store of small values.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import ray
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from pipeline.engine.messages import Trouble
from stages.records import StageName

_HAND_ON_S = 1.0  # in which what a slice became leaves for the driver
_LEAVING = b"leaving "


class Notice:
    """Waits for SIGTERM in a thread: Ray's main thread hears of signals only while it runs Python. For an actor's __init__."""

    def __init__(self, notice_s: float, close: Callable[[], None]) -> None:
        context = ray.get_runtime_context()
        self._key = f"materia/{context.get_job_id()}/{context.get_actor_id()}".encode()
        self._node = context.get_node_id()
        self._last = _internal_kv_get(self._key) if context.was_current_actor_reconstructed else None
        _internal_kv_put(self._key, self._node.encode())
        self._notice_s, self._close = notice_s, close
        self._at_work, self._leaving = threading.Lock(), threading.Event()
        heard, told = os.pipe()
        os.set_blocking(told, False)
        signal.signal(signal.SIGTERM, lambda *_: None)  # Ray's would end the process in the middle of a slice
        signal.set_wakeup_fd(told)
        threading.Thread(target=self._wait, args=(heard,), daemon=True).start()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Around a slice. Who has been told to leave begins none: what is asked of it then is done elsewhere."""
        if self._leaving.is_set():
            threading.Event().wait()  # for the end of the process
        with self._at_work:
            yield

    def troubles_before(self, stages: Sequence[StageName]) -> list[Trouble]:
        """Why the actor's process before this one ended, if there was one."""
        if self._last is None:
            return []
        node = self._last.removeprefix(_LEAVING).decode()
        known = {listed["NodeID"]: listed for listed in ray.nodes()}
        gone = not known.get(node, {}).get("Alive", False)
        name = str(known.get(node, {}).get("NodeManagerHostname", node))
        if gone:
            return [Trouble("preempted", list(stages), name, message="its node went")]
        if self._last.startswith(_LEAVING):
            return [Trouble("preempted", list(stages), name, message="it was told to leave (SIGTERM)")]
        return [Trouble("killed", list(stages), name, message="its process was killed")]

    def _wait(self, heard: int) -> None:
        while signal.SIGTERM not in os.read(heard, 16):
            pass
        self._leaving.set()
        _internal_kv_put(self._key, _LEAVING + self._node.encode())
        if self._at_work.acquire(timeout=self._notice_s):  # for good
            time.sleep(_HAND_ON_S)
            self._close()
        os._exit(1)
