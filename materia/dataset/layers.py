"""Layers: what is learnt about samples later (marks of a person, scores, embeddings), in tables beside the index.

    layers/NAME/layer.json                 which file the layer is, how many rows, who made it when and of what: `LayerInfo`
    layers/NAME/0123456789abcdef.parquet   column `key`, the sample's name, unique; any others of numbers, truths, texts, times,
                                           lists of these; named by its SHA-256

In: an output, and a table for all or some of its samples. Out: the same table, and in filters columns `NAME.COLUMN`, null for
samples that it has no row of. A layer is replaced by writing another file, then layer.json, then removing the file that the
layer.json before named, which no later layer is: each has its moment in it. So a reader sees the old or the new one, of two
writers the last wins, and what a killed writer left is named by nothing.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import keyword
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec import Meta

from materia.base import storage
from materia.base.errors import UserError
from materia.dataset.documents import Count, Hash, Text
from materia.dataset.filters import ALIASES, WHERE, FilterError, layer_columns_named
from materia.dataset.layout import FileHash, OutputError, commits, encode_record, index_sha256, require_output
from materia.dataset.schema import INDEX
from materia.dataset.tables import parquet_file

FOLDER = "layers"
VERSION = 1
MAX_COLUMN_CHARS = 100
RESERVED = {*INDEX.names, *ALIASES, "extra"}
"""No names of layers: in an expression they are something else."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_COLUMN = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{MAX_COLUMN_CHARS - 1}}}")
_FILE = r"^[0-9a-f]{16}\.parquet$"
_TIME = pa.timestamp("us", "UTC")


class LayerError(UserError):
    """A layer that is not written, because of its name or its table; the message says what to change."""


class LayerInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """layer.json. `made_by`: a person or a program, and its `version`; `made_at`: UTC, ISO 8601; `data_sha256`: of the index
    files that there were (Dataset.source_sha256).
    """

    schema: Literal[1] = 1
    files: Annotated[dict[Annotated[str, Meta(pattern=_FILE)], FileHash], Meta(min_length=1, max_length=1)]
    rows: Count
    made_by: Text
    version: Text
    made_at: Text
    data_sha256: Hash

    @property
    def file(self) -> str:
        """Name of the table's file in the layer's folder."""
        (name,) = self.files
        return name


def layers(out: str) -> dict[str, LayerInfo]:
    """Name -> layer of an output, sorted. Raises OutputError for no output, and a layer.json that cannot be understood."""
    require_output(out)
    found = {name: read_info(out, name) for name in storage.listdir(storage.join(out, FOLDER)) if is_layer_name(name)}
    return {name: info for name, info in found.items() if info is not None}


def read_layer(out: str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A layer's table: `key`, then its other columns, or `columns` of it, in the order in which its rows were written.

    Raises LayerError for what is no layer's name, OutputError for a layer or column that there is not, or that cannot be read.
    """
    file = _open(out, name)
    there = file.schema_arrow.names
    if unknown := [column for column in columns or () if column not in there]:
        raise OutputError(f"the layer {name} of {out} has no column {unknown[0]!r}; {_near(unknown[0], there)}")
    return _rows(out, name, file, there if columns is None else columns)


def layer_in_order(out: str, name: str, keys: pa.ChunkedArray, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a layer for `keys`, one each in their order, null where it has none; `key`, then the columns."""
    layer = read_layer(out, name, columns)
    places = _places(keys.combine_chunks(), layer["key"].combine_chunks())
    return layer.take(places).set_column(0, "key", keys)


def write_layer(out: str, name: str, table: pa.Table, *, made_by: str, version: str) -> LayerInfo:
    """Write a layer of an output, or replace it: what this returns is there, whatever happens to this process later.

    `table`: column `key` (texts, unique, none missing) and others of whole numbers, numbers, truths, texts, times (they become
    UTC, to the microsecond; without a zone they are) or lists of these, whose names are ASCII letters, digits and "_". Raises
    LayerError for another name or table, OutputError for no output, OSError.
    """
    _require_name(name)
    require_output(out)
    if not made_by.strip() or not version.strip():
        raise LayerError(f"layer {name}: say who or what made it, and of which version")
    table = _as_written(name, table)
    made_at = datetime.now(UTC).isoformat(timespec="microseconds")
    data = _parquet(table.replace_schema_metadata({"made_by": made_by, "version": version, "made_at": made_at}))
    sha256 = hashlib.sha256(data).hexdigest()
    info = LayerInfo(
        files={f"{sha256[:16]}.parquet": FileHash(len(data), sha256)},
        rows=len(table),
        made_by=made_by,
        version=version,
        made_at=made_at,
        data_sha256=index_sha256(commits(out)),
    )
    storage.atomic_write(_address(out, name, info.file), data)
    before = _file_named(out, name)
    storage.atomic_write(_address(out, name), encode_record(info))
    if before not in (None, info.file):
        storage.remove(_address(out, name, str(before)))
    return info


def remove_layer(out: str, name: str) -> None:
    """Remove a layer. Raises LayerError for what is no layer's name, OutputError where there is none."""
    _require_name(name)
    require_output(out)
    if not storage.exists(_address(out, name)):
        raise OutputError(f"{out} has no layer {name}; {_there_are(out, name)}")
    file = _file_named(out, name)
    storage.remove(_address(out, name))
    if file is not None:
        storage.remove(_address(out, name, file))


class JoinedLayers:
    """The columns of layers that an expression names, read once, for any tables with a column `key`.

    Raises FilterError for a layer or column that there is not, naming those there are, OutputError for one that cannot be read.
    """

    def __init__(self, out: str, expression: str, option: str = WHERE) -> None:
        self._tables: dict[str, pa.Table] = {}
        self._keys: dict[str, pa.Array] = {}
        for layer, columns in layer_columns_named(expression, option).items():
            if not is_layer_name(layer) or not storage.exists(_address(out, layer)):
                raise FilterError(f"{option} {expression!r}: there is no layer {layer}; {_there_are(out, layer)}")
            file = _open(out, layer)
            known = file.schema_arrow.names
            if unknown := [column for column in columns if column not in known]:
                near = _near(unknown[0], known, f"{layer}.")
                raise FilterError(f"{option} {expression!r}: the layer {layer} has no column {unknown[0]}; {near}")
            self._tables[layer] = _rows(out, layer, file, columns)
            self._keys[layer] = self._tables[layer]["key"].combine_chunks()

    def to(self, table: pa.Table) -> pa.Table:
        """A table with the layers' columns behind its own, named LAYER.COLUMN, null for keys that the layer has no row of."""
        for layer, rows in self._tables.items():
            found = rows.take(_places(table["key"].combine_chunks(), self._keys[layer]))
            for name, column in zip(found.column_names, found.columns, strict=True):
                table = table.append_column(f"{layer}.{name}", column)
        return table


def _places(keys: pa.Array, of_layer: pa.Array) -> pa.Array:
    """Of each key its place in the layer, null where it is not there. The shorter of the two is what is hashed."""
    if len(keys) >= len(of_layer) or pc.count_distinct(keys).as_py() < len(keys):
        return pc.index_in(keys, value_set=of_layer)
    wanted = pc.index_in(of_layer, value_set=keys)
    there = np.flatnonzero(wanted.is_valid())
    places, known = np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
    places[wanted.drop_null()], known[wanted.drop_null()] = there, True
    return pa.array(places, mask=~known)


def read_info(out: str, name: str) -> LayerInfo | None:
    """layer.json of a layer; None where there is none. Raises OutputError for one that cannot be understood."""
    address = _address(out, name)
    advice = f"write it again: materia layers add {out} {name}, or remove it: materia layers remove {out} {name}"
    try:
        data = storage.read_bytes(address)
        version = _VERSIONED.decode(data).schema
        if version > VERSION:
            raise OutputError(
                f"{address} was written with schema {version}, this version reads {VERSION}; update prima-materia"
            )
        return _INFOS.decode(data)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OutputError(f"{address} cannot be read: {error}; {advice}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise OutputError(f"{address}: {error}; {advice}") from None


def is_layer_name(name: str) -> bool:
    """Whether a layer may have this name."""
    return _NAME.fullmatch(name) is not None and name not in RESERVED and not keyword.iskeyword(name)


def refusal(schema: pa.Schema) -> str | None:
    """Why a layer's table may not have these columns; None if it may."""
    if "key" not in schema.names:
        return f"it has no column `key`, the sample's name, but {', '.join(map(repr, schema.names)) or 'none at all'}"
    if not pa.types.is_string(schema.field("key").type):
        return f"`key` must be text, not {schema.field('key').type}"
    for field in schema:
        if _COLUMN.fullmatch(field.name) is None or keyword.iskeyword(field.name):
            return f"{field.name!r} is no name for a column: 1 to {MAX_COLUMN_CHARS} of A-Z, a-z, 0-9 and _, no digit first"
        if schema.names.count(field.name) > 1:
            return f"it has {field.name!r} twice"
        if _written_type(field.type) != field.type:
            return f"{field.name!r} holds {field.type}, not numbers, truths, texts, times or lists of these"
    return None


class _Versioned(msgspec.Struct):
    schema: int


# Made here: msgspec crashes where threads decode a type for the first time together.
_VERSIONED, _INFOS = msgspec.json.Decoder(_Versioned), msgspec.json.Decoder(LayerInfo)


def _as_written(name: str, table: pa.Table) -> pa.Table:
    """A table in the types of a layer. Raises LayerError."""
    types = [_written_type(field.type) or field.type for field in table.schema]
    schema = pa.schema([pa.field(field.name, kind) for field, kind in zip(table.schema, types, strict=True)])
    if (why := refusal(schema)) is not None:
        raise LayerError(f"layer {name}: {why}")
    try:
        table = _cast(table, schema)
    except pa.ArrowException as error:
        raise LayerError(f"layer {name}: {error}") from None
    if missing := table["key"].null_count:
        raise LayerError(f"layer {name}: `key` is missing in {missing} of {len(table)} rows; give each its sample's name")
    counts = pc.value_counts(table["key"]).flatten() if len(table) else [pa.array([], pa.string()), pa.array([], pa.int64())]
    if len(counts[0]) < len(table):
        twice = counts[0].filter(pc.greater(counts[1], 1))[0].as_py()
        raise LayerError(f"layer {name}: `key` {twice!r} is there more than once; keep one row a sample")
    for column in table.column_names:
        if pa.types.is_list(table[column].type) and pc.list_flatten(table[column]).null_count:
            raise LayerError(f"layer {name}: a list of {column!r} has a missing value in it; leave it out of the list")
    return table


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Times lose what is finer than a microsecond; nothing else may lose anything."""
    columns = [
        column.cast(field.type, safe=not pa.types.is_timestamp(field.type))
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


_SCALARS: tuple[tuple[Callable[[pa.DataType], bool], pa.DataType | None], ...] = (
    (pa.types.is_integer, None),
    (pa.types.is_float16, pa.float32()),
    (pa.types.is_floating, None),
    (pa.types.is_boolean, None),
    (pa.types.is_string, None),
    (pa.types.is_large_string, pa.string()),
    (pa.types.is_string_view, pa.string()),
    (pa.types.is_timestamp, _TIME),
    (pa.types.is_date, _TIME),
)
"""Arrow's types that a layer holds -> as which; None: as they are."""


def _written_type(kind: pa.DataType) -> pa.DataType | None:
    """As what a column of an Arrow type is written; None if it is not."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        element = None if pa.types.is_nested(kind.value_type) else _written_type(kind.value_type)
        return None if element is None else pa.list_(pa.field("element", element))
    if pa.types.is_dictionary(kind):
        return None if pa.types.is_nested(kind.value_type) else _written_type(kind.value_type)
    return next((written or kind for is_one, written in _SCALARS if is_one(kind)), None)


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _open(out: str, name: str) -> pq.ParquetFile:
    """A layer's file, with columns that a layer may have."""
    data = _read(out, name)
    try:
        file = parquet_file(data)
    except pa.ArrowException as error:
        raise OutputError(f"{_address(out, name)} cannot be read: {error}; {_advice(out)}") from None
    if (why := refusal(file.schema_arrow)) is not None:
        raise OutputError(f"the layer {name} of {out}: {why}; {_advice(out)}")
    return file


def _rows(out: str, name: str, file: pq.ParquetFile, columns: Sequence[str]) -> pa.Table:
    """`key` and columns of an open layer."""
    try:
        table = file.read(["key", *(column for column in columns if column != "key")], use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise OutputError(f"the layer {name} of {out} cannot be read: {error}; {_advice(out)}") from None
    return table.replace_schema_metadata(None).combine_chunks()


def _read(out: str, name: str) -> bytes:
    """The file of a layer; if it is gone, of the layer that has taken its place meanwhile."""
    _require_name(name)
    before: LayerInfo | None = None
    while (info := read_info(out, name)) is not None and info != before:
        address, file = _address(out, name, info.file), info.files[info.file]
        try:
            data = storage.read_bytes(address)
        except FileNotFoundError:
            before = info
            continue
        except OSError as error:
            raise OutputError(f"{address} cannot be read: {error}; {_advice(out)}") from error
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise OutputError(f"{address} is not the file that was written; {_advice(out)}")
        return data
    if info is None:
        raise OutputError(f"{out} has no layer {name}; {_there_are(out, name)}")
    raise OutputError(f"{_address(out, name, info.file)} is gone; {_advice(out)}")


def _file_named(out: str, name: str) -> str | None:
    """The file that the layer.json that is there names; None if it names none, in whatever way."""
    try:
        info = read_info(out, name)
    except OutputError:
        return None
    return None if info is None else info.file


def _there_are(out: str, name: str) -> str:
    """Which layers there are, or the one that was meant, and how one is written."""
    listed = filter(is_layer_name, storage.listdir(storage.join(out, FOLDER)))
    known = [other for other in listed if storage.exists(_address(out, other))]
    if near := difflib.get_close_matches(name, [*known, "extra"], n=1):
        return f"did you mean {near[0]}?"
    there = f"there are {', '.join(known)}" if known else f"{out} has no layers"
    return f"{there}; one is written with: materia layers add {out} NAME FILE, or materia.write_layer"


def _near(name: str, known: Sequence[str], before: str = "") -> str:
    """Which column was meant, or all that there are, with what is written `before` one."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {before}{near[0]}?" if near else f"there are {', '.join(before + one for one in known)}"


def _require_name(name: str) -> None:
    if not is_layer_name(name):
        why = "columns of the index and Python's own words are none" if _NAME.fullmatch(name) else "a letter first, 40 at most"
        raise LayerError(f"{name!r} is no name for a layer: a-z, 0-9 and _ make one, {why}; e.g. marks")


def _address(out: str, name: str, file: str = "layer.json") -> str:
    return storage.join(out, FOLDER, name, file)


def _advice(out: str) -> str:
    return f"run: materia validate {out}"
