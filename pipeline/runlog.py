"""What happened while a job ran, outside every equality: files in `_run/`, appended to by line, start after start.

`timings.jsonl`, a line a slice: {chunk, slice, rows, kept, wall_s, seconds{stage: s}, end_s}; `end_s` counts from this start
of the job. `workers.jsonl`, a line for each worker that began: pipeline/engine/messages.py, Ready. `events.jsonl`, a line for
each that was in trouble: {event: "trouble", slice, end_s} and the fields of Trouble there. `workers.log`: the end of the logs
of children that died, and notices of models. To an object store, which cannot append, the files of a start go when it ends,
with its number in their names: `timings-000003.jsonl`.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import msgspec

from materia.base import storage
from pipeline.engine.messages import Cause, Report, Span, Trouble
from pipeline.events import Events
from pipeline.preflight import RUN
from pipeline.trace import trace

_NAMES = ("timings.jsonl", "workers.jsonl", "events.jsonl", "workers.log")
_CAUSES: dict[Cause, str] = {
    "out_of_memory": "out of memory",
    "preempted": "preempted",
    "clip": "ended by a clip",
    "killed": "killed from outside",
}


class RunLog:
    """A context in which reports are logged, and told as `events`; `profile`: slices of which a trace is written."""

    def __init__(self, out: str, start: int, events: Events, profile: int = 0) -> None:
        self._run = storage.join(out, RUN)
        self._start = start
        self._others = events
        self._profile = profile
        self._profiled: list[tuple[int, list[Span]]] = []
        self._began = time.monotonic()
        self._troubles: Counter[Cause] = Counter()
        self._known: set[str] = set()  # numbers of troubles

    def __enter__(self) -> RunLog:
        with ExitStack() as stack:
            folder = storage.local_path(self._run)
            if folder is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="materia-")))
                stack.callback(self._upload, folder)
            # Unbuffered: a line is one write, whole even if the job is killed.
            files = (stack.enter_context((folder / name).open("ab", buffering=0)) for name in _NAMES)
            self._timings, self._workers, self._events, self._words = files
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()
        if self._profiled:
            local = storage.local_path(self._run) is not None
            name = "profile.json" if local else f"profile-{self._start:06d}.json"
            storage.atomic_write(storage.join(self._run, name), msgspec.json.encode(trace(self._profiled)) + b"\n")

    def add(self, report: Report) -> None:
        """Log a finished slice and what its workers had to say; of one that could not be processed, only the latter."""
        for ready in report.ready:
            self._workers.write(msgspec.json.encode(ready) + b"\n")
        for trouble in report.troubles:
            self.tell(trouble, report.slice)
        for words in [*report.notes, *(f"notice: {notice}" for notice in report.notices)]:
            self._words.write(f"{words.rstrip()}\n\n".encode())
        for notice in report.notices:
            self._others.tell("notice", slice=report.slice, node=report.node, text=notice)
        if report.failure:
            return
        line = {
            "chunk": report.chunk,
            "slice": report.slice,
            "rows": report.rows,
            "kept": report.kept,
            "wall_s": round(report.wall_s, 3),
            "seconds": {stage: round(seconds, 4) for stage, seconds in report.seconds.items()},
            "end_s": self._now_s(),
        }
        self._timings.write(msgspec.json.encode(line) + b"\n")
        self._others.tell("slice", node=report.node, rejected=report.rejected, **line)
        if len(self._profiled) < self._profile:
            self._profiled.append((report.slice, report.spans))

    def committed(self, chunk: int) -> None:
        """A chunk has its record."""
        self._others.tell("commit", chunk=chunk)

    def tell(self, trouble: Trouble, slice_: int | None = None) -> None:
        """Log that a worker was in trouble, unless that is known; and with which slice it was told, if with one."""
        if trouble.number in self._known:
            return
        if trouble.number:
            self._known.add(trouble.number)
        self._troubles[trouble.cause] += 1
        event = {"event": "trouble", "slice": slice_, **msgspec.to_builtins(trouble), "end_s": self._now_s()}
        self._events.write(msgspec.json.encode(event) + b"\n")
        self._others.tell(**event)

    def troubles(self) -> str:
        """Of workers since this start, in words; nothing if there were none."""
        counts = [f"{self._troubles[cause]} {words}" for cause, words in _CAUSES.items() if self._troubles[cause]]
        return f"workers in trouble: {', '.join(counts)}; see {storage.join(self._run, 'events.jsonl')}" if counts else ""

    def _now_s(self) -> float:
        return round(time.monotonic() - self._began, 3)

    def _upload(self, folder: Path) -> None:
        for name in _NAMES:
            stem, _, suffix = name.partition(".")
            storage.atomic_write(storage.join(self._run, f"{stem}-{self._start:06d}.{suffix}"), (folder / name).read_bytes())
