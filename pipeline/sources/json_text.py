"""Rows of JSON files: one object a line, an array of objects, or objects that span lines; what is broken is a row, too."""

from __future__ import annotations

import itertools
import json
import posixpath
from collections.abc import Iterator
from typing import Any

from pipeline.sources.json_values import read_values, spans_lines
from pipeline.sources.lists import refuse_lists
from pipeline.sources.rows import DECODER, RawRow, SourceError, encoding_problem, object_row, read_lines, too_long
from pipeline.sources.settings import SourceSettings

_HEAD_BYTES = 2**16  # of a file, to tell whether its lines are its rows


def read_json(file: Any, settings: SourceSettings, address: str) -> Iterator[RawRow]:
    """One row for each non-blank line of a binary file, or for each object if it is an array or its objects span lines.

    Raises SourceError if the file is a single object that rather holds rows than is one, or if its rows hold lists of captions.
    """
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    name = posixpath.basename(address)
    if spans_lines(head, len(head) < _HEAD_BYTES):
        rows, loaded = read_values(file, settings), f"pd.read_json({name!r}, dtype=False)"
    else:
        rows, loaded = _json_lines(file, settings), f"pd.read_json({name!r}, lines=True, dtype=False)"
    return refuse_lists(_refuse_lone(rows, settings, address), settings, address, loaded)


def _json_lines(file: Any, settings: SourceSettings) -> Iterator[RawRow]:
    for line in read_lines(file, settings.max_line_bytes):
        if line and not line.isspace():
            yield parse_object(line, settings.max_line_bytes)


def _refuse_lone(rows: Iterator[RawRow], settings: SourceSettings, address: str) -> Iterator[RawRow]:
    """The same rows. Raises SourceError if there is but one, without video and caption, that holds lists or objects."""
    first = list(itertools.islice(rows, 2))
    if len(first) == 1:
        (fields, problem), columns = first[0], settings.columns
        holds = [name for name, value in fields.items() if isinstance(value, list | dict)]
        if problem == too_long(settings.max_line_bytes) or (holds and not {columns.video, columns.caption} & fields.keys()):
            key = next((name for name in holds if name.isidentifier() and isinstance(fields[name], list)), "KEY")
            found = f"; found: {', '.join(map(repr, [*fields][:50]))}" if fields else ""
            raise SourceError(
                f"{address}: a single JSON object, not rows with {columns.video!r} and {columns.caption!r}{found}; "
                f"write its rows one object a line, e.g. if a list holds them: jq -c '.{key}[]' {posixpath.basename(address)}"
            )
    yield from first
    yield from rows


def parse_object(text: bytes, max_bytes: int) -> RawRow:
    """A row from a JSON object.

    Not JSON: broken_line. JSON but not an object: wrong_type. Bytes outside UTF-8: bad_encoding.
    """
    if len(text) > max_bytes:
        return RawRow({}, too_long(max_bytes))
    problem = encoding_problem(text)
    try:
        value = DECODER.decode(text.decode(errors="replace"))
    except RecursionError:
        return RawRow({}, problem or ("broken_line", "the row is nested too deeply"))
    except json.JSONDecodeError as error:
        return RawRow(
            {},
            problem or ("broken_line", f"the row is not JSON: {error.msg} at character {error.pos}; write one object a line"),
        )
    return object_row(value, problem)
