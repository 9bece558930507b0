"""What readers of all formats share: the raw row, the input's error, lines of bounded length."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from materia.base.errors import UserError

_PIECE_BYTES = 2**20
_BOM = b"\xef\xbb\xbf"
_MAX_INT_DIGITS = 4300  # more: Python refuses to convert, since it takes quadratic time


class SourceError(UserError):
    """An input that cannot be read at all; the message names the file and the fix."""


class RawRow(NamedTuple):
    """A row as the manifest has it: column -> value of any type.

    `problem` is the (reason, message) of a row that could not be read; `fields` then holds what could be.
    """

    fields: dict[str, Any]
    problem: tuple[str, str] | None = None


def read_lines(file: Any, max_bytes: int) -> Iterator[bytes]:
    """Lines of a binary file without newline and byte order mark.

    Of a line longer than `max_bytes`, only the first `max_bytes` + 1 are given: the rest is read in pieces and dropped.
    """
    with io.BufferedReader(file, _PIECE_BYTES) as buffered:
        while line := buffered.readline(max_bytes + 1):
            if not line.endswith(b"\n") and len(line) > max_bytes:
                while (piece := buffered.readline(_PIECE_BYTES)) and not piece.endswith(b"\n"):
                    pass
            yield line.removesuffix(b"\n").removeprefix(_BOM)


def too_long(max_bytes: int) -> tuple[str, str]:
    """The problem of a row that holds more than `max_bytes`."""
    return "broken_line", f"the row is longer than {max_bytes} bytes; shorten it or raise source.max_line_bytes"


def encoding_problem(text: bytes) -> tuple[str, str] | None:
    """The problem of bytes that are not UTF-8, None if they are."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        place = f"byte 0x{text[error.start]:02x} at position {error.start} of the row"
        return "bad_encoding", f"{place} is not UTF-8; save the manifest as UTF-8"
    return None


def object_row(value: Any, problem: tuple[str, str] | None) -> RawRow:
    """A row from a JSON value and what is wrong with its text; JSON but not an object: wrong_type."""
    if isinstance(value, dict):
        return RawRow(value, problem)
    kind = "list" if isinstance(value, list) else "single value"
    return RawRow({}, problem or ("wrong_type", f"the row is a {kind}, not an object; write each row as one object"))


def _int_or_text(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else digits


DECODER = json.JSONDecoder(parse_int=_int_or_text)
"""Of manifests' JSON; integers too long to be converted become text."""
