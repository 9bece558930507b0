"""What happened while a job ran, outside every equality: `_run/timings.jsonl`, a line a slice, and `_run/workers.log`.

A timing line: {chunk, slice, rows, kept, wall_s, seconds{stage: s}, end_s}; `end_s` counts from this start of the job. Lines
are appended whole, start after start. To an object store, which cannot append, the files go when the job ends.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec

from pipeline import storage
from pipeline.preflight import RUN
from pipeline.slices import Report

_NAMES = ("timings.jsonl", "workers.log")


class RunLog:
    """A context in which reports are logged."""

    def __init__(self, out: str) -> None:
        self._run = storage.join(out, RUN)
        self._began = time.monotonic()

    def __enter__(self) -> RunLog:
        with ExitStack() as stack:
            folder = storage.local_path(self._run)
            if folder is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="materia-")))
                stack.callback(self._upload, folder)
                for name in _NAMES:
                    if storage.exists(storage.join(self._run, name)):
                        (folder / name).write_bytes(storage.read_bytes(storage.join(self._run, name)))
            # Unbuffered: a line is one write, whole even if the job is killed.
            self._timings, self._workers = (stack.enter_context((folder / name).open("ab", buffering=0)) for name in _NAMES)
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def add(self, report: Report) -> None:
        """Log a finished slice and, if children died on it, their last words."""
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
        for note in report.notes:
            self._workers.write(f"{note.rstrip()}\n\n".encode())

    def _upload(self, folder: Path) -> None:
        for name in _NAMES:
            storage.atomic_write(storage.join(self._run, name), (folder / name).read_bytes())
