"""One step in a process of its own: writes what it finds line by line, at once; what it and libraries print goes to a log."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import msgspec

from tools.gpu_check.step import Context, Row, Skip, Step, rows_of


class Line(msgspec.Struct, omit_defaults=True):
    """One thing that a step says: a row of its table, or how it ended."""

    row: Row | None = None
    skipped: str = ""
    failed: str = ""
    done: bool = False


def run(step: Step, context: Context, lines: Path, log: Path) -> None:
    """Run a step; what goes wrong is a line too."""
    os.setsid()  # so that it can be ended with all that it starts
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for standard in (1, 2):
        os.dup2(output, standard)
    with lines.open("wb", buffering=0) as file:

        def say(line: Line) -> None:
            file.write(msgspec.json.encode(line) + b"\n")

        try:
            for row in rows_of(step, context):
                say(Line(row=row))
        except Skip as reason:
            say(Line(skipped=str(reason)))
        except Exception as error:
            traceback.print_exc()
            say(Line(failed=f"{type(error).__name__}: {error}".partition("\n")[0][:300]))
        else:
            say(Line(done=True))
