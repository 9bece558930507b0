"""How a run is doing, on standard error: a bar on a terminal, otherwise a plain line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Say = Callable[[str], None]
"""What lines for the person who started the run are given to."""

PLAIN_EVERY_S = 10.0
"""Between two lines where there is no terminal."""


def tell(text: str) -> None:
    """A line for the person who started the run."""
    sys.stderr.write(text + "\n")


class StepProgress:
    """A context in which steps are shown; `say` gets the plain lines. `shown` False: nothing is (ranks but the first)."""

    def __init__(self, start: int, stop: int, say: Say, shown: bool) -> None:
        console = Console(stderr=True)
        self._say = say
        self._stop = stop
        self._plain = shown and not console.is_terminal
        self._told = time.monotonic()
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=console,
            disable=not shown or self._plain,
            transient=True,
        )
        self._task = self._bar.add_task("", total=stop, completed=start)

    def __enter__(self) -> StepProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, done: int, loss: float, clips: int, wait_s: float, time_s: float) -> None:
        """After `done` steps, the last of which took `time_s`, `wait_s` of it waiting for data."""
        text = f"loss {loss:.4f}, {clips / time_s:.1f} clips/s, {wait_s / time_s:.0%} waiting for data"
        self._bar.update(self._task, completed=done, description=text)
        now = time.monotonic()
        if self._plain and (now - self._told >= PLAIN_EVERY_S or done == self._stop):
            self._told = now
            self._say(f"step {done}/{self._stop}: {text}")
