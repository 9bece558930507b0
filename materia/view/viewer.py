"""What stands behind the page: one or two outputs, their tables, layers and marks, read in the background while it is open.

In: addresses of outputs. Out: `Viewer`, which the HTTP side (app.py) asks. A page that is opened before everything is read
shows what there is and asks again.
"""

from __future__ import annotations

import re
import threading
from typing import Any

import duckdb
import msgspec
import numpy as np
import pyarrow as pa

from materia.base import storage
from materia.base.errors import UserError
from materia.dataset.layers import FOLDER, is_layer_name, read_layer
from materia.dataset.layout import OutputError, read_info
from materia.dataset.schema import INDEX, INSTANCES, REJECTS
from materia.view import audit, pairs
from materia.view.database import Answer, Database, QueryError, narrow_index, narrow_rejects, quoted
from materia.view.marks import MARKS, REASONS, Mark, Marks
from materia.view.output import WIDE, WIDE_REJECTS, Output, Problem
from materia.view.selection import Column, Draw, Kind, Selections, State

SUFFIXES = ("", "2")
"""Of the tables of the first and of the second output."""
MOST_ALIKE = 1000
WORDS = 20_000
"""Most frequent words that are known for completion."""
NO_INDEX = pa.schema([field for field in INDEX if field.name not in WIDE]).empty_table()
NO_REJECTS = pa.schema([field for field in REJECTS if field.name not in WIDE_REJECTS]).empty_table()
NO_INSTANCES = pa.schema(
    [field for field in INSTANCES if not field.name.startswith(("box_x", "box_y", "crop_", "row"))]
).empty_table()
_NO_FILTER = {"n", "row"}
_WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
_KINDS: dict[str, Kind] = {
    "BOOLEAN": "truth",
    "DOUBLE": "number",
    "FLOAT": "number",
    **dict.fromkeys(_WHOLE, "integer"),
}
"""DuckDB's type of a column -> what it is on the page."""
_MOST_KEYS = 200_000
"""Of samples that a question names."""


class Viewer:
    """`outs`: one output, or two that are compared. `marks`: name of the layer that marks go to, `by`: who marks.

    Raises OutputError where there is no output, UserError for a layer of that name that holds something else.
    """

    def __init__(self, outs: list[str], marks: str = MARKS, by: str = "somebody") -> None:
        self.outputs = [Output(out) for out in outs]
        self.marks = Marks(outs[0], marks, by)
        marks_now = self.marks.table()
        self.database = Database()
        self.selections = Selections(self.database)
        self.selections.specials = [self._asked, self._drawn, self._alike]
        for suffix in SUFFIXES[: len(outs)]:
            self.database.replace(f"samples{suffix}", narrow_index(NO_INDEX, 0))
            self.database.replace(f"rejects{suffix}", narrow_rejects(NO_REJECTS, 0))
        self.database.set_layer("marks", marks_now)
        self.config = _configuration(outs[0])
        self.words: list[tuple[str, str, int]] = []
        self.flags: dict[str, int] = {}
        self.dropped: dict[str, int] = {}
        self.embeddings: list[tuple[str, str]] = []
        self.layers: list[str] = []
        self.read = [0] * len(outs)
        self.done = threading.Event()
        self._reading = threading.Lock()
        self._marking = threading.Lock()
        self.failed = ""

    def start(self) -> None:
        """Read everything in a thread of its own, unless it has been read."""
        if not self.done.is_set():
            threading.Thread(target=self._read_guarded, daemon=True).start()

    def _read_guarded(self) -> None:
        try:
            self.read_all()
        except Exception as error:  # whatever it is: the page says it, instead of waiting for ever
            self.failed = f"{type(error).__name__}: {error}"
        finally:
            self.done.set()

    def read_all(self) -> None:
        """Read both outputs, then layers and marks."""
        for number, (output, suffix) in enumerate(zip(self.outputs, SUFFIXES, strict=False)):
            samples, rejections = 0, 0
            for chunks in output.read():
                indices = []
                rejects = []
                for chunk in chunks:
                    indices.append(narrow_index(chunk.index, samples))
                    rejects.append(narrow_rejects(chunk.rejects, rejections))
                    samples, rejections = samples + len(chunk.index), rejections + len(chunk.rejects)
                for name, tables in (("samples", indices), ("rejects", rejects)):
                    for table in _joined(tables):
                        self.database.append(f"{name}{suffix}", table)
                self.read[number] += len(chunks)
                self.selections.forget()
                if not number and not self.selections.columns and samples:
                    self._catalogue()
        self._read_layers()
        self._count_words()
        self._catalogue()
        if len(self.outputs) == 2:
            pairs.build(self.database, [column.name for column in self.selections.columns.values() if not column.table])
        self.done.set()

    def _columns(self, table: str) -> dict[str, str]:
        sql = "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index"
        return dict(self.database.rows(sql, [table]))

    def _filled(self, table: str) -> set[str]:
        """Columns that have a value anywhere."""
        names = list(self._columns(table))
        counts = self.database.rows(f"SELECT {', '.join(f'count({quoted(name)})' for name in names)} FROM {quoted(table)}")[0]
        return {name for name, count in zip(names, counts, strict=True) if count}

    def _catalogue(self) -> None:
        """Columns of numbers and truths, of the index and of layers."""
        meanings = {field.name: (field.metadata or {}).get(b"description", b"").decode() for field in INDEX}
        found: dict[str, Column] = {}
        for table in ("", *self.layers):
            alias, stored = table or "s", f"layer_{table}" if table else "samples"
            filled = self._filled(stored)
            for name, kind in self._columns(stored).items():
                what = _KINDS.get(kind)
                if what is None or name not in filled or name in _NO_FILTER:
                    continue
                full = f"{table}.{name}" if table else name
                meaning = meanings.get(name, "") if not table else f"of the layer {table}"
                sql = f"{quoted(alias)}.{quoted(name)}"
                if what == "number":  # not a number is no value, as in the filters of all other commands
                    sql = f"nullif({sql}, 'nan'::DOUBLE)"
                found[full] = Column(full, meaning, what, table, sql)
        self.selections.set_columns(found)

    def _read_layers(self) -> None:
        """All layers, marks under the name `marks`; one that cannot be read becomes a problem."""
        output = self.outputs[0]
        with self._marking:
            self.database.set_layer("marks", self.marks.table())
        for name in storage.listdir(storage.join(output.out, FOLDER)):
            if name == self.marks.name or not is_layer_name(name):
                continue
            try:
                table = read_layer(output.out, name)
            except (UserError, OSError) as error:
                output.problems.append(Problem(f"{FOLDER}/{name}", str(error)))
                continue
            shown = name if name != "marks" else "marks_layer"
            lists = [field.name for field in table.schema if _is_vector(field.type)]
            self.embeddings += [(name, column) for column in lists]
            self.database.set_layer(shown, table.drop_columns(lists))
            self.layers.append(shown)

    def _count_words(self) -> None:
        each = " UNION ALL ".join(
            f"SELECT unnest({kind}_words) AS word, '{kind}' AS kind FROM samples"
            for kind in ("subject", "object", "background")
        )
        sql = f"SELECT word, kind, count(*) AS c FROM ({each}) GROUP BY word, kind ORDER BY c DESC, word, kind LIMIT {WORDS}"
        self.words = self.database.rows(sql)
        self.flags, self.dropped = self._counts("flags"), self._counts("dropped")

    def _counts(self, column: str) -> dict[str, int]:
        """How many samples have each item of a column of lists, the most frequent first."""
        each = f"SELECT unnest({column}) AS item FROM samples"
        return dict(self.database.rows(f"SELECT item, count(*) AS c FROM ({each}) GROUP BY item ORDER BY c DESC, item"))

    @property
    def version(self) -> str:
        """Of what has been read: changes when another output, or another state of it, is shown."""
        return "-".join(output.digest.copy().hexdigest()[:12] for output in self.outputs)

    def about(self) -> dict[str, Any]:
        """What the page needs to begin with, and asks for again until everything is read."""
        return {
            "outputs": [
                {
                    "out": output.out,
                    "samples": output.samples,
                    "rejections": output.rejections,
                    "chunks": len(output.chunks),
                    "read": read,
                    "problems": [problem._asdict() for problem in output.problems[:100]],
                    "n_problems": len(output.problems),
                }
                for output, read in zip(self.outputs, self.read, strict=True)
            ],
            "done": self.done.is_set(),
            "failed": self.failed,
            "version": self.version,
            "columns": [{"name": c.name, "meaning": c.meaning, "kind": c.kind} for c in self.selections.columns.values()],
            "flags": self.flags,
            "dropped": self.dropped,
            "embeddings": self.embeddings,
            "marks": {"layer": self.marks.name, "by": self.marks.by, "reasons": _reasons()},
            "config": self.config,
        }

    def ask(self, sql: str, limit: int = 1000) -> Answer:
        """Answer a person's SELECT; tables of instances are read when one names them first. Raises QueryError."""
        for output, suffix in zip(self.outputs, SUFFIXES, strict=False):
            if re.search(rf"\binstances{suffix}\b", sql, re.IGNORECASE):
                with self._reading:
                    self._read_instances(output, f"instances{suffix}")
        return self.database.ask(sql, limit)

    def _read_instances(self, output: Output, name: str) -> None:
        if self._columns(name):
            return
        if not self.done.is_set():
            raise QueryError("the index is still being read; ask for instances when that is done")
        try:
            self.database.replace(name, NO_INSTANCES)
            for table in output.instances(NO_INSTANCES.column_names):
                self.database.append(name, table)
        except (OutputError, OSError, duckdb.Error) as error:
            self.database.drop(name)
            raise QueryError(f"the instances of {output.out} cannot be held in memory: {error}") from None

    def number_of(self, key: str, which: int = 0) -> int | None:
        """The number of the sample of a key."""
        rows = self.database.rows(f"SELECT n FROM samples{SUFFIXES[which]} WHERE key = ?", [key])
        return rows[0][0] if rows else None

    def keys_of(self, numbers: np.ndarray) -> list[str]:
        """Keys of samples, in their order."""
        with self.database.cursor() as cursor:
            cursor.register(
                "given", pa.table({"n": pa.array(numbers, pa.int32()), "place": pa.array(range(len(numbers)), pa.int32())})
            )
            return [row[0] for row in cursor.execute("SELECT key FROM given JOIN samples USING (n) ORDER BY place").fetchall()]

    def mark(self, number: int, mark: Mark | None) -> None:
        """Mark a sample, durably. Raises UserError, OSError."""
        key = self.keys_of(np.array([number]))
        if not key:
            raise UserError(f"there is no sample {number}")
        with self._marking:
            self.database.set_layer("marks", self.marks.set(key[0], mark))
        self.selections.forget(lambda state: bool(state.marked or state.why or state.sql))

    def audit_result(self, state: State) -> audit.AuditResult:
        """What the marks say of the samples of a state. Raises QueryError."""
        return audit.result(self.keys_of(self.selections.numbers(state)), self.marks.table())

    def audit_result_of(self, wanted: Draw) -> audit.AuditResult:
        """Of a draw by itself."""
        return self.audit_result(State(audit=wanted))

    def _asked(self, state: State) -> np.ndarray | None:
        """Samples whose keys a person's question gives, in its order."""
        if not state.sql:
            return None
        answer = self.ask(state.sql, _MOST_KEYS)
        if "key" not in answer.columns:
            raise QueryError("to show samples, the question must give a column `key`")
        at = answer.columns.index("key")
        keys = list(dict.fromkeys(str(row[at]) for row in answer.rows))
        with self.database.cursor() as cursor:
            cursor.register(
                "given", pa.table({"key": pa.array(keys, pa.string()), "place": pa.array(range(len(keys)), pa.int32())})
            )
            rows = cursor.execute("SELECT s.n FROM given JOIN samples s USING (key) ORDER BY place").fetchnumpy()["n"]
            return np.asarray(rows, np.int32)

    def _drawn(self, state: State) -> np.ndarray | None:
        if state.audit is None:
            return None
        if not self.done.is_set():
            raise QueryError("samples are drawn when the whole index has been read")
        return audit.draw(self.database, self.selections.columns, state.audit)

    def _alike(self, state: State) -> np.ndarray | None:
        """The samples most like one, itself first, by the cosine of a layer's lists of numbers."""
        if (like := state.like) is None:
            return None
        if (like.layer, like.column) not in self.embeddings:
            raise QueryError(f"there is no list of numbers {like.layer}.{like.column}")
        try:
            table = read_layer(self.outputs[0].out, like.layer, ["key", like.column]).rename_columns(["key", "v"])
        except UserError as error:
            raise QueryError(str(error)) from None
        with self.database.cursor() as cursor:
            cursor.register("incoming", table)
            own = cursor.execute("SELECT v::FLOAT[] FROM incoming WHERE key = ? AND v IS NOT NULL", [like.key]).fetchone()
            if own is None:
                raise QueryError(f"the layer {like.layer} has nothing of {like.key}")
            sql = (
                "SELECT s.n FROM incoming i JOIN samples s ON s.key = i.key WHERE len(i.v) = ?"
                " ORDER BY i.key = ? DESC, list_cosine_similarity(i.v::FLOAT[], ?::FLOAT[]) DESC NULLS LAST, s.n LIMIT ?"
            )
            rows = cursor.execute(sql, [len(own[0]), like.key, own[0], MOST_ALIKE]).fetchnumpy()["n"]
            return np.asarray(rows, np.int32)


def _configuration(out: str) -> dict[str, Any]:
    """What made an output, for the page to say what a score was held against; nothing where that cannot be read."""
    try:
        info = read_info(out)
    except OutputError:
        return {}
    return info.config if info else {}


def _is_vector(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and pa.types.is_floating(kind.value_type))


def _joined(tables: list[pa.Table]) -> list[pa.Table]:
    """As few tables as their columns allow, the rows in order."""
    joined: list[pa.Table] = []
    for table in tables:
        if joined and joined[-1].schema.equals(table.schema):
            joined[-1] = pa.concat_tables([joined[-1], table])
        else:
            joined.append(table)
    return joined


def _reasons() -> list[dict[str, str]]:
    return [{"name": name, "stage": reason.stage, "text": reason.text} for name, reason in REASONS.items()]


# Made here: msgspec crashes where threads decode a type for the first time together.
_STATES = msgspec.json.Decoder(State)


def decoded_state(text: str) -> State:
    """The state in a link. Raises QueryError."""
    try:
        return _STATES.decode(text or "{}")
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise QueryError(f"the link cannot be understood: {error}") from None
