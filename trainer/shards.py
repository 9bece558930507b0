"""Samples by number, out of shards that `materia run` wrote: the index says in which tar and where; bytes are read from there.

In: the address of an output and a filter. Out: the index of what may be read, and members of single samples. Only what has a
commit record is seen. Members that lie together are read together, and nothing of the rest of a tar is touched.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.shards import OutputError, commits, require_output
from trainer.filters import admitted

GAP_BYTES = 64 << 10
"""Members that lie no further apart are read in one go."""


class Samples:
    """The samples of an output that a filter admits, in the order of the manifest.

    `index`: their rows of the index (pipeline/schema). `sha256`: of all index files and the filter; equal if and only if the
    same samples have the same numbers. Raises OutputError for an output that cannot be read or of which nothing is left.
    """

    def __init__(self, out: str, where: str | None = None) -> None:
        require_output(out)
        self.out = out
        tables, digest = [], hashlib.sha256((where or "").encode())
        for commit in commits(out):
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
        self.sha256 = digest.hexdigest()
        self._shards: dict[str, BinaryIO] = {}

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
        shard, wanted = str(self.index["shard"][number]), list(names)
        if unknown := [name for name in wanted if name not in places]:
            raise OutputError(f"{self.out}: sample {self.index['key'][number]} has no member {unknown[0]!r}")
        ordered = sorted((places[name] for name in wanted), key=lambda member: member["offset"])
        read: dict[str, bytes] = {}
        for run in _runs(ordered):
            first, last = run[0]["offset"], run[-1]["offset"] + run[-1]["size"]
            data = self._read_range(shard, first, last - first)
            for member in run:
                start = member["offset"] - first
                read[member["name"]] = data[start : start + member["size"]]
        return read

    def close(self) -> None:
        """Close the shards that were opened."""
        for file in self._shards.values():
            file.close()
        self._shards.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay in the process that opened them; a loader's worker opens its own."""
        return {**self.__dict__, "_shards": {}}

    def _read_range(self, shard: str, offset: int, size: int) -> bytes:
        address = storage.join(self.out, shard)
        try:
            if shard not in self._shards:
                self._shards[shard] = storage.open_read(address)
            file = self._shards[shard]
            file.seek(offset)
            data = file.read(size)
        except OSError as error:
            raise OutputError(f"{address} cannot be read: {error}; run: materia validate {self.out}") from error
        if len(data) != size:
            raise OutputError(f"{address} ends before byte {offset + size}; run: materia validate {self.out}")
        return data


def _runs(members: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Members in the order of their offsets -> groups that are read in one go."""
    runs: list[list[dict[str, Any]]] = []
    for member in members:
        if runs and member["offset"] - (runs[-1][-1]["offset"] + runs[-1][-1]["size"]) <= GAP_BYTES:
            runs[-1].append(member)
        else:
            runs.append([member])
    return runs


def _read_index(address: str, sha256: str) -> pa.Table:
    try:
        data = storage.read_bytes(address)
    except OSError as error:
        raise OutputError(f"{address} cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise OutputError(f"{address} is not the file that was committed; run: materia validate on its output")
    return pq.read_table(io.BytesIO(data))
