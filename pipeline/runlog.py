"""What happened while a job ran, outside every equality: files in `_run/`, appended to by line, start after start.

`timings.jsonl`, a line a slice: {chunk, slice, rows, kept, wall_s, seconds{stage: s}, end_s}; `end_s` counts from this start
of the job. `workers.jsonl`, a line for each worker that began: pipeline/engine/child.py, Ready. `workers.log`: the end of the
logs of children that died, and notices of models. To an object store, which cannot append, the files of a start go when it
ends, with its number in their names: `timings-000003.jsonl`.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec

from materia.base import storage
from pipeline.engine.messages import Report
from pipeline.preflight import RUN

_NAMES = ("timings.jsonl", "workers.jsonl", "workers.log")


class RunLog:
    """A context in which reports are logged."""

    def __init__(self, out: str, start: int) -> None:
        self._run = storage.join(out, RUN)
        self._start = start
        self._began = time.monotonic()

    def __enter__(self) -> RunLog:
        with ExitStack() as stack:
            folder = storage.local_path(self._run)
            if folder is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="materia-")))
                stack.callback(self._upload, folder)
            # Unbuffered: a line is one write, whole even if the job is killed.
            files = (stack.enter_context((folder / name).open("ab", buffering=0)) for name in _NAMES)
            self._timings, self._workers, self._words = files
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def add(self, report: Report) -> None:
        """Log a finished slice and what its workers had to say; of one that could not be processed, only the latter."""
        for ready in report.ready:
            self._workers.write(msgspec.json.encode(ready) + b"\n")
        for words in [*report.notes, *(f"notice: {notice}" for notice in report.notices)]:
            self._words.write(f"{words.rstrip()}\n\n".encode())
        if report.failure:
            return
        line = {
            "chunk": report.chunk,
            "slice": report.slice,
            "rows": report.rows,
            "kept": report.kept,
            "wall_s": round(report.wall_s, 3),
            "seconds": {stage: round(seconds, 4) for stage, seconds in report.seconds.items()},
            "end_s": round(time.monotonic() - self._began, 3),
        }
        self._timings.write(msgspec.json.encode(line) + b"\n")

    def _upload(self, folder: Path) -> None:
        for name in _NAMES:
            stem, _, suffix = name.partition(".")
            storage.atomic_write(storage.join(self._run, f"{stem}-{self._start:06d}.{suffix}"), (folder / name).read_bytes())
