"""The tables of one or two outputs in DuckDB, in this process and in memory, closed to files, network and change.

In: outputs (output.py). Out: tables `samples` and `rejects` (`samples2`, `rejects2` of a second output), one table a layer, and
answers to questions. Text of a person who asks runs in `ask`: one SELECT, in a transaction that only reads, for ten seconds.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from materia.base.errors import UserError

if TYPE_CHECKING:
    import duckdb

MEMORY = "512MiB"
TIMEOUT_S = 10.0
_SETTINGS = {
    "temp_directory": "''",
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "memory_limit": f"'{MEMORY}'",
    "threads": "2",
    "lock_configuration": "true",
}
"""Set when it is opened, the lock last: nothing of this can be changed afterwards."""
_SMALL = {"n_subjects", "n_objects", "n_instances", "n_faces", "frames_with_subject", "n_dropped"}
_MOST_TEXT = 8 << 20
"""Characters of an answer to a question."""


class QueryError(UserError):
    """A question that cannot be answered, in words for the person who asked."""


class Answer(NamedTuple):
    """`rows` of an answer, at most as many as asked for; `more`: there are more."""

    columns: list[str]
    types: list[str]
    rows: list[list[Any]]
    more: bool
    seconds: float


def quoted(name: str) -> str:
    """An identifier as SQL takes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def layer_table(name: str) -> str:
    """The table of a layer, as SQL names it."""
    return quoted(f"layer_{name}")


class Database:
    """DuckDB in memory. One object for all threads: each question has a cursor of its own."""

    def __init__(self) -> None:
        import duckdb

        self._connection = duckdb.connect(":memory:")
        for name, value in _SETTINGS.items():
            self._connection.execute(f"SET {name} = {value}")
        self._writing = threading.Lock()

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """For the page's own questions."""
        cursor = self._connection.cursor()
        try:
            yield cursor
        finally:
            cursor.close()

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of one of the page's own questions."""
        with self.cursor() as cursor:
            found: list[tuple[Any, ...]] = cursor.execute(sql, list(values)).fetchall()
            return found

    def replace(self, name: str, table: pa.Table) -> None:
        """Make `table` the contents of the table `name`."""
        with self._writing, self.cursor() as cursor:
            cursor.register("incoming", table)
            cursor.execute(f"CREATE OR REPLACE TABLE {quoted(name)} AS SELECT * FROM incoming")
            cursor.unregister("incoming")

    def append(self, name: str, table: pa.Table) -> None:
        """Add rows; columns that the table lacks are added to it, those that the rows lack are null."""
        with self._writing, self.cursor() as cursor:
            cursor.register("incoming", table)
            there = {
                row[0]
                for row in cursor.execute("SELECT column_name FROM duckdb_columns() WHERE table_name = ?", [name]).fetchall()
            }
            types = {row[0]: row[1] for row in cursor.execute("DESCRIBE incoming").fetchall()}
            for column in table.column_names:
                if column not in there:
                    cursor.execute(f"ALTER TABLE {quoted(name)} ADD COLUMN {quoted(column)} {types[column]}")
            cursor.execute(f"INSERT INTO {quoted(name)} BY NAME SELECT * FROM incoming")
            cursor.unregister("incoming")

    def set_layer(self, name: str, table: pa.Table) -> None:
        """Make the table of a layer: `n` and the columns of its rows that are of samples."""
        with self._writing, self.cursor() as cursor:
            cursor.register("incoming", table)
            joined = "SELECT s.n, i.* FROM incoming i JOIN samples s ON s.key = i.key"
            cursor.execute(f"CREATE OR REPLACE TABLE {layer_table(name)} AS {joined}")
            cursor.unregister("incoming")

    def drop(self, name: str) -> None:
        """Remove a table, if it is there."""
        with self._writing, self.cursor() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {quoted(name)}")

    def ask(self, sql: str, limit: int = 1000, timeout_s: float = TIMEOUT_S) -> Answer:
        """Answer a person's SELECT. Raises QueryError for anything else, and for one that fails or takes too long."""
        import duckdb

        with self.cursor() as cursor:
            statement = _one_select(cursor, sql)
            timer = threading.Timer(timeout_s, cursor.interrupt)
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            start = time.perf_counter()
            timer.start()
            try:
                cursor.execute(statement)
                rows, cut = _fetched(cursor, limit + 1)
                described = cursor.description or []
            except duckdb.InterruptException:
                raise QueryError(f"stopped after {timeout_s:g} s; ask for less") from None
            except duckdb.Error as error:
                raise QueryError(str(error)) from None
            except MemoryError:
                raise QueryError("the answer does not fit into the memory; ask for less") from None
            finally:
                timer.cancel()
                _end(cursor)
            columns, types = [str(column[0]) for column in described], [str(column[1]) for column in described]
            return Answer(columns, types, rows[:limit], cut or len(rows) > limit, time.perf_counter() - start)


def _one_select(cursor: duckdb.DuckDBPyConnection, sql: str) -> Any:
    import duckdb

    try:
        statements = cursor.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(str(error)) from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise QueryError("one SELECT is answered here, and nothing else")
    return statements[0]


def _fetched(cursor: duckdb.DuckDBPyConnection, n: int) -> tuple[list[list[Any]], bool]:
    """(at most `n` rows, as plain values; whether it ended earlier, because they hold very much text)."""
    rows: list[list[Any]] = []
    chars = 0
    while len(rows) < n and chars < _MOST_TEXT and (some := cursor.fetchmany(min(200, n - len(rows)))):
        for row in some:
            rows.append([_plain(value) for value in row])
            chars += sum(len(value) for value in rows[-1] if isinstance(value, str))
    return rows, chars >= _MOST_TEXT


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    match value:
        case None | bool() | str() | float():
            return value
        case int():
            return value if abs(value) < 2**53 else str(value)
        case list() | tuple():
            return [_plain(part) for part in value]
        case dict():
            return {str(key): _plain(part) for key, part in value.items()}
    return str(value)


def _end(cursor: duckdb.DuckDBPyConnection) -> None:
    import duckdb

    with contextlib.suppress(duckdb.Error):  # a failed transaction may have ended already
        cursor.execute("ROLLBACK")


def narrow_index(table: pa.Table, first: int) -> pa.Table:
    """Rows of `samples`: `n` (the sample's number), the narrow columns of the index, and the user's own that hold numbers."""
    columns: dict[str, Any] = {"n": pa.array(range(first, first + len(table)), pa.int32())}
    for field in table.schema:
        if field.name == "extra":
            continue
        columns[field.name] = (
            table[field.name].cast(pa.int16()) if field.name in _SMALL and field.type == pa.int32() else table[field.name]
        )
    if "extra" in table.column_names and pa.types.is_struct(table.schema.field("extra").type):
        for part in table.schema.field("extra").type:
            if pa.types.is_integer(part.type) or pa.types.is_floating(part.type) or pa.types.is_boolean(part.type):
                values = pc.struct_field(table["extra"], part.name)
                columns[f"extra.{part.name}"] = values
    return pa.table(columns)


def narrow_rejects(table: pa.Table, first: int) -> pa.Table:
    """Rows of `rejects`: `n` and the narrow columns."""
    return table.add_column(0, "n", pa.array(range(first, first + len(table)), pa.int32()))
