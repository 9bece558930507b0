"""What became of an input since it was planned: nothing, rows that were added at the end of files or as files, or other rows.

Files whose size and time of change (ETag) are as they were are not opened. Of the others the planned rows are read again, and
must have the hash that they had.
"""

from __future__ import annotations

import itertools
import posixpath
from dataclasses import dataclass
from typing import NamedTuple

from materia.base.terminal import plural
from pipeline.plan.plan import Plan, PlannedFile
from pipeline.plan.reading import Piece
from pipeline.plan.rows_hash import RowsHash
from pipeline.plan.segments import encode_row
from pipeline.plan.tasks import Tasks, if_worth, in_order
from pipeline.sources import InputFile, Source, normalise, read_file
from pipeline.sources.settings import SourceSettings


@dataclass(frozen=True)
class Growth:
    """`problem`: which planned rows are no longer there, and why nothing goes on; "" if all are. `pieces`: where new rows are.

    `files`: the planned files in their present state.
    """

    problem: str
    pieces: list[Piece]
    files: tuple[PlannedFile, ...]


class _Check(NamedTuple):
    """A file of which `rows` are planned: are they its first ones still?"""

    source: Source
    file: InputFile
    rows: RowsHash
    settings: SourceSettings


def growth(plan: Plan, source: Source, settings: SourceSettings, tasks: Tasks | None = None) -> Growth:
    """Compare a plan with its input as it is now. Raises SourceError for a file that cannot be read."""
    planned = {file.name: file for file in plan.files}
    present = {file.name for file in source.files}
    gone = [name for name in planned if name not in present]
    if gone:
        return Growth(f"{gone[0] or source.address} is gone", [], plan.files)
    full = plan.limit is not None and plan.rows >= plan.limit
    moved = source.root != plan.root  # rows may name videos from another folder on
    checks = []
    for file in source.files:
        old = planned.get(file.name, PlannedFile(file.name, -1, "", RowsHash()))
        if moved or (old.bytes, old.version) != (file.bytes, file.version):
            checks.append(_Check(source, file, old.rows, settings))
    checks = [check for check in checks if check.rows.rows or not full]
    pieces, now = [], dict(planned)
    tasks = if_worth(tasks, sum(check.file.bytes for check in checks))
    for check, (same, more) in zip(checks, in_order(_check, checks, tasks), strict=True):
        if not same:
            rows = plural(check.rows.rows, "row")
            return Growth(
                f"the {rows} planned of {source.address_of(check.file)} are not its first ones any more", [], plan.files
            )
        file = check.file
        now[file.name] = PlannedFile(file.name, file.bytes, file.version, check.rows)
        if more and not full:
            pieces.append(Piece(file, skip=check.rows.rows))
    return Growth("", pieces, tuple(now.values()))


def _check(check: _Check) -> tuple[bool, bool]:
    """Whether the file begins with the planned rows, and whether it has more."""
    source, file, settings = check.source, check.file, check.settings
    rows, folder = RowsHash(), posixpath.dirname(check.file.name)
    raw_rows = read_file(source, file, settings)
    for raw in itertools.islice(raw_rows, check.rows.rows):
        rows.add(encode_row(normalise(0, raw, source.root, settings, folder)))
    return rows == check.rows, next(raw_rows, None) is not None
