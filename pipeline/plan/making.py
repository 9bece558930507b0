"""Making a plan from an input, and making it longer when the input has grown: one pass over what is new."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from materia.base import storage
from materia.base.terminal import say
from materia.dataset.extra import ExtraColumns
from pipeline.plan.duplicates import find_duplicates
from pipeline.plan.plan import Plan, PlannedFile, open_plan, plan_address, save_plan
from pipeline.plan.reading import Done, Piece, read_works, works
from pipeline.plan.rows_hash import RowsHash
from pipeline.plan.tasks import Tasks, if_worth
from pipeline.sources import Source, SourceError, find_source
from pipeline.sources.settings import SourceSettings

_PROGRESS_ROWS = 10_000


def make_plan(
    input_address: str,
    folder: str | Path,
    settings: SourceSettings,
    rows_per_chunk: int,
    rows_per_slice: int,
    on_progress: Callable[[int], None] | None = None,
    on_notice: Callable[[str], None] = say,
    limit: int | None = None,
    tasks: Tasks | None = None,
) -> Plan:
    """Read the input once, all of it or its first `limit` rows, and write the plan below `folder`.

    `on_progress` is told the rows read so far, `on_notice` what of a folder is no row though it may have been meant as one, and
    columns of the manifest that the index will not hold. `tasks` reads a large input side by side. A plan of an earlier version
    is replaced; the types of its other columns stay, as files of an index have them.
    Raises SourceError for an input that cannot be read or changes meanwhile, FileExistsError if there is a plan already.
    """
    folder = plan_address(folder)
    old = open_plan(folder)
    if old is not None and not old.is_outdated:
        raise FileExistsError(f"{folder}: there is a plan already; plans are frozen")
    source = find_source(input_address, settings)
    plan = Plan(folder, source.address, source.root, rows_per_chunk, min(rows_per_slice, rows_per_chunk), limit=limit)
    if source.notice:
        on_notice(source.notice)
    pieces = [Piece(file) for file in source.files]
    plan, extra = _with_part(plan, source, pieces, settings, tasks, on_progress, on_notice)
    if extra.notice:
        on_notice(extra.notice)
    return save_plan(replace(plan, extra=old.extra if old else extra.types))


def extend_plan(
    plan: Plan,
    source: Source,
    pieces: Sequence[Piece],
    settings: SourceSettings,
    on_progress: Callable[[int], None] | None = None,
    on_notice: Callable[[str], None] = say,
    tasks: Tasks | None = None,
) -> Plan:
    """Make a plan longer by a part: the rows of `pieces`, which growth.py found to be new.

    The index has the columns that it had, for all its files have the same. Raises SourceError.
    """
    longer, extra = _with_part(plan, source, pieces, settings, tasks, on_progress, on_notice)
    if unfit := [name for name, kind in extra.types.items() if plan.extra.get(name) not in (kind, "string")]:
        names = ", ".join(map(repr, unfit[:3])) + (", ..." if len(unfit) > 3 else "")
        on_notice(f"columns of the new rows that the index has not, or has of another type: {names}; KEY.json has them")
    return save_plan(longer)


def _with_part(
    plan: Plan,
    source: Source,
    pieces: Sequence[Piece],
    settings: SourceSettings,
    tasks: Tasks | None,
    on_progress: Callable[[int], None] | None,
    on_notice: Callable[[str], None],
) -> tuple[Plan, ExtraColumns]:
    """The plan with one more part, which is not saved, and the part's other columns."""
    _remove_leftovers(plan)
    limit = None if plan.limit is None else plan.limit - plan.rows
    todo = works(plan.folder, len(plan.parts), source, pieces, settings)
    tasks = if_worth(tasks, sum(piece.file.bytes for piece in pieces))
    count = _Count(on_progress)
    done = read_works(todo, limit, tasks, count.add)
    count.tell()
    check_unchanged(source, settings)
    extra = ExtraColumns()
    for one in done:
        extra.include(one.extra)
        for notice in one.notices:
            on_notice(notice)
    segments = [*plan.segments, *(segment for one in done for segment in one.segments)]
    part = RowsHash()
    for _, rows in _read(done):
        part = part.then(rows)
    plan = replace(
        plan,
        parts=(*plan.parts, part),
        files=_with_files(plan.files, done),
        segments=tuple(find_duplicates(plan.folder, segments, plan.rows, tasks)),
    )
    return plan, extra


def check_unchanged(source: Source, settings: SourceSettings) -> None:
    """Raises SourceError unless the input's files are as they were found; others may have come."""
    now = {file.name: file for file in find_source(source.address, settings).files}
    for file in source.files:
        if now.get(file.name) != file:
            raise SourceError(f"{source.address_of(file)}: changed while it was read; start again when it is complete")


def _with_files(files: Iterable[PlannedFile], done: list[Done]) -> tuple[PlannedFile, ...]:
    """The planned files, with what was read of each."""
    found = {file.name: file for file in files}
    for (file, _, _), rows in _read(done):
        before = found[file.name].rows if file.name in found else RowsHash()
        found[file.name] = PlannedFile(file.name, file.bytes, file.version, before.then(rows))
    return tuple(found.values())


def _read(done: list[Done]) -> Iterator[tuple[Piece, RowsHash]]:
    return (piece for one in done for piece in one.pieces)


def _remove_leftovers(plan: Plan) -> None:
    """Of a planning that was killed."""
    storage.clean_temporaries(plan.folder)
    names = {segment.name for segment in plan.segments}
    for inside in ("segments", "found"):
        for file in storage.listdir(storage.join(plan.folder, inside)):
            if file.split(".")[0] not in names:
                storage.remove(storage.join(plan.folder, inside, file))


class _Count:
    """Rows so far, told every now and then."""

    def __init__(self, tell: Callable[[int], None] | None) -> None:
        self._tell = tell
        self._rows = self._told = 0

    def add(self, rows: int) -> None:
        self._rows += rows
        if self._rows - self._told >= _PROGRESS_ROWS:
            self.tell()

    def tell(self) -> None:
        self._told = self._rows
        if self._tell is not None:
            self._tell(self._rows)
