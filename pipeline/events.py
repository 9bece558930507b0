"""One line of JSON for each thing that happens in a job, for whoever collects logs: `materia run --events FILE`.

Each has `time` (ISO 8601, UTC), `event` and `job` (the output); those of slices also `slice`, `chunk` and `node`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from materia.base.errors import UserError


class Events:
    """Writes lines to a file that is open, or nowhere."""

    def __init__(self, job: str, file: BinaryIO | None = None) -> None:
        self._job = job
        self._file = file

    def tell(self, event: str, **fields: object) -> None:
        """Something happened; a line is one write."""
        if self._file is not None:
            time = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._file.write(msgspec.json.encode({"time": time, "event": event, "job": self._job, **fields}) + b"\n")
            self._file.flush()


@contextmanager
def open_events(job: str, place: str | None) -> Iterator[Events]:
    """Events that go to the end of a file, "-": to standard output; None: nowhere. Raises UserError."""
    if place is None or place == "-":
        yield Events(job, sys.stdout.buffer if place else None)
        return
    try:
        file = Path(place).open("ab", buffering=0)  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(f"--events {place}: {error.strerror}") from None
    with file:
        yield Events(job, file)
