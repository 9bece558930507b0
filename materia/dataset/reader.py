"""Samples by number, out of shards that `materia run` wrote: the index says in which tar and where; bytes are read from there.

In: the address of an output and a filter. Out: the index of what may be read, and members of single samples. Only what has a
commit record is seen. Members that lie together are read together, and nothing of the rest of a tar is touched.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from materia.base import storage
from materia.dataset.filters import admitted
from materia.dataset.schema import VERSION
from materia.dataset.writer import Commit, OutputError, commits, require_output

GAP_BYTES = 64 << 10
"""Ranges that lie no further apart are read in one go."""
OPEN_FILES = 256
"""Of a reader at once: a process may often have no more than 1024."""
HEADER_BYTES = 512
"""A member's header ends where its data begins: its name in the first 100 bytes, "ustar" at byte 257 [POSIX.1 ustar]."""


class RangeReader:
    """Byte ranges of the files below an address; the last opened stay open, each process opens its own.

    `advice`: what to do about a file that cannot be read or ends early, the end of the OutputError's message.
    """

    def __init__(self, root: str, advice: str) -> None:
        self.root = root
        self.advice = advice
        self._files: dict[str, BinaryIO] = {}
        self._process = os.getpid()

    def read(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, size) of a file, in the order of `ranges`. Raises OutputError naming the file."""
        found: dict[tuple[int, int], bytes] = {}
        for run in _runs(sorted(set(ranges))):
            first, end = run[0][0], sum(run[-1])
            data = self._read_range(name, first, end - first)
            found |= {(offset, size): data[offset - first : offset - first + size] for offset, size in run}
        return [found[wanted] for wanted in ranges]

    def close(self) -> None:
        """Close the files that were opened."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay in the process that opened them; a loader's worker opens its own."""
        return {**self.__dict__, "_files": {}}

    def _read_range(self, name: str, offset: int, size: int) -> bytes:
        address = storage.join(self.root, name)
        if self._process != os.getpid():  # after a fork: the place in a file would be shared with the parent
            self._files, self._process = {}, os.getpid()
        try:
            if name not in self._files:
                if len(self._files) == OPEN_FILES:
                    self._files.pop(next(iter(self._files))).close()
                self._files[name] = storage.open_read(address)
            file = self._files[name]
            file.seek(offset)
            data = file.read(size)
        except OSError as error:
            raise OutputError(f"{address} cannot be read: {error}; {self.advice}") from error
        if len(data) != size:
            raise OutputError(f"{address} ends before byte {offset + size}; {self.advice}")
        return data


class Samples:
    """The samples of an output that a filter admits, in the order of the manifest.

    `index`: their rows of the index (materia/dataset/schema). `source_sha256`: of all index files. `sha256`: of them and the
    filter, equal if and only if the same samples have the same numbers. Raises OutputError for an output that cannot be
    read or of which nothing is left.
    """

    def __init__(self, out: str, where: str | None = None) -> None:
        require_output(out)
        self.out = out
        tables, digest = [], hashlib.sha256()
        for commit in _commits(out):
            for name, file in sorted(commit.files.items()):
                if name.startswith("index/"):
                    digest.update(f"{name} {file.sha256}\n".encode())
                    tables.append(_read_index(storage.join(out, name), file.sha256))
        if not tables or not sum(map(len, tables)):
            raise OutputError(f"{out} has no samples; look at its rejections: materia stats {out}")
        self.index = pa.concat_tables(tables)
        if where is not None:
            keep = admitted(self.index, where)
            if not keep.any():
                raise OutputError(f"--where {where!r} admits none of the {len(keep)} samples of {out}; materia stats {out}")
            self.index = self.index.filter(pa.array(keep))
        self.source_sha256 = digest.hexdigest()
        self.sha256 = hashlib.sha256(f"{self.source_sha256} {where or ''}".encode()).hexdigest()
        self._shards = RangeReader(out, f"run: materia validate {out}")

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.index)

    def numbers(self, column: str) -> np.ndarray:
        """A column of the index that holds a number for each sample, (N,)."""
        values: np.ndarray = self.index[column].to_numpy()
        return values

    def members(self, number: int) -> list[str]:
        """Names of a sample's members, e.g. "json", "frame0.jpg"."""
        return [member["name"] for member in self.index["members"][number].as_py()]

    def read(self, number: int, names: Iterable[str]) -> dict[str, bytes]:
        """Bytes of a sample's members. Raises OutputError naming the shard for a member that is not there or cut short."""
        places = {member["name"]: member for member in self.index["members"][number].as_py()}
        wanted = list(names)
        if unknown := [name for name in wanted if name not in places]:
            raise OutputError(f"{self.out}: sample {self.key(number)} has no member {unknown[0]!r}")
        ranges = [(places[name]["offset"] - HEADER_BYTES, places[name]["size"] + HEADER_BYTES) for name in wanted]
        found = self._shards.read(str(self.index["shard"][number]), ranges)
        for name, data in zip(wanted, found, strict=True):
            if not is_header_of(data[:HEADER_BYTES], f"{self.key(number)}.{name}"):
                raise OutputError(
                    f"{self.address(number)} is not the tar that its index describes: no {self.key(number)}.{name} at byte "
                    f"{places[name]['offset']}; run: materia validate {self.out}"
                )
        return {name: data[HEADER_BYTES:] for name, data in zip(wanted, found, strict=True)}

    def document(self, number: int) -> dict[str, Any]:
        """A sample's KEY.json. Raises OutputError."""
        return parse_document(self.read(number, ["json"])["json"], self.address(number))

    def key(self, number: int) -> str:
        """A sample's name."""
        return str(self.index["key"][number])

    def address(self, number: int) -> str:
        """The tar that holds a sample."""
        return storage.join(self.out, str(self.index["shard"][number]))

    def close(self) -> None:
        """Close the shards that were opened."""
        self._shards.close()


def parse_document(data: bytes, shard: str) -> dict[str, Any]:
    """KEY.json as it was read from the tar `shard`. Raises OutputError naming that."""
    try:
        document: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise OutputError(f"{shard} holds a KEY.json that cannot be understood: {error}; run: materia validate") from error
    return document


def _commits(out: str) -> Iterator[Commit]:
    """Commit records of this version. Raises OutputError for others, and for those that cannot be understood."""
    try:
        for commit in commits(out):
            if commit.schema != VERSION:
                raise OutputError(f"{out} was written with schema {commit.schema}, this version reads {VERSION}; build it anew")
            yield commit
    except (OSError, ValueError) as error:
        raise error if isinstance(error, OutputError) else OutputError(f"{error}; run: materia validate {out}") from error


def is_header_of(header: bytes, name: str) -> bool:
    """Whether the bytes before a member's data are its header."""
    return header[257:262] == b"ustar" and header[:100].rstrip(b"\0") == name.encode()[:100]


def _runs(ranges: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """(offset, size) in the order of their offsets -> groups that are read in one go."""
    runs: list[list[tuple[int, int]]] = []
    for wanted in ranges:
        if runs and wanted[0] - sum(runs[-1][-1]) <= GAP_BYTES:
            runs[-1].append(wanted)
        else:
            runs.append([wanted])
    return runs


def _read_index(address: str, sha256: str) -> pa.Table:
    try:
        data = storage.read_bytes(address)
    except OSError as error:
        raise OutputError(f"{address} cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise OutputError(f"{address} is not the file that was committed; run: materia validate on its output")
    return pq.read_table(io.BytesIO(data))
