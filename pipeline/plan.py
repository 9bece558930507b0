"""The plan of a job: every row of the input, checked, cut into chunks (one shard each) and slices (one unit of work each).

In: an input's address. Out: a folder with `rows.msgpack` (one msgpack list of `Clip | Rejection` a slice, back to back),
`offsets.bin` (where each slice starts: little-endian uint64, one more than slices) and `plan.json`, written last, so that a
crash while planning leaves no plan. Made by one pass in constant memory: duplicate keys are found by a set on disk. A plan is
frozen: a job that goes on reads what it planned when it first started (engine: decision 4).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sqlite3
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from materia.base import storage
from materia.base.errors import disk_trouble
from materia.base.terminal import say
from materia.dataset.extra import ExtraColumns, ExtraType
from pipeline.sources import SourceError, find_source, read_rows, stamp
from pipeline.sources.access import absolute
from pipeline.sources.settings import SourceSettings
from stages.records import Clip, Rejection, Sample, reject

_ROWS, _OFFSETS, _PLAN, _SEEN = "rows.msgpack", "offsets.bin", "plan.json", "seen.sqlite"
_OFFSET = struct.Struct("<Q")
_PROGRESS_ROWS = 10_000
_CACHE_KIB = 32 * 1024

_encode_row = msgspec.msgpack.Encoder().encode
_decode_slice = msgspec.msgpack.Decoder(list[Clip | Rejection]).decode


@dataclass(frozen=True)
class Plan:
    """A frozen plan below `folder`; cheap to make and to send, reads its files by address.

    `sha256` is of the rows' content: the same for the same input anywhere, however it is cut. `stamp` marks the state of the
    input when it was read. `extra`: the manifest's other columns that the index holds, name -> type; none in a plan of an
    earlier version. `limit`: how many of the first rows were asked for; None: all. Chunks and slices are numbered from 0
    through the whole plan; slices never cross chunks.
    """

    folder: str
    input: str
    root: str
    rows: int
    rows_per_chunk: int
    rows_per_slice: int
    sha256: str
    stamp: dict[str, Any]
    extra: dict[str, ExtraType] = field(default_factory=dict)
    limit: int | None = None

    @property
    def n_chunks(self) -> int:
        """Number of chunks; the last may be short."""
        return -(-self.rows // self.rows_per_chunk)

    @property
    def n_slices(self) -> int:
        """Number of slices in all chunks."""
        full, rest = divmod(self.rows, self.rows_per_chunk)
        return full * self._slices_per_chunk + -(-rest // self.rows_per_slice)

    @property
    def _slices_per_chunk(self) -> int:
        return -(-self.rows_per_chunk // self.rows_per_slice)

    def slices_of(self, chunk: int) -> range:
        """Numbers of the chunk's slices, in order."""
        first = chunk * self._slices_per_chunk
        return range(first, min(first + self._slices_per_chunk, self.n_slices))

    def chunk_of(self, slice_: int) -> int:
        """Number of the chunk that a slice belongs to."""
        return slice_ // self._slices_per_chunk

    def first_row(self, chunk: int) -> int:
        """Manifest row with which the chunk starts."""
        return chunk * self.rows_per_chunk

    def read(self, slice_: int) -> list[Clip | Rejection]:
        """Rows of one slice, in manifest order; safe from any process and node that can open `folder`."""
        if not 0 <= slice_ < self.n_slices:
            raise IndexError(f"slice {slice_} of {self.n_slices}")
        at = slice_ * _OFFSET.size
        ends = storage.read_bytes(storage.join(self.folder, _OFFSETS), start=at, end=at + 2 * _OFFSET.size)
        start, end = (offset for (offset,) in _OFFSET.iter_unpack(ends))
        return _decode_slice(storage.read_bytes(storage.join(self.folder, _ROWS), start=start, end=end))

    def changed(self, input_address: str, settings: SourceSettings) -> bool:
        """Whether the input looks different from when it was planned (names, sizes, times; contents are not read).

        Raises SourceError if it is gone.
        """
        return stamp(find_source(input_address, settings)) != self.stamp


def make_plan(
    input_address: str,
    folder: str | Path,
    settings: SourceSettings,
    rows_per_chunk: int,
    rows_per_slice: int,
    on_progress: Callable[[int], None] | None = None,
    on_notice: Callable[[str], None] = say,
    limit: int | None = None,
) -> Plan:
    """Read the input once, all of it or its first `limit` rows, and write the plan below `folder`.

    `on_progress` is told the rows read so far, `on_notice` what of a folder is no row though it may have been meant as one, and
    columns of the manifest that the index will not hold.
    Raises SourceError for an input that cannot be read or changes meanwhile, FileExistsError if there is a plan already.
    """
    folder = absolute(str(folder), str(Path.cwd()))
    if open_plan(folder):
        raise FileExistsError(f"{folder}: there is a plan already; plans are frozen")
    source = find_source(input_address, settings)
    before = stamp(source)
    rows_per_slice = min(rows_per_slice, rows_per_chunk)
    extra = ExtraColumns()
    with _seen(folder) as seen:
        found = _noted(_unique(itertools.islice(read_rows(source, settings, on_notice), limit), seen), extra)
        rows, sha256 = _write_slices(folder, found, rows_per_chunk, rows_per_slice, on_progress)
    if stamp(source) != before:
        raise SourceError(f"{source.address}: changed while it was read; start again when it is complete")
    if extra.notice:
        on_notice(extra.notice)
    plan = Plan(folder, source.address, source.root, rows, rows_per_chunk, rows_per_slice, sha256, before, extra.types, limit)
    fields = {**asdict(plan), "chunks": plan.n_chunks, "slices": plan.n_slices}
    del fields["folder"]
    storage.atomic_write(storage.join(folder, _PLAN), json.dumps(fields, indent=2).encode())
    return plan


def open_plan(folder: str | Path) -> Plan | None:
    """The plan below `folder`, None if there is none (complete)."""
    folder = absolute(str(folder), str(Path.cwd()))
    try:
        fields = json.loads(storage.read_bytes(storage.join(folder, _PLAN)))
    except FileNotFoundError:
        return None
    return Plan(folder=folder, **{name: fields[name] for name in Plan.__dataclass_fields__ if name in fields})


def _write_slices(
    folder: str,
    rows: Iterator[Clip | Rejection],
    rows_per_chunk: int,
    rows_per_slice: int,
    on_progress: Callable[[int], None] | None,
) -> tuple[int, str]:
    """Write rows and offsets; gives the number of rows and the SHA-256 of their content."""
    digest = hashlib.sha256()
    n_rows = end = told = 0
    with storage.staged(storage.join(folder, _ROWS)) as data, storage.staged(storage.join(folder, _OFFSETS)) as offsets:
        offsets.file.write(_OFFSET.pack(0))
        # A slice ends with its chunk.
        while batch := list(itertools.islice(rows, min(rows_per_slice, rows_per_chunk - n_rows % rows_per_chunk))):
            encoded = [_encode_row(row) for row in batch]
            for row in encoded:
                digest.update(row)
            end += data.file.write(msgspec.msgpack.encode([msgspec.Raw(row) for row in encoded]))
            offsets.file.write(_OFFSET.pack(end))
            n_rows += len(batch)
            if on_progress and n_rows - told >= _PROGRESS_ROWS:
                on_progress(told := n_rows)
        data.publish()
        offsets.publish()
    if on_progress:
        on_progress(n_rows)
    return n_rows, digest.hexdigest()


def _noted(rows: Iterator[Clip | Rejection], extra: ExtraColumns) -> Iterator[Clip | Rejection]:
    """The same rows; the other columns of their clips are seen on the way."""
    for row in rows:
        if isinstance(row, Clip):
            extra.add(row.extra)
        yield row


def _unique(rows: Iterator[Clip | Rejection], seen: sqlite3.Connection) -> Iterator[Clip | Rejection]:
    """The same rows, with clips whose key an earlier clip has turned into rejections."""
    cursor = seen.cursor()
    for row in rows:
        if isinstance(row, Clip):
            cursor.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (row.key, row.row))
            if not cursor.rowcount:
                (first,) = cursor.execute("SELECT row FROM seen WHERE key = ?", (row.key,)).fetchone()
                what = f"the id {row.id!r}" if row.id == row.key else "the same video, times and caption"
                yield reject(Sample(clip=row), "source", "duplicate_id", f"row {first} has {what}; the first is kept")
                continue
        yield row


@contextmanager
def _seen(folder: str) -> Iterator[sqlite3.Connection]:
    """An empty set of keys on disk, deleted afterwards; beside the plan if that is local, as /tmp may be in memory."""
    with tempfile.TemporaryDirectory() as scratch:
        path = (storage.local_path(folder) or Path(scratch)) / _SEEN
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # of a planning that was killed, like the temporary files
        storage.clean_temporaries(folder)
        try:
            with closing(sqlite3.connect(path, isolation_level=None)) as seen:
                # Nothing needs to survive a crash: no journal, no fsync. The cache bounds the memory, however many keys.
                for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", f"cache_size=-{_CACHE_KIB}"):
                    seen.execute(f"PRAGMA {setting}")
                seen.execute("CREATE TABLE seen (key TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID")
                seen.execute("BEGIN")
                yield seen
        except sqlite3.Error as error:
            trouble = disk_trouble(error)
            if trouble is None:
                raise
            trouble.filename = str(path.parent)
            raise trouble from error
        finally:
            path.unlink()
