"""Rows of a JSON file that has not one object a line: an array of objects, or objects that span lines.

In: text of any size. Out: a row for each value, in order, while a window of the text is held. The array's brackets and the
commas between values only part them, so a missing or trailing one costs nothing. What cannot be parsed is one row with a
problem, up to where the next object seems to begin.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from pipeline.sources.rows import DECODER, RawRow, encoding_problem, object_row, too_long
from pipeline.sources.settings import SourceSettings

_PIECE_BYTES = 2**16  # more would make errors dear: each counts the lines of the window
_BETWEEN = re.compile(r"[\s,\ufeff]*")
_OBJECT_AHEAD = re.compile(r"[,}\n]\s*(?=\{)")  # where reading goes on after what cannot be parsed
_KEPT_CHARS = 256  # of skipped text: the seam between two pieces may be where the next object begins
_MARK = re.compile(r'\\.?|["{}\[\]]', re.DOTALL)
_LONGEST_TOKEN = 16  # a number, a name or an escape that the end of the window cuts in two fails up to so much before it


def spans_lines(head: bytes, is_whole: bool) -> bool:
    """Whether a file that begins with `head`, or is it, has values across lines or several on one: its lines are no rows."""
    text = head.decode(errors="replace").lstrip("\ufeff \t\r\n")
    if not text.startswith("{"):
        return text.startswith(("[", "\x1e"))  # the latter begins each value of a JSON text sequence (RFC 7464)
    try:
        _, end = DECODER.raw_decode(text)
    except RecursionError:
        return False
    except json.JSONDecodeError as error:  # a string cannot hold a newline: what is right up to here spans lines
        return not is_whole and _cut(error, text) and "\n" in text
    return "\n" in text[:end] or text[end:].lstrip(" \t")[:1] in ("{", ",")


def read_values(file: Any, settings: SourceSettings) -> Iterator[RawRow]:
    """One row for each value of a binary file; an array that is never closed is a last row with a problem."""
    values = _Values(file, settings.max_line_bytes)
    while values.begin():
        yield values.next_row()
    if values.in_array:
        yield RawRow({}, ("broken_line", "the array is not closed with ]; is the file cut off?"))


def _cut(error: json.JSONDecodeError, text: str) -> bool:
    """Whether the text may be right and only ends too early."""
    return error.msg.startswith("Unterminated string") or error.pos > len(text) - _LONGEST_TOKEN


class _Values:
    """Reads values one after the other; `text[at:]` is what was fetched and is not yet read.

    Bytes outside UTF-8 are in the text as lone surrogates (PEP 383). `in_array`: an array is open.
    """

    def __init__(self, file: Any, max_bytes: int) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._max_bytes = max_bytes
        self._text = ""
        self._at = 0
        self.in_array = False

    def begin(self) -> bool:
        """Go to where the next value begins; False at the end of the file."""
        while True:
            self._at = _BETWEEN.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches nothing, too
            mark = self._text[self._at : self._at + 1]
            if not mark:
                if not self._fetch():
                    return False
            elif mark == "]" or (mark == "[" and not self.in_array):
                self.in_array = mark == "["
                self._at += 1
            else:
                return True

    def next_row(self) -> RawRow:
        """The value that begins here, as a row; what is no JSON, too long or too deep is left behind."""
        while True:
            room = len(self._text) - self._at <= self._max_bytes
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                self._skip_value()
                return RawRow({}, ("broken_line", "the row is nested too deeply"))
            except json.JSONDecodeError as error:
                cut, failed = _cut(error, self._text), error.pos - self._at
                if cut and room and self._fetch():
                    continue
                if cut and not room:
                    self._skip_value()
                    return RawRow({}, too_long(self._max_bytes))
                self._skip_to_object(self._at + failed)
                return RawRow({}, ("broken_line", f"the row is not JSON: {error.msg} at character {failed} of it"))
            if end == len(self._text) and room and self._fetch():  # a number may go on
                continue
            text, self._at = self._text[self._at : end], end
            return self._checked(value, text)

    def _checked(self, value: Any, text: str) -> RawRow:
        if text.isascii() and len(text) <= self._max_bytes:
            return object_row(value, None)
        content = text.encode(errors="surrogateescape")
        if len(content) > self._max_bytes:
            return RawRow({}, too_long(self._max_bytes))
        return object_row(value, encoding_problem(content))

    def _fetch(self) -> bool:
        """Hold more text; False at the end of the file."""
        rest = self._text[self._at :]
        piece = self._file.read(max(_PIECE_BYTES, len(rest)))  # twice as much: trying again stays cheap
        self._text, self._at = rest + self._decoder.decode(piece, final=not piece), 0
        return bool(piece)

    def _skip_value(self) -> None:
        """Leave a value of any length behind."""
        depth, quoted = 0, False
        while True:
            start, self._at = self._at, len(self._text)
            for match in _MARK.finditer(self._text, start):
                mark = match[0]
                if mark == "\\":
                    self._at = match.start()  # what it escapes is not yet fetched
                elif mark == '"':
                    quoted = not quoted
                elif mark in "{[]}" and not quoted:
                    depth += 1 if mark in "{[" else -1
                if depth <= 0 and not quoted:
                    self._at = match.end()
                    return
            if not self._fetch():
                self._end()
                return

    def _skip_to_object(self, failed: int) -> None:
        """Go to where the next object seems to begin, which may be where parsing failed: its forerunner is not closed."""
        if failed > self._at and self._text[failed : failed + 1] == "{":
            self._at = failed
            return
        self._at += len(self._text[self._at : failed].rstrip())
        while (ahead := _OBJECT_AHEAD.search(self._text, self._at)) is None:
            self._at = max(self._at, len(self._text) - _KEPT_CHARS)
            if not self._fetch():
                self._end()
                return
        self._at = ahead.end()

    def _end(self) -> None:
        """What was skipped ended with the file; so did the array, if one was open."""
        self._at = len(self._text)
        self.in_array = False
