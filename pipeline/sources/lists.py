"""Rows that hold several captions, as data sets are published in which a row is a video and its clips are lists.

A row is one clip with one caption, so that ids, keys and counts stay those of the manifest: a list is never taken for a
caption, and rows are not multiplied here. An input whose first rows all hold lists is refused as a whole, in one line with the
command that unrolls it; a single such row is rejected like any other (normalise).
"""

from __future__ import annotations

import ast
import itertools
import posixpath
import re
from collections.abc import Iterator
from typing import Any

from pipeline.sources.rows import RawRow, SourceError
from pipeline.sources.settings import SourceSettings

_FIRST_ROWS = 8  # that all hold lists, or else the list is taken for a slip of that row
_MAX_LITERAL_CHARS = 100_000  # of a cell that is parsed to tell what it holds
_AS_TEXT = re.compile(  # ['…', '…'], as str() of a list, of an array or of a table, or JSON, writes them
    r"""\s*(?:\[[\[\s]*+(?:(?:[bu]?["']|None|null|nan).*(?:["']|None|null|nan))?[\[\],\s]*\]|\{\s*["'].*\})\s*""", re.DOTALL
)


def holds_several(caption: str) -> bool:
    """Whether text is a list or a table of texts, written as text."""
    return caption.lstrip().startswith(("[", "{")) and _AS_TEXT.fullmatch(caption) is not None


def refuse_lists(rows: Iterator[RawRow], settings: SourceSettings, address: str, loaded: str) -> Iterator[RawRow]:
    """The same rows. Raises SourceError if the first ones hold lists of captions.

    `loaded` is the call with which pandas reads the input (`pd`), for the message.
    """
    name = settings.columns.caption
    first = list(itertools.islice(rows, _FIRST_ROWS))
    listed = [row for row in first if isinstance(captions := _listed(row.fields.get(name)), list) and captions]
    if listed and len(listed) == len(first):
        command = _unrolling(listed[0].fields, settings, address, loaded)
        raise SourceError(
            f"{address}: {name!r} holds lists, but a row is one clip with one caption; unroll them, with pandas: {command}"
        )
    yield from first
    yield from rows


def _listed(value: Any) -> list[Any] | None:
    """The list that a cell is, or that its text writes."""
    if isinstance(value, list):
        return value
    if not isinstance(value, str) or len(value) > _MAX_LITERAL_CHARS or value.lstrip()[:1] != "[":
        return None
    try:
        literal = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return literal if isinstance(literal, list) else None


def _unrolling(fields: dict[str, Any], settings: SourceSettings, address: str, loaded: str) -> str:
    """Python that makes a row of each caption of rows like this one: the times of its clip, and an id of its own."""
    columns = settings.columns
    captions = _listed(fields[columns.caption]) or []
    lists = {name: items for name, value in fields.items() if (items := _listed(value)) and len(items) == len(captions)}
    written = [name for name in lists if isinstance(fields[name], str)]
    steps = [f"t = {loaded}", f"c = {list(lists)}"]
    if written:
        steps.append(f"t[{written}] = t[{written}].map(ast.literal_eval)")
    steps.append("t = t.explode(c)")
    pairs = [name for name, items in lists.items() if all(isinstance(item, list) and len(item) == 2 for item in items)]
    if len(pairs) == 1 and columns.start not in fields:
        steps.append(f"t[{columns.start!r}], t[{columns.end!r}] = zip(*t.pop({pairs[0]!r}))")
    if columns.id in fields:
        steps.append(f"t[{columns.id!r}] = t[{columns.id!r}].astype(str) + '-' + t.groupby(level=0).cumcount().astype(str)")
    stem = posixpath.splitext(posixpath.basename(address))[0]
    steps.append(f"t.to_json({stem + '.unrolled.jsonl'!r}, orient='records', lines=True)")
    return "; ".join(["import ast, pandas as pd", *steps])
