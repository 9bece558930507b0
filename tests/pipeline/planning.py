"""What tests of plans share: rows that any format can hold, files that hold them, and works done in another order."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from pipeline.plan import Plan, make_plan
from pipeline.sources.settings import SourceSettings
from stages.records import Clip, Rejection

SETTINGS = SourceSettings()
COLUMNS = ("video", "caption", "id", "end", "licence")
SUFFIXES = ("jsonl", "json", "csv", "parquet")

any_row = st.tuples(
    st.sampled_from(["a.mp4", "b/c.mp4"]),
    st.sampled_from(["A dog.", 'Two "cats", é.', " "]),
    st.sampled_from(["x", "y.z", *"abcdefgh"]),
    st.sampled_from(["3", "0:04", "never"]),
    st.sampled_from(["CC0", "7"]),
).map(lambda cells: dict(zip(COLUMNS, cells, strict=True)))


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A manifest in the format of its ending; two rows a group in Parquet."""
    if path.suffix == ".parquet":
        schema = pa.schema([(name, pa.string()) for name in COLUMNS])
        pq.write_table(pa.Table.from_pylist(list(rows), schema), path, row_group_size=2)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(list(rows)))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def backwards(function: Callable[[Any], Any], works: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Tasks of which the last one ends first."""
    for number in reversed(range(len(works))):
        yield number, function(works[number])


def plan(address: Path | str, folder: Path | str, rows_per_chunk: int = 16, rows_per_slice: int = 8, **more: Any) -> Plan:
    return make_plan(str(address), folder, SETTINGS, rows_per_chunk, rows_per_slice, **more)


def all_rows(plan: Plan) -> list[Clip | Rejection]:
    return [row for index in range(plan.n_slices) for row in plan.read(index)]


def deduplicated(rows: Sequence[Clip | Rejection]) -> list[tuple[Any, ...]]:
    """What a plan of these rows must hold: (row, key, outcome), the first of equal keys being kept."""
    firsts: dict[str, int] = {}
    found = []
    for row in rows:
        outcome = row.reason if isinstance(row, Rejection) else "ok"
        if isinstance(row, Clip) and firsts.setdefault(row.key, row.row) != row.row:
            outcome = f"row {firsts[row.key]} has the id"
            outcome = outcome if row.id == row.key else f"row {firsts[row.key]} has the same video"
        found.append((row.row, row.key, outcome))
    return found


def told(rows: Sequence[Clip | Rejection]) -> list[tuple[Any, ...]]:
    """The same of planned rows."""
    found = []
    for row in rows:
        outcome = row.reason if isinstance(row, Rejection) else "ok"
        if isinstance(row, Rejection) and outcome == "duplicate_id":
            outcome = row.message[: row.message.index(" has ")] + (
                " has the id" if "the id" in row.message else " has the same video"
            )
        found.append((row.row, row.key, outcome))
    return found
