"""The one reader of outputs: tables of what is committed, and samples by number or key with their pixels.

In: the address of an output and a filter. Out: a `Dataset`. Only what has a commit record is seen. The index says in which tar
a member lies and where; its bytes are read from there, and nothing of the rest of a tar is touched.
"""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from materia.base import storage
from materia.base.terminal import plural
from materia.dataset.documents import Document, decode_document
from materia.dataset.filters import admitted, layer_columns_named
from materia.dataset.layers import JoinedLayers, layer_in_order
from materia.dataset.layout import (
    Commit,
    OutputError,
    TableName,
    commits,
    index_sha256,
    read_commit,
    require_output,
)
from materia.dataset.masks import decode_rle
from materia.dataset.ranges import HEADER_BYTES, RangeReader, is_header_of
from materia.dataset.rows import instance_rows
from materia.dataset.schema import INSTANCES
from materia.dataset.tables import parquet_file


def read_table(
    out: str,
    commit: Commit,
    folder: TableName,
    columns: Sequence[str] | Callable[[pa.Schema], Sequence[str]] | None = None,
    verify: bool = False,
) -> pa.Table:
    """A committed chunk's table; of `columns` only, if they are given, or of those named when its schema is known. `verify`:
    compare its SHA-256 first.

    Raises OutputError for one that cannot be read, or is not what was committed.
    """
    address = storage.join(out, commit.path(folder))
    try:
        data = storage.read_bytes(address)
        if verify and hashlib.sha256(data).hexdigest() != commit.files[commit.path(folder)].sha256:
            raise OutputError(f"{address} is not the file that was committed; run: materia validate {out}")
        file = parquet_file(data)
        if callable(columns):
            columns = columns(file.schema_arrow)
        return file.read(columns=None if columns is None else list(columns), use_threads=False)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise OutputError(f"{address} is committed but cannot be read: {error}; run: materia validate {out}") from None


def _joined(tables: list[pa.Table]) -> pa.Table:
    """The rows of all tables; files of an earlier version have fewer columns, and a column that one lacks is left out."""
    first = tables[0].schema
    others = [table.schema for table in tables if not table.schema.equals(first)]
    common = [
        field.name for field in first if all(field.name in other.names and field == other.field(field.name) for other in others)
    ]
    return pa.concat_tables([table.select(common) for table in tables] if others else tables)


_SWEEP = pa.schema(
    [
        ("threshold", pa.float64()),
        ("kept", pa.int64()),
        ("lost", pa.int64()),
        ("just_kept", pa.string()),
        ("just_lost", pa.string()),
    ]
)


class Dataset:
    """The samples of an output that a filter admits, in the order of the manifest; `len`, iteration, by number or by key.

    `index`: their rows of the index (materia/dataset/schema.py), with the columns that all of its files have.
    `source_sha256`: of the index files. `chosen_by_layers`: whether a filter asked a layer (materia/dataset/layers.py), which
    may be another one tomorrow. `at_most`: of the first so many samples, `chunks`: of these only; the tables of others are not
    read. Raises OutputError for an output that cannot be read or of which nothing is left, FilterError for an expression that
    is not understood (materia/dataset/filters.py).
    """

    chosen_by_layers = False

    def __init__(
        self, out: str, where: str | None = None, at_most: int | None = None, chunks: Iterable[int] | None = None
    ) -> None:
        require_output(out)
        tables, rows, read = [], 0, []
        for commit in commits(out) if chunks is None else (read_commit(out, chunk) for chunk in sorted(set(chunks))):
            if at_most is not None and rows >= at_most:
                break
            tables.append(read_table(out, commit, "index", verify=True))
            rows += len(tables[-1])
            read.append(commit)
        if not rows:
            raise OutputError(f"{out} has no samples; look at its rejections: materia stats {out}")
        self.out = out
        self.index = _joined(tables).slice(0, at_most)
        self.source_sha256 = index_sha256(read)
        self._shards = RangeReader(out, f"run: materia validate {out}")
        self._where = ""
        self._filters: tuple[str, ...] = ()
        if where is not None:
            self._keep(where)

    def where(self, expression: str) -> Dataset:
        """Those of the samples that an expression admits, e.g. `subjects >= 2 and residual < 0.3`."""
        fewer = copy.copy(self)
        fewer._keep(expression)
        return fewer

    def audit(self, n: int = 100, seed: int = 0) -> Dataset:
        """At most `n` of the samples by chance, in random order; of a whole output those that `materia audit -n N --seed SEED`
        shows. What was marked there is `Dataset.layer("marks")`.
        """
        keys = self.index["key"].to_pylist()
        order = sorted(
            range(len(keys)), key=lambda number: (hashlib.md5(f"{seed}:{keys[number]}".encode()).digest(), keys[number])
        )
        fewer = copy.copy(self)
        fewer.__dict__.pop("_number_of_key", None)
        fewer.index = self.index.take(order[:n])
        fewer._where = f"{self._where} audit {n} {seed}"
        return fewer

    def sweep(self, of: str) -> pa.Table:
        """What thresholds of a number would keep of the samples that the filters admit, a row each: `kept` have `threshold` or
        more, `lost` less; `just_kept` and `just_lost` are keys on either side. `of`: as in `materia stats --sweep`.

        Raises FilterError for what is no number of the samples or of their instances.
        """
        from materia.dataset.stats_sweep import sweep

        rows = [
            {
                "threshold": one.value,
                "kept": one.at_least.kept,
                "lost": one.at_least.lost,
                "just_kept": one.at_least.just_kept.key if one.at_least.just_kept else None,
                "just_lost": one.at_least.just_lost.key if one.at_least.just_lost else None,
            }
            for one in sweep(self.out, of, self._filters).thresholds
        ]
        return pa.Table.from_pylist(rows, _SWEEP)

    def admitted(self, expression: str) -> np.ndarray:
        """Which of the samples an expression admits, (N,) bool; of layers, those that it names are read."""
        return admitted(JoinedLayers(self.out, expression).to(self.index), expression)

    def layer(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A layer in the order of `index`, a row a sample, null where it has none: `key`, then its columns, or `columns` of it.

        Raises OutputError for a layer or column that there is not, or that cannot be read.
        """
        return layer_in_order(self.out, name, self.index["key"], columns)

    def _keep(self, expression: str) -> None:
        there = self.admitted(expression)
        if not there.any():
            raise OutputError(
                f"--where {expression!r} admits none of the {plural(len(self.index), 'sample')} of {self.out};"
                f" materia stats {self.out}"
            )
        self.__dict__.pop("_number_of_key", None)
        self.index = self.index.filter(pa.array(there))
        self._filters = (*self._filters, expression)
        self._where = f"({self._where}) and ({expression})" if self._where else expression
        if layer_columns_named(expression):  # whose rows may be others tomorrow
            self._where += f" {hashlib.sha256(np.packbits(there).tobytes()).hexdigest()}"
            self.chosen_by_layers = True

    def instances(self, where: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """The instances of these samples, one row each: `INSTANCES` in materia/dataset/schema.py, or `columns` of it.

        `where`: only those that an expression over its columns admits, e.g. `not is_face and mask_score < 0.7`. Chunks that an
        earlier version wrote have no such table: their rows are made from each sample's KEY.json, which takes a read a sample.
        Raises OutputError for a table that cannot be read, FilterError, KeyError for a column that there is not.
        """
        shards = self.index["shard"].combine_chunks().dictionary_encode()
        codes = {shard: code for code, shard in enumerate(shards.dictionary.to_pylist())}
        tables = []
        for commit in commits(self.out):
            code = codes.get(commit.path("shards"))
            if code is not None:
                table = self._instances_of(commit, np.flatnonzero(shards.indices.to_numpy() == code))
                table = table if where is None else table.filter(pa.array(admitted(table, where, later=())))
                tables.append(table if columns is None else table.select(list(columns)))
        return _joined(tables)

    def _instances_of(self, commit: Commit, numbers: np.ndarray) -> pa.Table:
        """Of a chunk's samples `numbers`, (n,) int64."""
        if commit.has_instances:
            table = read_table(self.out, commit, "instances", verify=True)
            return table.filter(pc.is_in(table["key"], value_set=self.index["key"].take(numbers).combine_chunks()))
        return pa.Table.from_pylist([row for number in numbers for row in instance_rows(self.document(int(number)))], INSTANCES)

    @property
    def sha256(self) -> str:
        """Of all index files, the filter, and what it admitted by layers: equal if and only if the same samples have the same
        numbers.
        """
        return hashlib.sha256(f"{self.source_sha256} {self._where}".encode()).hexdigest()

    def __repr__(self) -> str:
        hours = pc.sum(self.index["duration_s"]).as_py() / 3600
        instances = pc.sum(self.index["n_instances"]).as_py()
        return f"<{self.out}: {plural(len(self), 'sample')}, {plural(instances, 'instance')}, {hours:,.1f} h>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from materia.dataset.notebook import dataset_html

        return dataset_html(self)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The index as it lies in memory, for libraries that take Arrow data (its PyCapsule interface): Polars, DuckDB, ..."""
        return self.index.__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.index)

    def __iter__(self) -> Iterator[StoredSample]:
        return (StoredSample(self, number) for number in range(len(self)))

    def __getitem__(self, which: int | str) -> StoredSample:
        """A sample by its number, or by its key. Raises IndexError, KeyError."""
        if isinstance(which, str):
            if which not in self._number_of_key:
                raise KeyError(which)
            return StoredSample(self, self._number_of_key[which])
        if not -len(self) <= which < len(self):
            raise IndexError(f"sample {which} of {len(self)}")
        return StoredSample(self, which % len(self))

    @cached_property
    def _number_of_key(self) -> dict[str, int]:
        return {key: number for number, key in enumerate(self.index["key"].to_pylist())}

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

    def document(self, number: int) -> Document:
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


class StoredSample:
    """A sample of a `Dataset`; what is asked for is read then, and kept. Raises OutputError for what cannot be read.

    `document`: KEY.json (materia/dataset/documents.py).
    """

    def __init__(self, dataset: Dataset, number: int) -> None:
        self.dataset = dataset
        self.number = number

    def __repr__(self) -> str:
        return f"<sample {self.key}: {self.document.caption!r}, {len(self.document.instances)} instances>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from materia.dataset.notebook import sample_html

        return sample_html(self)

    @property
    def key(self) -> str:
        """Its name."""
        return self.dataset.key(self.number)

    @cached_property
    def document(self) -> Document:
        """KEY.json."""
        return self.dataset.document(self.number)

    @cached_property
    def frames(self) -> np.ndarray:
        """The three frames of record, (3, H, W, 3) uint8 RGB."""
        return np.stack(self._pictures([frame.member for frame in self.document.frames], "RGB"))

    @cached_property
    def references(self) -> list[np.ndarray]:
        """The crop of each instance, (h, w, 4) uint8 RGBA, in the order of `document.instances`."""
        return self._pictures([instance.member for instance in self.document.instances], "RGBA")

    @cached_property
    def masks(self) -> np.ndarray:
        """The mask of each instance in its frame, (N, H, W) bool."""
        found = [decode_rle(instance.mask_rle.counts, instance.mask_rle.size) for instance in self.document.instances]
        masks = [mask for mask in found if mask is not None]
        if len(masks) < len(found) or len({mask.shape for mask in masks}) > 1:
            raise self._broken("a mask")
        return np.stack(masks)

    @cached_property
    def background(self) -> np.ndarray:
        """The middle frame without its subjects, (H, W, 3) uint8 RGB."""
        return self._pictures([self.document.background.member], "RGB")[0]

    def clip(self) -> bytes:
        """The clip's file; `document.video.container` says of which kind."""
        return self._read([self.document.video.member])[0]

    def _pictures(self, members: list[str], mode: Literal["RGB", "RGBA"]) -> list[np.ndarray]:
        read = self._read(members)
        try:
            return [np.asarray(Image.open(io.BytesIO(data)).convert(mode)) for data in read]
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises for broken pictures
            raise self._broken("a picture") from None

    def _read(self, members: list[str]) -> list[bytes]:
        found = self.dataset.read(self.number, members)
        return [found[member] for member in members]

    def _broken(self, what: str) -> OutputError:
        return OutputError(
            f"{self.dataset.address(self.number)}: {what} of {self.key} is broken; run: materia validate {self.dataset.out}"
        )


def parse_document(data: bytes, shard: str) -> Document:
    """KEY.json as it was read from the tar `shard`. Raises OutputError naming that."""
    try:
        return decode_document(data)
    except ValueError as error:
        raise OutputError(f"{shard} holds a KEY.json that cannot be understood: {error}; run: materia validate") from error
