"""Tables in files: Parquet as Arrow reads it here.

In: a file's bytes. Out: its table, or the open file for those who look at its columns first.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def parquet_file(data: bytes) -> pq.ParquetFile:
    """A Parquet file, to be read in this thread (`use_threads=False`) from Arrow's own memory.

    Arrow's threads that read a Python file, or prefetch, are still at it when a short command has ended; the interpreter then
    ends with "terminate called without an active exception" (SIGABRT), one time in ten. Raises pa.ArrowException.
    """
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)


def parquet_table(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file's table; of `columns` only, as far as they are there, if they are given. Raises pa.ArrowException."""
    return parquet_file(data).read(columns=list(columns) if columns else None, use_threads=False)
