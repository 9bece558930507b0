"""Marks of a person on samples: good, or bad and why; a layer of the output that is written at every mark.

In: an output, the layer's name, who marks. Out: the layer with columns `key`, `bad`, `why`, `by`, `at`. What is acknowledged is
on the disk. The layer is read again before each write, so that marks of another process that were written meanwhile stay.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NamedTuple

import pyarrow as pa

from materia.base.errors import UserError
from materia.dataset.layers import read_info, read_layer, write_layer

MARKS = "marks"
"""The usual layer."""
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("bad", pa.bool_()),
        ("why", pa.list_(pa.string())),
        ("by", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
    ]
)


class Reason(NamedTuple):
    """Why a sample is bad: the stage that it is laid to, empty where that is none's fault, and words for the page."""

    stage: str
    text: str


REASONS: dict[str, Reason] = {
    "wrong_word": Reason("entities", "a word that names nothing to be shown, or a word missing"),
    "bad_frame": Reason("frames", "blurred, cut, or not the scene that the caption tells of"),
    "wrong_box": Reason("localise", "the box shows something else than its word"),
    "wrong_individual": Reason("link", "the references of a word show different individuals"),
    "bad_mask": Reason("segment", "the mask cuts off parts, or takes in what is not the word's"),
    "bad_face": Reason("faces", "a face that is none, or somebody else's"),
    "somebody_in_background": Reason("background", "a subject, or a part or shadow of one, is left in the background"),
    "bad_background": Reason("background", "what was filled in is smeared or does not fit"),
    "other": Reason("", "something else"),
}
"""In the order of their keys on the page, 1 to 9."""


class Mark(NamedTuple):
    """A sample's mark."""

    bad: bool
    why: tuple[str, ...] = ()


class Marks:
    """The marks layer `name` of an output, written by `by`. Thread-safe."""

    def __init__(self, out: str, name: str, by: str) -> None:
        self.out, self.name, self.by = out, name, by
        self._lock = threading.Lock()

    def table(self) -> pa.Table:
        """All marks there are. Raises OutputError; UserError for a layer of that name that holds something else."""
        return read_marks(self.out, self.name, must_exist=False)

    def set(self, key: str, mark: Mark | None) -> pa.Table:
        """Mark a sample, or take its mark away; gives all marks, which are on the disk then. Raises UserError, OSError."""
        if mark is not None and (unknown := [why for why in mark.why if why not in REASONS]):
            raise UserError(f"{unknown[0]!r} is no reason; there are {', '.join(REASONS)}")
        with self._lock:
            rows: list[dict[str, Any]] = [row for row in self.table().to_pylist() if row["key"] != key]
            if mark is not None:
                rows.append({"key": key, "bad": mark.bad, "why": list(mark.why), "by": self.by, "at": datetime.now(UTC)})
            table = pa.Table.from_pylist(rows, SCHEMA)
            write_layer(self.out, self.name, table, made_by=self.by, version=version("prima-materia"))
            return table


def read_marks(out: str, name: str, must_exist: bool = True) -> pa.Table:
    """A marks layer. Raises OutputError where there is none, or UserError for a layer that holds something else."""
    if not must_exist and read_info(out, name) is None:
        return SCHEMA.empty_table()
    table = read_layer(out, name)
    if not set(SCHEMA.names) <= set(table.column_names):
        raise UserError(f"the layer {name} of {out} holds no marks; give marks another name: --marks NAME")
    return table.select(SCHEMA.names).cast(SCHEMA)
