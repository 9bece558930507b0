"""Tables of other programs, as layers are made from: Parquet, CSV, JSON lines.

In: a file's address. Out: its table, with `key` as text whatever it looks like, and how many of its keys no sample has.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from materia.base import storage
from materia.dataset.layers import LayerError
from materia.dataset.layout import commits, require_output
from materia.dataset.reader import read_table
from materia.dataset.tables import parquet_table


def read_rows(address: str) -> pa.Table:
    """The table in a file. A CSV column that is empty everywhere, or JSON null, has no type and is left out.

    Raises LayerError for a file of another kind or that is none, FileNotFoundError.
    """
    name = address.lower()
    if not name.endswith((".parquet", ".csv", ".jsonl")):
        raise LayerError(f"{address}: a layer is made from a file that ends in .parquet, .csv or .jsonl")
    data = storage.read_bytes(address)
    try:
        table = parquet_table(data) if name.endswith(".parquet") else _csv(data) if name.endswith(".csv") else _json(data)
    except (ValueError, pa.ArrowException) as error:
        raise LayerError(f"{address} cannot be read: {error}") from None
    return table.select([field.name for field in table.schema if not pa.types.is_null(field.type)])


def unknown_keys(out: str, table: pa.Table) -> int:
    """How many keys of a table no sample of an output has; 0 where it has no column of texts `key`. Raises OutputError."""
    require_output(out)
    if "key" not in table.column_names or not pa.types.is_string(table["key"].type):
        return 0
    left = table["key"]
    known = [read_table(out, commit, "index", ["key"])["key"] for commit in commits(out)]
    chunks = [chunk for column in known for chunk in column.chunks]
    return int(pc.sum(pc.invert(pc.is_in(left, value_set=pa.chunked_array(chunks, pa.string())))).as_py() or 0)


def _csv(data: bytes) -> pa.Table:
    import pyarrow.csv

    options = pyarrow.csv.ConvertOptions(column_types={"key": pa.string()})
    in_this_thread = pyarrow.csv.ReadOptions(use_threads=False)
    return pyarrow.csv.read_csv(pa.BufferReader(data), read_options=in_this_thread, convert_options=options)


def _json(data: bytes) -> pa.Table:
    import pyarrow.json

    options = pyarrow.json.ParseOptions(explicit_schema=pa.schema([pa.field("key", pa.string())]))
    in_this_thread = pyarrow.json.ReadOptions(use_threads=False)
    return pyarrow.json.read_json(pa.BufferReader(data), read_options=in_this_thread, parse_options=options)
