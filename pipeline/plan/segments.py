"""Segments: the files in which a plan keeps its rows, each written by one process and read by byte ranges.

A segment holds, one after the other: its rows as msgpack, back to back and without numbers, because their place tells them;
where each 64th of them begins, and the last ends (little-endian uint64); a table of 257 (uint32) that says where among its keys
those begin whose hash begins with each byte; and its keys, sorted by hash: KEY, 20 bytes each. Rejected rows have none.
Beside it lies, only if it has any, the list of those rows whose key an earlier row of the plan has (duplicates.py).
"""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
import numpy as np

from materia.base import storage
from stages.records import Clip, Rejection

KEY = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u4")])
"""128 bits of a hash of a clip's key, and the row in its segment."""
DUPLICATE = np.dtype([("row", "<u8"), ("first", "<u8")])
"""A row and the first row with its key, both of the whole plan."""

_MOST_ROWS = 2**18
_GROUP = 64  # rows from one known offset to the next
_OFFSET = np.dtype("<u8")
_COUNT = np.dtype("<u4")
N_BUCKETS = 256

encode_row = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Clip | Rejection]).decode


class Segment(NamedTuple):
    """Its name, rows, bytes that these take, and how many of them are duplicates."""

    name: str
    rows: int
    bytes: int
    duplicates: int = 0


class Encoded(NamedTuple):
    """A row as msgpack, its number 0, and its key if it is a clip."""

    row: bytes
    key: str | None


def segment_address(folder: str, name: str, suffix: str = "rows") -> str:
    """Where a segment of the plan below `folder` lies, or its "duplicates"."""
    return storage.join(folder, "segments", f"{name}.{suffix}")


def write_segments(folder: str, name: str, rows: Iterator[Encoded], on_rows: Callable[[int], None]) -> list[Segment]:
    """Write rows as segments of bounded size, named after `name`; `on_rows` is told how many rows each step took."""
    segments: list[Segment] = []
    while (first := next(rows, None)) is not None:
        some = itertools.chain([first], itertools.islice(rows, _MOST_ROWS - 1))
        segments.append(_write_segment(folder, f"{name}-{len(segments):03d}", some, on_rows))
    return segments


def _write_segment(folder: str, name: str, rows: Iterator[Encoded], on_rows: Callable[[int], None]) -> Segment:
    n_rows = n_bytes = 0
    offsets, hashes, of_rows = array("Q"), bytearray(), array("I")
    with storage.staged(segment_address(folder, name)) as staging:
        while group := list(itertools.islice(rows, _GROUP)):
            offsets.append(n_bytes)
            n_bytes += staging.file.write(b"".join([encoded for encoded, _ in group]))
            for number, (_, key) in enumerate(group, n_rows):
                if key is not None:
                    hashes += hashlib.blake2b(key.encode(), digest_size=16).digest()
                    of_rows.append(number)
            n_rows += len(group)
            on_rows(len(group))
        offsets.append(n_bytes)
        keys = np.empty(len(of_rows), KEY)
        keys["high"], keys["low"] = np.frombuffer(hashes, "<u8").reshape(-1, 2).T
        keys["row"] = of_rows
        keys = keys[np.argsort(keys["high"], kind="stable")]
        starts = np.arange(N_BUCKETS, dtype=np.uint64) << np.uint64(56)
        table = np.append(np.searchsorted(keys["high"], starts), len(keys))
        for part in (np.array(offsets, _OFFSET), table.astype(_COUNT), keys):
            staging.file.write(part.tobytes())
        staging.publish()
    return Segment(name, n_rows, n_bytes)


def read_offsets(folder: str, segment: Segment) -> np.ndarray:
    """Where groups of its rows begin, and the last one ends: (groups + 1,) uint64."""
    end = segment.bytes + _offsets_bytes(segment)
    return np.frombuffer(storage.read_bytes(segment_address(folder, segment.name), segment.bytes, end), _OFFSET)


def read_rows(folder: str, segment: Segment, offsets: np.ndarray, start: int, end: int) -> list[Clip | Rejection]:
    """Its rows from `start` to before `end`, all with the number 0; costs one read."""
    first, last = start // _GROUP, -(-end // _GROUP)
    data = storage.read_bytes(segment_address(folder, segment.name), int(offsets[first]), int(offsets[last]))
    n_rows = min(last * _GROUP, segment.rows) - first * _GROUP
    rows = _decode(b"\xdd" + n_rows.to_bytes(4, "big") + data)  # as a msgpack list of so many
    return rows[start - first * _GROUP : end - first * _GROUP]


def read_keys(folder: str, segment: Segment, share: int, n_shares: int) -> np.ndarray:
    """Its keys in one of `n_shares` equal shares of all hashes (N_BUCKETS / n_shares must be whole): (n,) KEY."""
    address, at = segment_address(folder, segment.name), segment.bytes + _offsets_bytes(segment)
    keys_at = at + (N_BUCKETS + 1) * _COUNT.itemsize
    if n_shares == 1:
        return np.frombuffer(storage.read_bytes(address, keys_at), KEY)
    table = np.frombuffer(storage.read_bytes(address, at, keys_at), _COUNT)
    start, end = (keys_at + int(table[N_BUCKETS * edge // n_shares]) * KEY.itemsize for edge in (share, share + 1))
    return np.frombuffer(storage.read_bytes(address, start, end) if end > start else b"", KEY)


def _offsets_bytes(segment: Segment) -> int:
    return (-(-segment.rows // _GROUP) + 1) * _OFFSET.itemsize
