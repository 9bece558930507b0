"""SIGTERM and SIGINT, as all long work takes them: the first one is heard, a second one ends the process at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def heard(hear: Callable[[int], object]) -> Iterator[None]:
    """Call `hear` with the number of the first signal, in the main thread, between two instructions; it may raise.

    Outside of the main thread nothing is heard: Python hands signals to that alone.
    """

    def handle(number: int, _frame: Any) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        hear(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Interrupt:
    """`number` of the signal that came, if one did."""

    number: int | None = None


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """The signal is only noted: a run ends in good order, after the step that it is in, with a checkpoint."""
    interrupt = Interrupt()

    def note(number: int) -> None:
        interrupt.number = number

    with heard(note):
        yield interrupt
