"""Rows of a Parquet file, one batch in memory at a time. Values that Arrow cannot give become null, not exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.sources.rows import RawRow, SourceError, check_columns, too_long
from pipeline.sources.settings import SourceSettings

_BATCH_ROWS = 1024
_BUFFER_BYTES = 2**20


def read_parquet(file: Any, settings: SourceSettings, address: str) -> Iterator[RawRow]:
    """One row for each row of the file. Raises SourceError if it is damaged or lacks a required column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES)  # else whole column chunks are read
        check_columns(table.schema_arrow.names, settings, address)
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            yield from _rows(batch, settings.max_line_bytes)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{address}: damaged or no Parquet: {error}") from error


def _rows(batch: Any, max_bytes: int) -> Iterator[RawRow]:
    """Rows of a batch, one by one where the batch is large, so that a huge cell costs its own row only."""
    one_by_one = (batch.slice(index, 1) for index in range(batch.num_rows))
    for part in [batch] if batch.nbytes <= max_bytes else one_by_one:
        if part.nbytes > max_bytes:
            yield RawRow({}, too_long(max_bytes))
            continue
        for values in zip(*map(_values, part.columns), strict=True):
            yield RawRow(dict(zip(batch.schema.names, values, strict=True)))


def _values(column: Any) -> list[Any]:
    """Python values of an Arrow array: times as text, as Arrow writes them; text that is not UTF-8 as bytes."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.tz:
        column = column.cast(pa.timestamp(column.type.unit, "UTC"))  # other zones need a data base that may be missing
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type) or pa.types.is_time(column.type):
        column = column.cast(pa.string())  # whether pandas is installed would change Python's text of them
    elif pa.types.is_duration(column.type):
        column = column.cast(pa.int64())
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):
        values = [_value(cell) for cell in column]
    return values


def _value(cell: Any) -> Any:
    import pyarrow as pa

    try:
        return cell.as_py()
    except UnicodeDecodeError:
        is_text = pa.types.is_string(cell.type) or pa.types.is_large_string(cell.type)
        return cell.as_buffer().to_pybytes() if is_text else None
    except (ValueError, OverflowError):
        return None
