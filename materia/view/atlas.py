"""Samples as a Parquet file that Embedding Atlas opens: a row a sample, every value a number or a text, vectors as they are.

In: an output. Out: a file with the columns of the index (lists of words as one text, members left out), the user's own as
`extra.NAME` and those of layers as `LAYER.COLUMN`; open it with `embedding-atlas FILE --text caption`, or with `--vector
LAYER.COLUMN` where a layer has one.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from materia.base import storage
from materia.dataset.layers import layers
from materia.dataset.reader import Dataset


def export_atlas(out: str, target: str) -> None:
    """Write it. Raises OutputError for an output that cannot be read, OSError."""
    dataset = Dataset(out)
    columns: dict[str, pa.ChunkedArray] = {}
    for name in dataset.index.column_names:
        column = dataset.index[name]
        if name == "members":
            continue
        if pa.types.is_struct(column.type):
            columns |= {f"{name}.{field.name}": pc.struct_field(column, field.name) for field in column.type}
        else:
            columns[name] = _plain(column)
    for layer in layers(out):
        table = dataset.layer(layer)
        columns |= {f"{layer}.{name}": _plain(table[name]) for name in table.column_names if name != "key"}
    storage.atomic_write(target, lambda file: pq.write_table(pa.table(columns), file, compression="zstd"))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A list of texts as one text; anything else as it is."""
    if pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type):
        return pc.binary_join(column.cast(pa.list_(pa.string())), ", ")
    if pa.types.is_list(column.type) and pa.types.is_integer(column.type.value_type):
        return pc.binary_join(column.cast(pa.list_(pa.string())), ", ")
    return column
