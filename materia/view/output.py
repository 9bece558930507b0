"""One output as the page sees it: its committed chunks, its samples by number, and bytes of the members that its index names.

In: the address of an output. Out: tables of the index and the rejects chunk by chunk, wide rows one by one, members as places
in a tar. A chunk that cannot be read becomes a problem in words, and the others are shown. Nothing but what a commit record
names is opened; samples are numbered in the order in which their chunks were read.
"""

from __future__ import annotations

import bisect
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa

from materia.base import storage
from materia.dataset.documents import Document
from materia.dataset.layout import (
    Commit,
    OutputError,
    TableName,
    committed,
    read_commit,
    relative_path,
    require_output,
)
from materia.dataset.ranges import HEADER_BYTES, is_header_of
from materia.dataset.reader import parse_document
from materia.dataset.schema import INDEX, REJECTS
from materia.dataset.tables import parquet_table

WIDE = ("id", "shard", "caption", "members", "extra")
"""Columns of the index that are read for single samples only: a million captions and lists of members would fill the memory."""
WIDE_REJECTS = ("id", "uri", "caption", "message", "found")
BRIEF = ("key", "shard", "caption", "members")
"""Of these, what a card needs."""
_WIDE_CHUNKS = 64
"""Of each table, kept in memory."""
_BATCH = 16
"""Chunks that are read at once."""
MOST_BYTES = 256 << 20
"""Of a member that is read whole: no picture is as large, and what is may be a trap."""


class Problem(NamedTuple):
    """Something of an output that cannot be shown, and why."""

    file: str
    message: str


class Place(NamedTuple):
    """Where a member's bytes lie."""

    address: str
    offset: int
    size: int
    name: str


class Chunk(NamedTuple):
    """What was read of a chunk: the narrow columns of its index and rejects."""

    commit: Commit
    index: pa.Table
    rejects: pa.Table


class Output:
    """The committed chunks of an output. Raises OutputError where there is no output."""

    def __init__(self, out: str) -> None:
        require_output(out)
        self.out = out
        self.chunks = sorted(committed(out))
        self.problems: list[Problem] = []
        self.commits: dict[int, Commit] = {}
        self.digest = hashlib.sha256()
        self._starts: dict[TableName, list[int]] = {"index": [], "rejects": []}
        self._read: list[int] = []  # chunks, in the order of their numbers
        self._sizes: dict[TableName, int] = {"index": 0, "rejects": 0}
        self._wide: OrderedDict[tuple[str, int, bool], pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def read(self) -> Iterator[list[Chunk]]:
        """All chunks that can be read, some at a time; numbers of samples and rejections follow their order."""
        with ThreadPoolExecutor(_BATCH if storage.local_path(self.out) is None else 2) as pool:
            for first in range(0, len(self.chunks), _BATCH):
                numbers = self.chunks[first : first + _BATCH]
                chunks = [chunk for chunk in pool.map(self._read_chunk, numbers) if chunk is not None]
                for chunk in chunks:
                    self._number(chunk)
                yield chunks

    def _read_chunk(self, number: int) -> Chunk | None:
        try:
            commit = read_commit(self.out, number)
            index = _narrow(self.out, "index", commit, [*(field.name for field in INDEX if field.name not in WIDE), "extra"])
            rejects = _narrow(self.out, "rejects", commit, [field.name for field in REJECTS if field.name not in WIDE_REJECTS])
            return Chunk(commit, index, rejects)
        except OutputError as error:
            self.problems.append(Problem(relative_path("commits", number), str(error)))
        except (OSError, pa.ArrowException) as error:
            self.problems.append(Problem(relative_path("index", number), f"its tables cannot be read: {error}"))
        return None

    def _number(self, chunk: Chunk) -> None:
        number = chunk.commit.chunk
        self.commits[number] = chunk.commit
        self._read.append(number)
        tables: dict[TableName, pa.Table] = {"index": chunk.index, "rejects": chunk.rejects}
        for folder, table in tables.items():
            self._starts[folder].append(self._sizes[folder])
            self._sizes[folder] += len(table)
            file = chunk.commit.files.get(chunk.commit.path(folder))
            self.digest.update(file.sha256.encode() if file else b"-")

    def instances(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Tables of the instances, chunk by chunk, of chunks that have one. Raises OutputError, OSError."""
        for commit in list(self.commits.values()):
            if commit.has_instances:
                try:
                    yield _narrow(self.out, "instances", commit, columns)
                except pa.ArrowException as error:
                    raise OutputError(f"{storage.join(self.out, commit.path('instances'))} cannot be read: {error}") from None

    @property
    def samples(self) -> int:
        """How many have been read until now."""
        return self._sizes["index"]

    @property
    def rejections(self) -> int:
        """How many have been read until now."""
        return self._sizes["rejects"]

    def row(self, number: int, table: TableName = "index", columns: Sequence[str] | None = None) -> dict[str, Any]:
        """A row of the index, or of the rejects: all of it, or `columns` that the file has. Raises OutputError, IndexError."""
        chunk, place = self._place(number, table)
        found: dict[str, Any] = self._wide_table(table, chunk, columns).slice(place, 1).to_pylist()[0]
        return found

    def _place(self, number: int, table: TableName) -> tuple[int, int]:
        """(chunk, row in its table)."""
        if not 0 <= number < self._sizes[table]:
            raise IndexError(number)
        starts = self._starts[table]
        at = bisect.bisect_right(starts, number) - 1
        return self._read[at], number - starts[at]

    def _wide_table(self, table: TableName, chunk: int, columns: Sequence[str] | None) -> pa.Table:
        known = (table, chunk, columns is None)
        with self._lock:
            if known in self._wide:
                self._wide.move_to_end(known)
                return self._wide[known]
        address = storage.join(self.out, self.commits[chunk].path(table))
        try:
            read = parquet_table(storage.read_bytes(address), columns)
        except (OSError, pa.ArrowException) as error:
            raise OutputError(f"{address} cannot be read any more: {error}") from None
        with self._lock:
            self._wide[known] = read
            while len(self._wide) > _WIDE_CHUNKS:
                self._wide.popitem(last=False)
        return read

    def place(self, number: int, name: str) -> Place:
        """Where a sample's member lies. Raises OutputError for one that the index does not name, in a tar that is committed."""
        row = self.row(number, columns=BRIEF)
        chunk, _ = self._place(number, "index")
        shard = self.commits[chunk].path("shards")
        if row["shard"] != shard or shard not in self.commits[chunk].files:
            raise OutputError(f"the index says that {row['key']} lies in {row['shard']}, which is not committed with it")
        for member in row["members"]:
            if member["name"] == name:
                return Place(storage.join(self.out, shard), member["offset"], member["size"], f"{row['key']}.{name}")
        raise OutputError(f"{row['key']} has no member {name!r}")

    def read_member(self, number: int, name: str) -> bytes:
        """A member's bytes. Raises OutputError for a tar that is gone, cut, or not what the index describes."""
        place = self.place(number, name)
        if place.size > MOST_BYTES:
            raise OutputError(f"{place.name} has {place.size:,} bytes, more than is read at once")
        return read_range(place, 0, place.size)

    def document(self, number: int) -> Document:
        """A sample's KEY.json. Raises OutputError."""
        return parse_document(self.read_member(number, "json"), self.commits[self._place(number, "index")[0]].path("shards"))


def _narrow(out: str, folder: TableName, commit: Commit, columns: Sequence[str]) -> pa.Table:
    """Those of `columns` that a chunk's table has."""
    return parquet_table(storage.read_bytes(storage.join(out, commit.path(folder))), columns)


def read_range(place: Place, start: int, end: int) -> bytes:
    """Bytes [start, end) of a member. Where they begin with the first, the tar's header before them is compared.

    Raises OutputError.
    """
    before = HEADER_BYTES if start == 0 else 0
    first = place.offset + start - before
    try:
        data = storage.read_bytes(place.address, first, place.offset + end)
    except FileNotFoundError:
        raise OutputError(f"{place.address} is gone") from None
    except OSError as error:
        raise OutputError(f"{place.address} cannot be read: {error}") from None
    if len(data) < before + end - start:
        raise OutputError(f"{place.address} is cut: it ends before byte {place.offset + end}")
    if before and not is_header_of(data[:before], place.name):
        raise OutputError(f"{place.address} is not the tar that its index describes: no {place.name} at byte {place.offset}")
    return data[before:]
