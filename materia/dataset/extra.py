"""The user's own columns: what a manifest holds beside ours, typed, for the struct column `extra` of the index.

In: the other columns of each clip, JSON values as KEY.json has them, seen once while the plan is made. Out: the type of each,
which the plan keeps, so that every file of an index has the same columns; and by these types, a row's values. What has no
type of its own, as columns of several types or of lists, is text: JSON, and texts verbatim.
"""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

ExtraType = Literal["bool", "int64", "double", "string"]
"""Arrow's name of a column's type."""
MAX_COLUMNS = 100
"""In order of first appearance; a manifest whose rows all name their columns differently has millions."""
MAX_NAME_CHARS = 100
MAX_VALUE_CHARS = 2000
"""Code points of a text or of the JSON of a list or object; who reads an index holds it in memory."""
_EXAMPLES = 3
_WHY = {
    "name": f"its name is not 1 to {MAX_NAME_CHARS} printable characters",
    "long": f"a value has more than {MAX_VALUE_CHARS} characters",
    "many": f"the index holds {MAX_COLUMNS} of them",
}


class ExtraColumns:
    """Types of the other columns, as far as rows have been seen, of at most `most`; its memory does not grow with the rows."""

    def __init__(self, most: int = MAX_COLUMNS) -> None:
        self._most = most
        self._kinds: dict[str, set[str]] = {}
        self._left_out: dict[str, dict[str, None]] = {why: {} for why in _WHY}

    def add(self, extra: Mapping[str, Any]) -> None:
        """See the other columns of one more clip."""
        for name, value in extra.items():
            kinds = self._kinds.get(name)
            if kinds is None and (kinds := self._kinds_of(name)) is None:
                continue
            kinds.add(kind := _kind(value))
            if kind == "long":
                self._leave_out(name, "long")

    def include(self, later: ExtraColumns) -> None:
        """See all that another one saw, of rows that come later."""
        for name, found in later._kinds.items():
            if (kinds := self._kinds_of(name)) is not None:
                kinds |= found
        for why, names in later._left_out.items():
            for name in names:
                self._leave_out(name, why)

    def _kinds_of(self, name: str) -> set[str] | None:
        """What was seen of a column, None if it is left out."""
        if name in self._kinds:
            return self._kinds[name]
        if not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable():
            self._leave_out(name, "name")
            return None
        if len(self._kinds) == self._most:
            self._leave_out(name, "many")
            return None
        self._kinds[name] = set()
        return self._kinds[name]

    @property
    def types(self) -> dict[str, ExtraType]:
        """Columns that the index holds -> type, in order of first appearance. Whole numbers among others become doubles."""
        return {name: _type(kinds - {"null"}) for name, kinds in self._kinds.items() if "long" not in kinds}

    @property
    def notice(self) -> str:
        """What the index does not hold, with examples, for a person; empty if it holds everything."""
        left_out = [f"{', '.join(map(reprlib.repr, names))} ({_WHY[why]})" for why, names in self._left_out.items() if names]
        where = "columns of the manifest are in every sample's KEY.json but not in the index, where --where and SQL look: "
        return where + "; ".join(left_out) if left_out else ""

    def _leave_out(self, name: str, why: str) -> None:
        if len(examples := self._left_out[why]) < _EXAMPLES:
            examples[name] = None


def extra_row(extra: Mapping[str, Any], types: Mapping[str, ExtraType]) -> dict[str, Any]:
    """A row's `extra` in the index, one value for each of `types`; null where there is none, or none of that type."""
    return {name: _value(extra.get(name), kind) for name, kind in types.items()}


def _kind(value: Any) -> str:
    """Of a JSON value; "long": it is not for the index."""
    if type(value) is str and len(value) <= MAX_VALUE_CHARS:
        return "text"
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return type(value).__name__
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if len(text) > MAX_VALUE_CHARS:
        return "long"
    return "text" if text is value else "json"


def _type(kinds: set[str]) -> ExtraType:
    if kinds == {"bool"}:
        return "bool"
    if kinds == {"int"}:
        return "int64"
    return "double" if kinds and kinds <= {"int", "float"} else "string"


def _value(value: Any, kind: ExtraType) -> bool | int | float | str | None:
    match kind, value:
        case _, None:
            return None
        case "string", _:
            return value if isinstance(value, str) else msgspec.json.encode(value).decode()
        case "bool", bool():
            return value
        case "int64" | "double", bool():
            return None
        case "int64", int() if -(2**63) <= value < 2**63:
            return value
        case "double", int() | float() if abs(value) <= sys.float_info.max:
            return float(value)
    return None
