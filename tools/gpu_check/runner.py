"""Runs steps one after the other, each in a process and a box of time of its own, and writes results as they come.

In: steps, a context, minutes. Out: a `Result` for each, with every row that the step had written when it ended, however it
ended, or the reason why there is none. Processes are forked from one that has imported torch and done nothing else, which saves
seconds a step; each has a CUDA context of its own, so that none leaves anything behind on the card.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

import msgspec

from tools.gpu_check import child
from tools.gpu_check.child import Line
from tools.gpu_check.step import Context, Row, Step

LEAST_S = 5.0
"""With less time than this left no further step is begun."""
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", "RAY_USAGE_STATS_ENABLED": "0"}
"""Threads that spin while they wait take the CPU from each other."""

Status = Literal["ok", "skipped", "failed", "out of time", "not run"]


class Result(msgspec.Struct):
    """How a step ended; `reason` for all but ok. Rows that were there before it failed count."""

    name: str
    what: str
    status: Status
    reason: str = ""
    seconds: float = 0.0
    rows: list[Row] = []


def run_steps(
    steps: Sequence[Step], context: Context, minutes: float, taken: Callable[[list[Result]], None], say: Callable[[str], None]
) -> list[Result]:
    """Run what fits; `taken` is called with all results so far after each step, `say` with a line about it."""
    ends = time.monotonic() + 60 * minutes
    context.folder.mkdir(parents=True, exist_ok=True)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["torch", child.__name__])
    results: list[Result] = []
    for step in steps:
        left_s = ends - time.monotonic()
        say(f"{step.name}: {step.what} ...")
        result = Result(step.name, step.what, "not run")
        if left_s > LEAST_S:
            lines, log = (context.folder / f"{step.name}.{kind}" for kind in ("jsonl", "log"))
            lines.unlink(missing_ok=True)
            process = processes.Process(target=child.run, args=(step, context, lines, log))
            result = _run(step, process, lines, min(step.seconds, left_s))
        if result.status == "not run" or (result.status == "out of time" and left_s < step.seconds):
            result.status = "not run"
            result.reason = f"the {minutes:g} minutes were over; --only {step.name} runs it"
        results.append(result)
        say(f"{step.name}: {result.status}{f' ({result.reason})' if result.reason else ''}, {result.seconds:.0f} s")
        taken(results)
    return results


def _run(step: Step, process: BaseProcess, lines: Path, box_s: float) -> Result:
    began = time.monotonic()
    process.start()
    try:
        process.join(box_s)
        status = process.exitcode
    finally:
        _end(process)
    return _result(step, _lines(lines), status, round(time.monotonic() - began, 1), box_s)


def _end(process: BaseProcess) -> None:
    """With all that it started."""
    assert process.pid is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # if it had no group of its own yet
    process.join()


def _lines(path: Path) -> list[Line]:
    """Whole lines only: a killed process may have left half of one."""
    if not path.exists():
        return []
    *whole, _rest = path.read_bytes().split(b"\n")
    return [msgspec.json.decode(line, type=Line) for line in whole]


def _result(step: Step, lines: Iterable[Line], status: int | None, seconds: float, box_s: float) -> Result:
    result = Result(step.name, step.what, "failed", f"its process ended with status {status}; see {step.name}.log", seconds)
    if status is None:
        result.status, result.reason = "out of time", f"still running after its {box_s:.0f} s; its rows so far are kept"
    for line in lines:
        if line.row is not None:
            result.rows.append(line.row)
        elif line.done:
            result.status, result.reason = "ok", ""
        else:
            result.status, result.reason = "skipped" if line.skipped else "failed", line.skipped or line.failed
    return result
