"""Rows of JSONL and CSV files, read line by line, whatever the bytes are: what is not a row becomes a row with a problem."""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Iterator
from typing import Any

from pipeline.sources.rows import RawRow, SourceError, check_columns, encoding_problem, read_lines, too_long
from pipeline.sources.settings import SourceSettings

_MAX_RECORD_LINES = 200  # of one CSV record; bounds what a quote that is never closed can swallow
_MAX_INT_DIGITS = 4300  # more: Python refuses to convert, since it takes quadratic time


def read_jsonl(file: Any, settings: SourceSettings) -> Iterator[RawRow]:
    """One row for each non-blank line of a binary file."""
    for line in read_lines(file, settings.max_line_bytes):
        if line and not line.isspace():
            yield parse_object(line, settings.max_line_bytes)


def parse_object(text: bytes, max_bytes: int) -> RawRow:
    """A row from a JSON object.

    Not JSON: broken_line. JSON but not an object: wrong_type. Bytes outside UTF-8: bad_encoding.
    """
    if len(text) > max_bytes:
        return RawRow({}, too_long(max_bytes))
    problem = encoding_problem(text)
    try:
        value = _DECODER.decode(text.decode(errors="replace"))
    except RecursionError:
        return RawRow({}, problem or ("broken_line", "the row is nested too deeply"))
    except json.JSONDecodeError as error:
        return RawRow(
            {},
            problem or ("broken_line", f"the row is not JSON: {error.msg} at character {error.pos}; write one object a line"),
        )
    if not isinstance(value, dict):
        kind = "list" if isinstance(value, list) else "single value"
        return RawRow({}, problem or ("wrong_type", f"the row is a {kind}, not an object; write one object a line"))
    return RawRow(value, problem)


def _int_or_text(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else digits


_DECODER = json.JSONDecoder(parse_int=_int_or_text)


def read_csv(file: Any, settings: SourceSettings, delimiter: str, address: str) -> Iterator[RawRow]:
    """One row for each record after the header. Raises SourceError if the header lacks a required column."""
    records = _records(read_lines(file, settings.max_line_bytes), delimiter, settings.max_line_bytes)
    header = next(records, None)
    if header is None:
        return
    cells, problem = header
    if problem:
        raise SourceError(f"{address}: the header cannot be read: {problem[1]}")
    columns = [cell.strip() for cell in cells]
    check_columns(columns, settings, address)
    for cells, problem in records:
        fields = dict(zip(columns, cells, strict=False))
        fields.pop("", None)  # columns without a name, as a trailing comma makes them
        yield RawRow(fields, problem or _wrong_width(len(cells), len(columns), delimiter))


def _wrong_width(n_cells: int, n_columns: int, delimiter: str) -> tuple[str, str] | None:
    if n_cells == n_columns:
        return None
    return "broken_line", f"the row has {n_cells} cells, the header {n_columns}; quote cells that hold {delimiter!r}"


def _records(lines: Iterator[bytes], delimiter: str, max_bytes: int) -> Iterator[tuple[list[str], tuple[str, str] | None]]:
    """Cells of each record and what is wrong with it.

    A record may span lines. If it cannot be read, or no quote closes it, its first line alone is the broken row, and reading
    goes on at the next line: a stray quote costs one row, not the rest of the file.
    """
    ahead: deque[bytes] = deque()
    while True:
        used: list[bytes] = []
        try:
            cells, problem = next(csv.reader(_feed(lines, ahead, used, max_bytes), delimiter=delimiter, strict=True)), None
        except StopIteration:
            if not used:
                return
            yield [], too_long(max_bytes)
            continue
        except csv.Error as error:
            cells, problem = [], ("broken_line", f"the row is not CSV: {error}; is a quote not closed?")
            ahead.extendleft(reversed(used[1:]))
            del used[1:]
        yield cells, encoding_problem(b"\n".join(used)) or problem


def _feed(lines: Iterator[bytes], ahead: deque[bytes], used: list[bytes], max_bytes: int) -> Iterator[str]:
    """Lines for one record, remembered in `used`; ends early when they are more or longer than a record may be."""
    n_bytes = 0
    while len(used) < _MAX_RECORD_LINES:
        line = ahead.popleft() if ahead else next(lines, None)
        if line is None:
            return
        if not used and (not line or line.isspace()):
            continue
        used.append(line)
        n_bytes += len(line)
        if n_bytes > max_bytes:
            return
        yield line.decode(errors="replace") + "\n"
