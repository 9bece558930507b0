"""Rows whose key an earlier row of the plan has, found in bounded memory however many rows and files there are.

In: segments, which hold their keys sorted by hash. The hashes are cut into shares; of each share the keys of all segments are
sorted together, which shows what is there twice, and of each segment with such rows these are gathered into one list. Both
steps run side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from materia.base import storage
from pipeline.plan.segments import DUPLICATE, KEY, N_BUCKETS, Segment, read_keys, segment_address
from pipeline.plan.tasks import Tasks, in_order

_SHARE_ROWS = 2**22  # whose keys are sorted at once: 84 MB, and as much again while they are
_READERS = 8  # threads that wait for a store


class _Share(NamedTuple):
    """One of `n_shares` of all hashes. Of rows before `first_row` nothing is told: it is known."""

    folder: str
    segments: Sequence[Segment]
    first_row: int
    number: int
    n_shares: int

    @property
    def address(self) -> str:
        return storage.join(self.folder, "found", f"{self.number:03d}.duplicates")


class _Gathering(NamedTuple):
    """Of a segment, the runs of the shares' findings that are its: the share's address, and from where to where."""

    folder: str
    name: str
    runs: list[tuple[str, int, int]]


def find_duplicates(folder: str, segments: Sequence[Segment], first_row: int, tasks: Tasks | None) -> list[Segment]:
    """The segments, those with rows from `first_row` on with the number of their duplicates; writes the lists of these."""
    n_rows = sum(segment.rows for segment in segments)
    if not n_rows:
        return []
    n_shares = 1
    while n_shares < N_BUCKETS and n_rows > n_shares * _SHARE_ROWS:
        n_shares *= 2
    shares = [_Share(folder, segments, first_row, number, n_shares) for number in range(n_shares)]
    cuts = in_order(_search, shares, tasks if n_shares > 1 else None)
    found = list(segments)
    works = {}
    for number, segment in enumerate(segments):
        runs = [(share.address, int(cut[number]), int(cut[number + 1])) for share, cut in zip(shares, cuts, strict=True)]
        if runs := [run for run in runs if run[1] < run[2]]:
            works[number] = _Gathering(folder, segment.name, runs)
            found[number] = segment._replace(duplicates=sum(end - start for _, start, end in runs))
    in_order(_gather, list(works.values()), tasks if n_shares > 1 else None)
    for share, cut in zip(shares, cuts, strict=True):
        if cut[-1]:
            storage.remove(share.address)
    return found


def read_duplicates(folder: str, segment: Segment) -> np.ndarray:
    """Of a segment, by row: (n,) DUPLICATE."""
    if not segment.duplicates:
        return np.empty(0, DUPLICATE)
    return np.frombuffer(storage.read_bytes(segment_address(folder, segment.name, "duplicates")), DUPLICATE)


def _search(share: _Share) -> np.ndarray:
    """Write the share's duplicates, by row; gives where those of each segment begin and the last one's end: (segments + 1,)."""
    starts = np.cumsum([0, *(segment.rows for segment in share.segments)])
    again = _repeated(_keys(share), starts)
    again = again[again["row"] >= share.first_row]
    if len(again):
        storage.atomic_write(share.address, again.tobytes())
    return np.searchsorted(again["row"], starts)


def _keys(share: _Share) -> list[np.ndarray]:
    def read(segment: Segment) -> np.ndarray:
        return read_keys(share.folder, segment, share.number, share.n_shares)

    if len(share.segments) == 1:
        return [read(share.segments[0])]
    with ThreadPoolExecutor(_READERS) as threads:
        return list(threads.map(read, share.segments))


def _repeated(keys: list[np.ndarray], starts: np.ndarray) -> np.ndarray:
    """Rows whose hash an earlier one has, by row, (n,) DUPLICATE, of each segment's keys and first rows."""
    high = np.concatenate([np.empty(0, np.uint64), *(each["high"] for each in keys)])
    order = np.argsort(high, kind="stable")
    same = high[order[1:]] == high[order[:-1]]
    places = np.unique(np.append(order[1:][same], order[:-1][same]))  # few
    bounds = np.cumsum([0, *map(len, keys)])
    cuts = np.searchsorted(places, bounds)
    parts = [each[places[cuts[n] : cuts[n + 1]] - bounds[n]] for n, each in enumerate(keys)]
    suspects = np.concatenate([np.empty(0, KEY), *parts])
    rows = suspects["row"] + np.repeat(starts[:-1], np.diff(cuts)).astype(np.uint64)
    by_key = np.lexsort((rows, suspects["low"], suspects["high"]))
    rows, suspects = rows[by_key], suspects[by_key]
    begins = np.ones(len(rows), bool)
    begins[1:] = (suspects["high"][1:] != suspects["high"][:-1]) | (suspects["low"][1:] != suspects["low"][:-1])
    first = rows[np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))]
    again = np.empty(int((~begins).sum()), DUPLICATE)
    again["row"], again["first"] = rows[~begins], first[~begins]
    return np.sort(again, order="row")


def _gather(work: _Gathering) -> None:
    def read(run: tuple[str, int, int]) -> bytes:
        address, start, end = run
        return storage.read_bytes(address, start * DUPLICATE.itemsize, end * DUPLICATE.itemsize)

    found = np.frombuffer(b"".join(map(read, work.runs)), DUPLICATE)
    storage.atomic_write(segment_address(work.folder, work.name, "duplicates"), np.sort(found, order="row").tobytes())
