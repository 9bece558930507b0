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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import ray
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from pipeline.engine.messages import Trouble, Work
from stages.records import StageName

_NEWS_S, _LOOK_S = 10.0, 0.2  # in which it becomes known that a node has gone, and how often that is looked at
_HAND_ON_S = 1.0  # in which what a slice became leaves for the driver


class _Word(msgspec.Struct):
    """What a process leaves for the actor's next one: its node, whether it was told to leave, and why those before it ended."""

    node: str
    leaves: bool = False
    troubles: list[Trouble] = []


class Notice:
    """An actor's, made in its __init__; `close` gives its models back. `stages`: what it works at."""

    def __init__(self, notice_s: float, close: Callable[[], None], stages: Sequence[StageName]) -> None:
        context = ray.get_runtime_context()
        self._key = f"materia/{context.get_job_id()}/{context.get_actor_id()}".encode()
        self._word = _Word(context.get_node_id())
        if context.was_current_actor_reconstructed and (left := _internal_kv_get(self._key)) is not None:
            last = msgspec.msgpack.decode(left, type=_Word)
            number = f"{context.get_actor_id()}-{len(last.troubles)}"
            self._word.troubles = [*last.troubles, _why(last, stages, number)]
        self._leave_word()
        self._notice_s, self._close = notice_s, close
        self._at_work, self._leaving = threading.Lock(), threading.Event()
        # A thread waits for the signal: Ray's main thread hears of it only while it runs Python, and would end at once.
        heard, told = os.pipe()
        os.set_blocking(told, False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(told)
        threading.Thread(target=self._wait, args=(heard,), daemon=True).start()

    @contextmanager
    def at_work(self, work: Work) -> Iterator[None]:
        """Around a slice, which takes along why the process before ended.

        Whoever has been told to leave begins none: what is asked of it then is done elsewhere.
        """
        if self._leaving.is_set():
            threading.Event().wait()  # for the end of the process
        with self._at_work:
            work.troubles = work.troubles + self.troubles
            yield

    @property
    def troubles(self) -> list[Trouble]:
        """Why earlier processes of this actor ended."""
        return self._word.troubles

    def _leave_word(self) -> None:
        _internal_kv_put(self._key, msgspec.msgpack.encode(self._word))

    def _wait(self, heard: int) -> None:
        while signal.SIGTERM not in os.read(heard, 16):
            pass
        self._leaving.set()
        self._word.leaves = True
        self._leave_word()
        if self._at_work.acquire(timeout=self._notice_s):  # for good
            time.sleep(_HAND_ON_S)
            self._close()
        os._exit(1)


def _node(number: str) -> Mapping[str, Any]:
    return next((node for node in ray.nodes() if node["NodeID"] == number), {"Alive": False})


def _why(last: _Word, stages: Sequence[StageName], number: str) -> Trouble:
    """Why the process that left this word has ended. That its node went may be known later than that the process did."""
    ends = time.monotonic() + (0 if last.node == ray.get_runtime_context().get_node_id() else _NEWS_S)
    while (node := _node(last.node))["Alive"] and not last.leaves and time.monotonic() < ends:
        time.sleep(_LOOK_S)
    name = str(node.get("NodeManagerHostname", last.node))
    if not node["Alive"]:
        return Trouble("preempted", list(stages), name, message="its node went", number=number)
    if last.leaves:
        return Trouble("preempted", list(stages), name, message="it was told to leave (SIGTERM)", number=number)
    return Trouble("killed", list(stages), name, message="its process was killed", number=number)
