"""Rows of CSV files, read line by line, whatever the bytes are: what is not a row becomes a row with a problem.

Cells may be parted by commas, semicolons, tabs or bars, whatever the file's ending: the header tells.
"""

from __future__ import annotations

import csv
import itertools
import posixpath
from collections import deque
from collections.abc import Iterator
from typing import Any

from pipeline.sources.columns import check_columns
from pipeline.sources.lists import refuse_lists
from pipeline.sources.rows import RawRow, SourceError, encoding_problem, read_lines, too_long
from pipeline.sources.settings import SourceSettings

_DELIMITERS = (",", ";", "\t", "|")
_MAX_RECORD_LINES = 200  # of one record; bounds what a quote that is never closed can swallow

_Record = tuple[list[str], tuple[str, str] | None]  # cells, and what is wrong with them


def read_csv(file: Any, settings: SourceSettings, address: str) -> Iterator[RawRow]:
    """One row for each record after the header.

    Raises SourceError if the header lacks a required column, or if the rows hold lists of captions.
    """
    max_bytes = settings.max_line_bytes
    csv.field_size_limit(max(csv.field_size_limit(), max_bytes))  # a cell may be as long as a row
    lines = read_lines(file, max_bytes)
    head = list(_head(lines, max_bytes))
    if not head:
        return
    headers = {delimiter: next(_records(iter(head), delimiter, max_bytes)) for delimiter in _DELIMITERS}
    delimiter = _most_fitting(headers, {settings.columns.video, settings.columns.caption})
    cells, problem = headers[delimiter]
    if problem:
        raise SourceError(f"{address}: the header cannot be read: {problem[1]}")
    columns = [cell.strip() for cell in cells]
    records = _records(itertools.chain(head, lines), delimiter, max_bytes)
    next(records)
    rows = _rows(records, columns, delimiter)
    check_columns(columns, settings, address, rows)
    loaded = f"pd.read_csv({posixpath.basename(address)!r}, sep={delimiter!r}, dtype=str)"
    yield from refuse_lists(rows, settings, address, loaded)


def _most_fitting(headers: dict[str, _Record], wanted: set[str]) -> str:
    """The delimiter that gives most of the wanted columns, then the most columns; the first of equals."""

    def fitness(delimiter: str) -> tuple[int, int]:
        columns = [cell.strip() for cell in headers[delimiter][0]]
        return len(wanted.intersection(columns)), len(columns)

    return max(headers, key=fitness)


def _rows(records: Iterator[_Record], columns: list[str], delimiter: str) -> Iterator[RawRow]:
    for cells, problem in records:
        fields = dict(zip(columns, cells, strict=False))
        fields.pop("", None)  # columns without a name, as a trailing comma makes them
        yield RawRow(fields, problem or _wrong_width(len(cells), len(columns), delimiter))


def _head(lines: Iterator[bytes], max_bytes: int) -> Iterator[bytes]:
    """The lines that the header may span: from the first that is not blank, as many as a record may have."""
    n_bytes = n_lines = 0
    for line in lines:
        if not n_lines and (not line or line.isspace()):
            continue
        yield line
        n_lines += 1
        n_bytes += len(line)
        if n_bytes > max_bytes or n_lines == _MAX_RECORD_LINES:
            return


def _wrong_width(n_cells: int, n_columns: int, delimiter: str) -> tuple[str, str] | None:
    if n_cells == n_columns:
        return None
    return "broken_line", f"the row has {n_cells} cells, the header {n_columns}; quote cells that hold {delimiter!r}"


def _records(lines: Iterator[bytes], delimiter: str, max_bytes: int) -> Iterator[_Record]:
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
