"""Two outputs side by side: their samples by key, those that differ most first.

In: the tables `samples` and `samples2`, `rejects` and `rejects2`. Out: the table `pairs`: `key`, `n1` and `n2` (null where a
side has no such sample), why a side has none if it says so, and `difference`: of numbers as shares of the column's range, one
for other words, infinite for a sample of one side only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from materia.view.database import Database, quoted

_NOT_COMPARED = {"bytes"}


def build(database: Database, columns: Sequence[str]) -> None:
    """Make the table of pairs; `columns`: of numbers, in both outputs or one.

    Column by column: two tables of a million rows joined with all their columns would not fit into the database's memory.
    """
    sides = _fetched(database, "SELECT a.n AS n1, b.n AS n2 FROM samples a FULL JOIN samples2 b ON a.key = b.key")
    there = ~(np.isnan(sides["n1"]) | np.isnan(sides["n2"]))
    one, two = (sides[side][there].astype(int) for side in ("n1", "n2"))
    difference = np.zeros(len(one))
    both = _columns(database, "samples") & _columns(database, "samples2")
    for column in (name for name in columns if name in both and name not in _NOT_COMPARED):
        a, b = _values(database, f"{quoted(column)}::DOUBLE")
        ends = np.concatenate([a, b])
        ends = ends[np.isfinite(ends)]
        span = np.ptp(ends) if len(ends) else 0.0
        a, b = a[one], b[two]
        step = np.abs(a - b) / (span or 1.0)
        step[np.isnan(a) != np.isnan(b)] = 1.0  # a value on one side only counts as the whole range
        difference += np.nan_to_num(step, nan=0.0)
    for kind in ("subject", "object", "background"):
        a, b = _values(database, f"(hash({kind}_words) >> 12)::DOUBLE")  # what a double holds exactly
        difference += a[one] != b[two]
    whole = np.full(len(there), np.inf)
    whole[there] = difference
    found = {side: pa.array(values, pa.int32(), from_pandas=True, safe=False) for side, values in sides.items()}
    why = "SELECT key, any_value(stage || ': ' || reason) AS why FROM {} WHERE key IS NOT NULL GROUP BY key"
    sql = f"""
        CREATE OR REPLACE TABLE pairs AS WITH r1 AS ({why.format("rejects")}), r2 AS ({why.format("rejects2")})
        SELECT coalesce(a.key, b.key) AS key, n1, n2, r1.why AS why1, r2.why AS why2, difference
        FROM found LEFT JOIN samples a ON a.n = n1 LEFT JOIN samples2 b ON b.n = n2
        LEFT JOIN r1 ON n1 IS NULL AND r1.key = b.key LEFT JOIN r2 ON n2 IS NULL AND r2.key = a.key
        ORDER BY difference DESC, 1"""
    with database.cursor() as cursor:
        cursor.register("found", pa.table({**found, "difference": whole}))
        cursor.execute(sql)


def _fetched(database: Database, sql: str) -> dict[str, np.ndarray]:
    """Columns of numbers as float64, null as NaN."""
    with database.cursor() as cursor:
        found = cursor.execute(sql).fetchnumpy()
        return {name: np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan) for name, column in found.items()}


def _values(database: Database, sql: str) -> tuple[np.ndarray, np.ndarray]:
    """A value of each sample of the first output and of the second, by number."""
    one, two = (
        _fetched(database, f"SELECT {sql} AS value FROM {table} ORDER BY n")["value"] for table in ("samples", "samples2")
    )
    return one, two


_ONLY = {
    "different": "difference > 0",
    "first": "n2 IS NULL",
    "second": "n1 IS NULL",
    "both": "n1 IS NOT NULL AND n2 IS NOT NULL",
    "all": "true",
}


def page(database: Database, only: str, offset: int, limit: int) -> dict[str, Any]:
    """Pairs of a kind (`different`, `first`: only the first has it, `second`, `both`, `all`), differences first."""
    condition = _ONLY.get(only, _ONLY["all"])
    rows = database.rows(
        f"SELECT key, n1, n2, why1, why2, difference FROM pairs WHERE {condition} ORDER BY rowid LIMIT ? OFFSET ?",
        [limit, offset],
    )
    names = ("key", "n1", "n2", "why1", "why2", "difference")
    counts = database.rows("SELECT " + ", ".join(f"count(*) FILTER (WHERE {part})" for part in _ONLY.values()) + " FROM pairs")[
        0
    ]
    found = []
    for row in rows:
        pair = dict(zip(names, row, strict=True))
        pair["changed"] = changed(database, pair["n1"], pair["n2"]) if pair["n1"] is not None and pair["n2"] is not None else []
        found.append(pair)
    return {
        "rows": found,
        "total": dict(zip(_ONLY, counts, strict=True))[only if only in _ONLY else "all"],
        "counts": dict(zip(_ONLY, counts, strict=True)),
    }


def changed(database: Database, n1: int, n2: int) -> list[dict[str, Any]]:
    """What differs between two samples: column, before, after."""
    one, two = (_row(database, table, n) for table, n in (("samples", n1), ("samples2", n2)))
    skipped = {"n", "row", "key", *_NOT_COMPARED}
    return [
        {"column": name, "first": one[name], "second": two[name]}
        for name in one
        if name in two and name not in skipped and one[name] != two[name]
    ]


def _row(database: Database, table: str, n: int) -> dict[str, Any]:
    with database.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table} WHERE n = ?", [n])
        values = cursor.fetchone()
        return dict(zip([column[0] for column in cursor.description or []], values or (), strict=False))


def _columns(database: Database, table: str) -> set[str]:
    return {row[0] for row in database.rows("SELECT column_name FROM duckdb_columns() WHERE table_name = ?", [table])}
