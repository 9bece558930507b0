"""SIGTERM and SIGINT ask a run to end in good order: after the step that it is in, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass
class Interrupt:
    """`number` of the signal that came, if one did."""

    number: int | None = None


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Signals are only noted, once; a second one ends the process at once. Outside of the main thread nothing is noted."""
    interrupt = Interrupt()

    def note(number: int, _frame: Any) -> None:
        interrupt.number = number
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
