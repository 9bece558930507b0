"""A frozen plan: where each row lies, which chunk and slice it belongs to, and reading a slice.

Below a folder: segments (segments.py), and `plan.json`, written last, which names them, the input's files with their state and
a hash of their rows, and the plan's parts. Later parts are rows that were appended: a part begins with a new chunk, so that
what was committed stays as it is.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from materia.base import storage
from materia.base.terminal import plural
from materia.dataset.extra import ExtraType
from pipeline.plan.duplicates import read_duplicates
from pipeline.plan.rows_hash import RowsHash
from pipeline.plan.segments import Segment, read_offsets, read_rows
from pipeline.sources.access import absolute
from stages.records import Clip, Rejection, Sample, reject

PLAN = "plan.json"
_WRITTEN = ("input", "root", "rows", "rows_per_chunk", "rows_per_slice", "n_chunks", "n_slices", "sha256", "extra", "limit")
_CACHED_SEGMENTS = 64
_opened: dict[str, Plan] = {}


class PlannedFile(NamedTuple):
    """A file of the input as it was when its rows were planned (pipeline/sources: InputFile), and the hash of these."""

    name: str
    bytes: int
    version: str
    rows: RowsHash


@dataclass(frozen=True)
class Plan:
    """A frozen plan below `folder`, which reads its segments by address.

    `input`, `root`, `files`: what was read. `parts`: the rows of each. `extra`: the manifest's other columns that the index
    holds, name -> type. `limit`: how many of the first rows were asked for; None: all. Rows, chunks and slices are numbered
    from 0 through the whole plan; a slice never crosses a chunk, nor a chunk a part.
    """

    folder: str
    input: str
    root: str
    rows_per_chunk: int
    rows_per_slice: int
    extra: dict[str, ExtraType] = field(default_factory=dict)
    limit: int | None = None
    parts: tuple[RowsHash, ...] = ()
    files: tuple[PlannedFile, ...] = ()
    segments: tuple[Segment, ...] = ()

    @property
    def is_outdated(self) -> bool:
        """Whether an earlier version made it: its rows cannot be read, but made again from the same input."""
        return not self.parts

    @property
    def rows(self) -> int:
        """Number of all rows."""
        return self._first_rows[-1]

    @property
    def n_chunks(self) -> int:
        """Number of chunks; the last one of each part may be short."""
        return self._first_chunks[-1]

    @property
    def n_slices(self) -> int:
        """Number of slices in all chunks."""
        return self._first_slices[-1]

    @property
    def sha256(self) -> str:
        """Stands for the rows: the same for the same input anywhere, however it is cut into files and segments.

        Rows that were appended are another part, and one more is another hash.
        """
        return self.sha256_of(len(self.parts))

    def sha256_of(self, n_parts: int) -> str:
        """The same of the first parts."""
        return hashlib.sha256("".join(f"{part.rows} {part.value:x}\n" for part in self.parts[:n_parts]).encode()).hexdigest()

    def slices_of(self, chunk: int) -> range:
        """Numbers of the chunk's slices, in order."""
        part = self._part(self._first_chunks, chunk)
        first = self._first_slices[part] + (chunk - self._first_chunks[part]) * self._slices_per_chunk
        return range(first, min(first + self._slices_per_chunk, self._first_slices[part + 1]))

    def chunk_of(self, slice_: int) -> int:
        """Number of the chunk that a slice belongs to."""
        part = self._part(self._first_slices, slice_)
        return self._first_chunks[part] + (slice_ - self._first_slices[part]) // self._slices_per_chunk

    def first_row(self, chunk: int) -> int:
        """Row with which the chunk starts."""
        part = self._part(self._first_chunks, chunk)
        return self._first_rows[part] + (chunk - self._first_chunks[part]) * self.rows_per_chunk

    def rows_of_chunk(self, chunk: int) -> range:
        """Numbers of the chunk's rows."""
        first = self.first_row(chunk)
        end = self._first_rows[self._part(self._first_chunks, chunk) + 1]
        return range(first, min(first + self.rows_per_chunk, end))

    def rows_of(self, slice_: int) -> range:
        """Numbers of the slice's rows; the last slice of a chunk may be short."""
        if not 0 <= slice_ < self.n_slices:
            raise IndexError(f"slice {slice_} of {self.n_slices}")
        chunk = self.chunk_of(slice_)
        rows = self.rows_of_chunk(chunk)
        start = rows.start + (slice_ - self.slices_of(chunk).start) * self.rows_per_slice
        return range(start, min(start + self.rows_per_slice, rows.stop))

    def read(self, slice_: int) -> list[Clip | Rejection]:
        """Rows of one slice, in order; safe from any process and node that can open `folder`."""
        return self.rows_at(self.rows_of(slice_))

    def rows_at(self, rows: range) -> list[Clip | Rejection]:
        """Rows by their numbers, which follow each other; costs a read for each segment that has some of them.

        Raises IndexError for numbers that the plan has not.
        """
        if not 0 <= rows.start <= rows.stop <= self.rows:
            raise IndexError(f"{rows} of {plural(self.rows, 'row')}")
        found: list[Clip | Rejection] = []
        number = bisect_right(self._starts, rows.start) - 1
        while len(found) < len(rows):
            first, segment = self._starts[number], self.segments[number]
            start, end = rows.start + len(found) - first, min(rows.stop - first, segment.rows)
            offsets, duplicates = self._small_parts(number)
            read = read_rows(self.folder, segment, offsets, start, end)
            numbered = [msgspec.structs.replace(row, row=first + at) for at, row in enumerate(read, start)]
            twice = duplicates[slice(*np.searchsorted(duplicates["row"], (first + start, first + end)))]
            for row, earlier in twice.tolist():
                numbered[row - first - start] = _duplicate(numbered[row - first - start], earlier)
            found += numbered
            number += 1
        return found

    @staticmethod
    def _part(firsts: list[int], number: int) -> int:
        """The part that a number belongs to, by the first number of each; the last one's for what lies beyond."""
        return max(min(bisect_right(firsts, number), len(firsts) - 1) - 1, 0)

    @property
    def _slices_per_chunk(self) -> int:
        return -(-self.rows_per_chunk // self.rows_per_slice)

    # What each part begins with, and the plan ends before.

    @cached_property
    def _first_rows(self) -> list[int]:
        return list(accumulate((part.rows for part in self.parts), initial=0))

    @cached_property
    def _first_chunks(self) -> list[int]:
        return list(accumulate((-(-part.rows // self.rows_per_chunk) for part in self.parts), initial=0))

    @cached_property
    def _first_slices(self) -> list[int]:
        def slices(n_rows: int) -> int:
            full, rest = divmod(n_rows, self.rows_per_chunk)
            return full * self._slices_per_chunk + -(-rest // self.rows_per_slice)

        return list(accumulate((slices(part.rows) for part in self.parts), initial=0))

    @cached_property
    def _starts(self) -> list[int]:
        """The first row of each segment."""
        return list(accumulate((segment.rows for segment in self.segments), initial=0))

    @cached_property
    def _small_parts(self) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
        """Offsets and duplicates of a segment, those of the last ones kept."""

        @lru_cache(_CACHED_SEGMENTS)
        def read(number: int) -> tuple[np.ndarray, np.ndarray]:
            segment = self.segments[number]
            return read_offsets(self.folder, segment), read_duplicates(self.folder, segment)

        return read


def open_plan(folder: str | Path) -> Plan | None:
    """The plan below `folder`, None if there is none (complete)."""
    folder = plan_address(folder)
    try:
        fields: dict[str, Any] = json.loads(storage.read_bytes(storage.join(folder, PLAN)))
    except FileNotFoundError:
        _opened.pop(folder, None)
        return None
    known = {name: fields[name] for name in Plan.__dataclass_fields__ if name in fields}
    if "parts" in fields:
        known["parts"] = tuple(_hash(*part) for part in fields["parts"])
        known["files"] = tuple(PlannedFile(name, size, version, _hash(*rows)) for name, size, version, *rows in fields["files"])
        known["segments"] = tuple(Segment(*segment) for segment in fields["segments"])
    _opened[folder] = plan = Plan(folder=folder, **known)
    return plan


def frozen_plan(folder: str) -> Plan:
    """The plan below `folder`, as this process opened it last: while a job runs, its plan does not change.

    Raises FileNotFoundError if there is none.
    """
    plan = _opened.get(plan_address(folder)) or open_plan(folder)
    if plan is None:
        raise FileNotFoundError(f"no plan in {folder}; workers must see the output's folder")
    return plan


def save_plan(plan: Plan) -> Plan:
    """Write plan.json: from now on this is the plan. Gives it back."""
    fields = {name: getattr(plan, name) for name in _WRITTEN}
    fields["parts"] = [[part.rows, f"{part.value:x}"] for part in plan.parts]
    fields["files"] = [[*file[:3], file.rows.rows, f"{file.rows.value:x}"] for file in plan.files]
    fields["segments"] = [list(segment) for segment in plan.segments]
    storage.atomic_write(storage.join(plan.folder, PLAN), json.dumps(fields).encode())
    _opened[plan.folder] = plan
    return plan


def plan_address(folder: str | Path) -> str:
    """A plan's folder as an absolute address."""
    return absolute(str(folder), str(Path.cwd()))


def _hash(rows: int, value: str) -> RowsHash:
    return RowsHash(rows, int(value, 16))


def _duplicate(clip: Clip | Rejection, first: int) -> Rejection:
    assert isinstance(clip, Clip)
    what = f"the id {clip.id!r}" if clip.id == clip.key else "the same video, times and caption"
    return reject(Sample(clip=clip), "source", "duplicate_id", f"row {first} has {what}; the first is kept")
