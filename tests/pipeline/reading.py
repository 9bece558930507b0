"""What tests of sources share: reading an input, from a path or from bytes, and telling what became of its rows."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sources import find_source, read_rows
from pipeline.sources.settings import SourceSettings
from stages.records import Clip, Rejection

MEMORY = SourceSettings(schemes=["memory"])


def read(address: Path | str, settings: SourceSettings | None = None) -> list[Clip | Rejection]:
    settings = settings or SourceSettings()
    rows = list(read_rows(find_source(str(address), settings), settings))
    assert [row.row for row in rows] == list(range(len(rows)))
    return rows


def read_bytes(name: str, data: bytes, settings: SourceSettings = MEMORY) -> list[Clip | Rejection]:
    fsspec.filesystem("memory").pipe_file(f"/tests/{name}", data)
    return read(f"memory://tests/{name}", settings)


def outcomes(rows: list[Clip | Rejection]) -> list[str]:
    return [row.reason if isinstance(row, Rejection) else "ok" for row in rows]


def write_parquet(path: Path, columns: dict[str, object]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
