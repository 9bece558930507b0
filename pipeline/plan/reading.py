"""Reading an input into segments: what to read is cut into works of bounded size, each done by one process in one pass."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from materia.dataset.extra import ExtraColumns
from pipeline.plan.rows_hash import RowsHash
from pipeline.plan.segments import Encoded, Segment, encode_row, write_segments
from pipeline.plan.tasks import Tasks
from pipeline.sources import InputFile, Source, normalise, read_file
from pipeline.sources.settings import SourceSettings
from stages.records import Clip

_WORK_BYTES = 2**23  # of the input, that one process reads; of a Parquet file some 100,000 rows
_WORK_FILES = 64
_MOST_COLUMNS = 1000  # of others than ours that a work tells


class Piece(NamedTuple):
    """A file without its first `skip` rows, or the k-th of n shares of a Parquet file."""

    file: InputFile
    skip: int = 0
    share: tuple[int, int] = (0, 1)


class Work(NamedTuple):
    """Pieces to read one after the other, not more than `limit` rows in all, into segments of this name below `folder`."""

    folder: str
    name: str
    source: Source
    settings: SourceSettings
    pieces: Sequence[Piece]
    limit: int | None = None


class Done(NamedTuple):
    """What became of a work: the rows of each piece that was begun, the segments, the other columns, and what is to be told."""

    pieces: list[tuple[Piece, RowsHash]]
    segments: list[Segment]
    extra: ExtraColumns
    notices: list[str]

    @property
    def rows(self) -> int:
        """Number of rows that were read."""
        return sum(rows.rows for _, rows in self.pieces)


def works(folder: str, part: int, source: Source, pieces: Iterable[Piece], settings: SourceSettings) -> list[Work]:
    """All that is to be read for a part of the plan, cut: large Parquet files into shares, small files put together."""
    groups: list[list[Piece]] = []
    n_bytes = 0
    for piece in pieces:
        n_shares = -(-piece.file.bytes // _WORK_BYTES) if piece.file.kind == "parquet" and not piece.skip else 1
        if n_shares > 1:
            groups += [[piece._replace(share=(number, n_shares))] for number in range(n_shares)]
            n_bytes = _WORK_BYTES
            continue
        if not groups or n_bytes + piece.file.bytes > _WORK_BYTES or len(groups[-1]) == _WORK_FILES:
            groups.append([])
            n_bytes = 0
        groups[-1].append(piece)
        n_bytes += piece.file.bytes
    return [Work(folder, f"{part}-{number:06d}", source, settings, group) for number, group in enumerate(groups)]


def read_works(todo: Sequence[Work], limit: int | None, tasks: Tasks | None, on_rows: Callable[[int], None]) -> list[Done]:
    """Do all works, by `tasks` if given; or here, in order, as far as `limit` goes. `on_rows` is told of rows as they come."""
    if tasks is not None and limit is None:
        found = {}
        for number, done in tasks(do_work, todo):
            found[number] = done
            on_rows(done.rows)
        return [found[number] for number in range(len(todo))]
    read: list[Done] = []
    for work in todo:
        if limit == 0:
            break
        read.append(do_work(work._replace(limit=limit), on_rows))
        limit = None if limit is None else limit - read[-1].rows
    return read


def do_work(work: Work, on_rows: Callable[[int], None] = lambda rows: None) -> Done:
    """Read pieces and write segments. Raises SourceError for a file that cannot be read."""
    done = Done([], [], ExtraColumns(_MOST_COLUMNS), [])
    done.segments.extend(write_segments(work.folder, work.name, itertools.islice(_rows(work, done), work.limit), on_rows))
    return done


def _rows(work: Work, done: Done) -> Iterator[Encoded]:
    source, settings = work.source, work.settings
    for piece in work.pieces:
        rows = RowsHash()
        done.pieces.append((piece, rows))
        folder = posixpath.dirname(piece.file.name)
        raw_rows = read_file(source, piece.file, settings, done.notices.append, piece.share)
        for raw in itertools.islice(raw_rows, piece.skip, None):
            row = normalise(0, raw, source.root, settings, folder)
            encoded = encode_row(row)
            rows.add(encoded)
            key = None
            if isinstance(row, Clip):
                key = row.key
                if row.extra:
                    done.extra.add(row.extra)
            yield Encoded(encoded, key)
