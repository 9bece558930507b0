"""Rows of a Parquet file, one batch in memory at a time. Values that Arrow cannot give become null, not exceptions."""

from __future__ import annotations

import base64
import itertools
import posixpath
from collections.abc import Iterator
from typing import Any

from pipeline.sources.columns import check_columns
from pipeline.sources.lists import refuse_lists
from pipeline.sources.rows import RawRow, SourceError, too_long
from pipeline.sources.settings import SourceSettings

_BATCH_ROWS = 1024
_BUFFER_BYTES = 2**20
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # Arrow's units of time


def read_parquet(file: Any, settings: SourceSettings, address: str, share: tuple[int, int] = (0, 1)) -> Iterator[RawRow]:
    """One row for each row of the file, or of the k-th of n runs of its row groups: `share` is (k, n), k from 0.

    Raises SourceError if it is damaged, lacks a required column or holds lists of captions.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES)  # else whole column chunks are read
        lost = _lost_durations(table)
        (number, n_shares), n_groups = share, table.num_row_groups
        groups = range(n_groups * number // n_shares, n_groups * (number + 1) // n_shares)
        read = table.iter_batches(batch_size=_BATCH_ROWS, row_groups=groups, use_threads=False) if groups else ()
        batches = (_restored(batch, lost) for batch in read)
        rows: Iterator[RawRow] = itertools.chain.from_iterable(_rows(batch, settings.max_line_bytes) for batch in batches)
        check_columns(table.schema_arrow.names, settings, address, rows)
        if groups.start == 0:  # what the first rows tell is told once
            rows = refuse_lists(rows, settings, address, f"pd.read_parquet({posixpath.basename(address)!r})")
        yield from rows
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{address}: damaged or no Parquet: {error}") from error


def _lost_durations(table: Any) -> dict[int, Any]:
    """Columns, by number, of durations that come back as bare integers, and their types: those written as a dictionary.

    pandas writes categories so.
    """
    import pyarrow as pa

    written = (table.metadata.metadata or {}).get(b"ARROW:schema")
    if written is None:
        return {}
    types = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(written))).types
    return {
        number: was.value_type
        for number, (was, is_) in enumerate(zip(types, table.schema_arrow.types, strict=False))
        if pa.types.is_dictionary(was) and pa.types.is_duration(was.value_type) and is_ == pa.int64()
    }


def _restored(batch: Any, durations: dict[int, Any]) -> Any:
    for number, type_ in durations.items():
        batch = batch.set_column(number, batch.schema.names[number], batch.column(number).cast(type_))
    return batch


def _rows(batch: Any, max_bytes: int) -> Iterator[RawRow]:
    """Rows of a batch, one by one where the batch is large, so that a huge cell costs its own row only."""
    one_by_one = (batch.slice(index, 1) for index in range(batch.num_rows))
    for part in [batch] if batch.nbytes <= max_bytes else one_by_one:
        if part.nbytes > max_bytes:
            yield RawRow({}, too_long(max_bytes))
            continue
        names = batch.schema.names
        for values in zip(*map(_values, part.columns), strict=True):
            yield RawRow(dict(zip(names, values, strict=True)))


def _values(column: Any) -> list[Any]:
    """Python values of an Arrow array.

    Durations become seconds, whatever their unit; dates and times text, as Arrow writes them (a time of day is H:M:S.f); text
    that is not UTF-8 bytes.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type) and column.type.tz:
        column = column.cast(pa.timestamp(column.type.unit, "UTC"))  # other zones need a data base that may be missing
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type) or pa.types.is_time(column.type):
        column = column.cast(pa.string())  # whether pandas is installed would change Python's text of them
    elif pa.types.is_duration(column.type):
        per_second = _PER_SECOND[column.type.unit]
        return [None if count is None else count / per_second for count in column.cast(pa.int64()).to_pylist()]
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
