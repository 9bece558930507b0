"""Stages in the process that was started, for debugging a backend of one's own: `materia run --engine inline`.

The same rows come out as of a supervised child (supervisor.py), but what the stages print, their tracebacks and `breakpoint()`
are where one sees them, no deadline and no limit of memory holds, and what kills a process kills the job.
"""

from __future__ import annotations

import os
import signal
from bdb import BdbQuit

from pipeline.engine.child import run_stages, set_up
from pipeline.engine.environment import for_models
from pipeline.engine.messages import Hello, Ready
from pipeline.engine.supervisor import Processed, in_batches
from stages.base import Stage
from stages.records import Row, Sample


class InProcess:
    """Does what a Supervisor does, without a child."""

    def __init__(self, hello: Hello, rows_per_batch: int, threads: int) -> None:
        self._environment = dict(os.environ)
        os.environ.update(for_models(threads))
        self._hello = hello
        self._rows_per_batch = rows_per_batch
        self._stages: list[Stage] = []
        self._introductions: list[Ready] = []

    def set_up(self) -> None:
        """Load the models. What they raise is not caught: its traceback is what one wants to see."""
        self._stages, ready = set_up(self._hello)
        self._introductions.append(ready)

    def process(self, rows: list[Row]) -> Processed:
        """See Supervisor.process. Whoever leaves the debugger by `quit` interrupts the job."""
        done = Processed(list(rows), [], [], [], list(self._introductions), [], [])
        self._introductions.clear()

        def run(samples: list[Sample]) -> list[Row]:
            try:
                return done.take(run_stages(self._stages, samples, lambda _: None))
            except BdbQuit:
                signal.raise_signal(signal.SIGINT)
                raise

        in_batches(done.rows, self._rows_per_batch, run)
        return done

    def close(self) -> None:
        """Let the stages give everything back; the environment is as it was."""
        for stage in self._stages:
            stage.close()
        os.environ.clear()
        os.environ.update(self._environment)
