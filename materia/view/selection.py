"""Which samples the page shows and in which order: its state as a typed record, turned into SQL with parameters.

In: a `State` as the page's link holds it. Out: numbers of samples, in order, kept for the last few states; histograms of
columns under a state. Names of columns are looked up in the catalogue and never taken as they come.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from materia.view.database import Database, QueryError, layer_table, quoted

BINS = 48
_KEPT = 8
"""States whose samples are remembered; 4 bytes a sample."""


class Draw(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A random audit: `n` samples of `seed`, in the shares of a column's values if `stratify` names one."""

    n: int
    seed: int = 0
    stratify: str | None = None


class Like(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Samples whose list of numbers `layer.column` points the way of that of the sample `key`."""

    key: str
    layer: str
    column: str


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked for. All conditions must hold; `ranges` are inclusive, null is open; `sort`: a column, -column: down."""

    ranges: dict[str, tuple[float | None, float | None]] = {}
    words: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    marked: Literal["good", "bad", "any", "none"] | None = None
    why: tuple[str, ...] = ()
    key: str = ""
    sort: str = ""
    sql: str = ""
    audit: Draw | None = None
    like: Like | None = None


Kind = Literal["number", "integer", "truth"]


class Column(NamedTuple):
    """A column of numbers or truths that can be filtered and sorted by; `table` holds it: "" is the index, else a layer."""

    name: str
    meaning: str
    kind: Kind
    table: str
    sql: str


class Histogram(msgspec.Struct, frozen=True):
    """Of a column: `all` samples and those `kept` by the other conditions, in equal bins from `low` to `high`."""

    column: str
    low: float
    high: float
    all: list[int]
    kept: list[int]
    missing: int


Special = Callable[[State], "np.ndarray | None"]
"""Gives the samples of a state that are not a matter of conditions, in order (int32), or None."""


class Selections:
    """Samples of states, of the table `samples`. `layers`: tables that are joined to it by `n`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: OrderedDict[bytes, tuple[State, np.ndarray]] = OrderedDict()
        self._generation = 0  # rises when what was found before may be wrong
        self._ranges: dict[str, tuple[float, float] | None] = {}
        self._lock = threading.Lock()
        self.columns: dict[str, Column] = {}
        self.specials: list[Special] = []

    def set_columns(self, columns: Mapping[str, Column]) -> None:
        """Another catalogue, or other contents: nothing that was remembered holds any more."""
        self.columns = dict(columns)
        self.forget()

    def forget(self, concerned: Callable[[State], bool] = lambda state: True) -> None:
        """The contents of tables have changed; of which the states that are `concerned` depend."""
        with self._lock:
            self._generation += 1
            self._ranges.clear()
            for known in [known for known, (state, _) in self._kept.items() if concerned(state)]:
                del self._kept[known]

    def numbers(self, state: State) -> np.ndarray:
        """Numbers of the samples of a state, in order, (N,) int32. Raises QueryError."""
        known = msgspec.json.encode(state)
        with self._lock:
            if known in self._kept:
                self._kept.move_to_end(known)
                return self._kept[known][1]
            generation = self._generation
        found = self._found(state)
        with self._lock:
            if generation == self._generation:
                self._kept[known] = (state, found)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found

    def _found(self, state: State) -> np.ndarray:
        condition, values, tables = self._condition(state)
        order = self._order(state, tables)
        given = next((found for special in self.specials if (found := special(state)) is not None), None)
        with self._database.cursor() as cursor:
            join = ""
            if given is not None:
                cursor.register(
                    "given", pa.table({"n": pa.array(given, pa.int32()), "place": pa.array(range(len(given)), pa.int32())})
                )
                join, order = "JOIN given USING (n)", order if state.sort else "place"
            sql = f"SELECT s.n FROM samples s {join} {joins(tables)} WHERE {condition} ORDER BY {order}"
            numbers: np.ndarray = cursor.execute(sql, values).fetchnumpy()["n"]
            return np.asarray(numbers, np.int32)

    def count(self, state: State) -> int:
        """How many there are, without their order."""
        if state.sql or state.audit or state.like:
            return len(self.numbers(state))
        condition, values, tables = self._condition(state)
        return int(self._database.rows(f"SELECT count(*) FROM samples s {joins(tables)} WHERE {condition}", values)[0][0])

    def histogram(self, name: str, state: State) -> Histogram | None:
        """Of a column under a state's other conditions; None where it has no value. Raises QueryError."""
        column = self._column(name)
        ends = self._ends(column)
        if ends is None:
            return None
        low, high = ends
        others = msgspec.structs.replace(
            state,
            ranges={other: span for other, span in state.ranges.items() if other != name},
            sort="",
            sql="",
            audit=None,
            like=None,
        )
        condition, values, tables = self._condition(others)
        tables.add(column.table)
        value = f"({column.sql})::DOUBLE"
        place = f"greatest(0, least({BINS - 1}, floor(({value} - ?) / ?)))::INT"  # of infinite ones, too
        sql = (
            f"SELECT CASE WHEN {value} IS NOT NULL THEN {place} END AS bin, count(*), count(*) FILTER (WHERE {condition})"
            f" FROM samples s {joins(tables)} GROUP BY bin"
        )
        all_, kept, missing = [0] * BINS, [0] * BINS, 0
        step = (high - low) / BINS or 1.0
        for number, count, left in self._database.rows(sql, [low, step, *values]):
            if number is None:
                missing = count
            else:
                all_[number] += count
                kept[number] += left
        return Histogram(name, low, high, all_, kept, missing)

    def _ends(self, column: Column) -> tuple[float, float] | None:
        """Least and largest finite value of a column."""
        if column.name not in self._ranges:
            value = f"({column.sql})::DOUBLE"
            sql = f"SELECT min({value}), max({value}) FROM samples s {joins({column.table})} WHERE isfinite({value})"
            low, high = self._database.rows(sql)[0]
            self._ranges[column.name] = None if low is None else (low, high)
        return self._ranges[column.name]

    def _column(self, name: str) -> Column:
        if name not in self.columns:
            raise QueryError(f"there is no column {name!r} of numbers here")
        return self.columns[name]

    def value_of(self, name: str) -> tuple[str, set[str]]:
        """(SQL of a column's value, tables that it needs). Raises QueryError."""
        column = self._column(name)
        return column.sql, {column.table}

    def _order(self, state: State, tables: set[str]) -> str:
        if not state.sort:
            return "s.n"
        column = self._column(state.sort.removeprefix("-"))
        tables.add(column.table)
        down = "DESC" if state.sort.startswith("-") else "ASC"
        return f"{column.sql} {down} NULLS LAST, s.n"

    def _condition(self, state: State) -> tuple[str, list[Any], set[str]]:
        """(SQL, its values, tables that it names)."""
        parts, tables = ["true"], set[str]()
        values: list[Any] = []
        for name, (low, high) in state.ranges.items():
            column = self._column(name)
            tables.add(column.table)
            for end, compared in ((low, ">="), (high, "<=")):
                if end is not None:
                    parts.append(f"({column.sql})::DOUBLE {compared} ?")
                    values.append(end)
        for word in state.words:
            parts.append(" OR ".join(f"list_contains(s.{kind}_words, ?)" for kind in ("subject", "object", "background")))
            values += [word] * 3
        for column_name, wanted in (("flags", state.flags), ("dropped", state.dropped)):
            for one in wanted:
                parts.append(f"list_contains(s.{column_name}, ?)")
                values.append(one)
        if state.key:
            parts.append("contains(lower(s.key), lower(?))")
            values.append(state.key)
        if state.marked or state.why:
            tables.add("marks")
            parts.append(_MARKED[state.marked or "bad"])
        for why in state.why:
            parts.append("list_contains(marks.why, ?)")
            values.append(why)
        return " AND ".join(f"({part})" for part in parts), values, tables


_MARKED = {
    "good": "marks.bad IS NOT NULL AND NOT marks.bad",
    "bad": "coalesce(marks.bad, false)",
    "any": "marks.bad IS NOT NULL",
    "none": "marks.bad IS NULL",
}


def joins(tables: set[str]) -> str:
    """SQL that joins layers to the samples `s`; "" is the index itself."""
    return " ".join(
        f"LEFT JOIN {layer_table(name)} AS {quoted(name)} ON {quoted(name)}.n = s.n" for name in sorted(tables - {""})
    )
