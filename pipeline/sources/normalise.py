"""From a raw row to a `Clip` or a `Rejection`: types, lengths, times and identity (design: "Identity").

In: whatever the manifest held. Out: a record that msgpack and JSON can carry: valid UTF-8, finite numbers, bounded nesting.
Never raises. A null or absent value is the same thing; so are empty text and absence, except for the caption.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import reprlib
from datetime import time, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from pipeline.sources.access import relative
from pipeline.sources.columns import missing_columns
from pipeline.sources.lists import holds_several
from pipeline.sources.rows import RawRow
from pipeline.sources.settings import SourceSettings
from stages.records import Clip, Rejection

_KEY = re.compile(r"[A-Za-z0-9_-]{1,120}")
_SECONDS = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_CLOCK = re.compile(  # H:M:S.f or M:S.f, after days as Python and pandas write them: 0 days 00:00:03
    r"(?=.)(?:(\d+) days?(?:,? +|$))?(?:(?:(\d+):)?([0-5]?\d):([0-5]?\d(?:\.\d*)?))?", re.ASCII
)
_MAX_NAME_CHARS = 4096  # of id and source_id: the longest path of Linux; a name beyond it is a mistake
_MAX_REJECTED_CHARS = 2000  # of text in a rejection (design: "rejects")
_MAX_DEPTH = 16  # of nested values in `extra`; what lies deeper becomes null

_short = reprlib.Repr()
_short.maxlevel = 2
_short.maxstring = _short.maxother = 80


class _Bad(Exception):
    """A row that cannot be used: reason code and message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def normalise(row: int, raw: RawRow, root: str, settings: SourceSettings, folder: str = "") -> Clip | Rejection:
    """Row number `row` of the input, whose addresses are recorded from `root` on, as a clip or a rejection.

    `folder`: that of the row's manifest file, from `root` on; there relative addresses start. Reasons: those of the raw row,
    and missing_field, wrong_type, bad_encoding, empty_caption, caption_too_long, bad_time_range.
    """
    try:
        if raw.problem:
            raise _Bad(*raw.problem)
        return _clip(row, raw.fields, root, settings, folder)
    except _Bad as bad:
        names = settings.columns
        kept = {field: _kept(raw.fields.get(name)) for field, name in names}
        return Rejection(
            row=row,
            key=None,
            id=kept["id"],
            source_id=kept["source_id"],
            uri=kept["video"],
            caption=kept["caption"],
            stage="source",
            reason=bad.reason,
            message=str(bad),
        )


def key_of(id_: str | None, uri: str, start_s: float | None, end_s: float | None, caption: str) -> str:
    """The clip's key (design: "Identity"): the id if it can name files, else 32 hex digits of a hash of what the clip is."""
    if id_ is not None and _KEY.fullmatch(id_):
        return id_
    return hashlib.sha256(json.dumps([uri, start_s, end_s, caption]).encode()).hexdigest()[:32]


def _clip(row: int, fields: dict[str, Any], root: str, settings: SourceSettings, folder: str) -> Clip:
    names = settings.columns
    others = fields.copy()
    if names.video not in fields or names.caption not in fields:
        raise _Bad("missing_field", missing_columns(fields, settings))
    video = _text(fields[name := names.video], name)
    if not video or video.isspace():
        raise _Bad("missing_field", f"{name!r} is empty; give the address of the video")
    others.pop(name)
    caption = _caption(fields[name := names.caption], name, settings)
    others.pop(name, None)  # one column may serve as several
    start_s = _seconds(fields.get(name := names.start), name)
    others.pop(name, None)
    end_s = _seconds(fields.get(name := names.end), name)
    others.pop(name, None)
    if end_s is not None and end_s <= (start_s or 0.0):
        raise _Bad("bad_time_range", f"{names.end!r} {end_s} is not after {names.start!r} {start_s or 0.0}")
    id_ = _name(fields.get(name := names.id), name)
    others.pop(name, None)
    source_id = _name(fields.get(name := names.source_id), name)
    others.pop(name, None)
    uri = relative(video, root, folder)
    return Clip(
        row=row,
        key=key_of(id_, uri, start_s, end_s, caption),
        id=id_,
        source_id=source_id or uri,
        uri=uri,
        start_s=start_s,
        end_s=end_s,
        caption=caption,
        extra={_utf8(str(name)): plain(value) for name, value in others.items()} if others else {},
    )


def _caption(value: Any, column: str, settings: SourceSettings) -> str:
    caption = _text(value, column)
    if not caption or caption.isspace():
        raise _Bad("empty_caption", f"{column!r} holds only white space; describe the clip")
    if len(caption) > settings.max_caption_chars:
        limit = f"source.max_caption_chars is {settings.max_caption_chars}"
        raise _Bad("caption_too_long", f"{column!r} has {len(caption)} characters, {limit}")
    if holds_several(caption):
        raise _Bad(
            "wrong_type", f"{column!r} is {_short.repr(caption)}, a list or table written as text; give one caption a row"
        )
    return caption


def _text(value: Any, column: str) -> str:
    """A required text. Some Parquet writers mark text as bytes, so bytes count as text."""
    if type(value) is str and value.isascii():  # nearly always: tens of thousands of rows a second come through here
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise _Bad("missing_field", f"{column!r} is missing or null")
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise _Bad("bad_encoding", f"byte {error.start} of {column!r} is not UTF-8") from None
    if not isinstance(value, str):
        raise _Bad("wrong_type", f"{column!r} is {_short.repr(value)}, not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _Bad(
            "bad_encoding", f"character {error.start} of {column!r} is half a surrogate pair, which is no text"
        ) from None
    return value


def _name(value: Any, column: str) -> str | None:
    """An optional name as text. Integers are written out, also those that became floats beside missing values."""
    if value is None or value in ("", b"") or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    name = _text(value, column)
    if len(name) > _MAX_NAME_CHARS:
        raise _Bad("wrong_type", f"{column!r} has {len(name)} characters; at most {_MAX_NAME_CHARS} make a name")
    return name


def _seconds(value: Any, column: str) -> float | None:
    """A time in seconds from a number, a duration, or text (seconds, H:M:S.f, ISO 8601). Dates are no offsets."""
    if type(value) is float and 0 <= value < math.inf:
        return abs(value)  # -0.0 is 0.0
    if value is None or value in ("", b""):
        return None
    seconds = None
    if isinstance(value, time):
        value = value.isoformat()
    if isinstance(value, str):
        seconds = _parsed_seconds(value.strip())
    elif isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
    if seconds is None or not 0 <= seconds < math.inf:
        wanted = "a finite, non-negative number of seconds or H:M:S.f"
        raise _Bad("bad_time_range", f"{column!r} is {_short.repr(value)}, not {wanted}")
    return abs(seconds)


def _parsed_seconds(text: str) -> float | None:
    if _SECONDS.fullmatch(text):
        return float(text)
    if clock := _CLOCK.fullmatch(text):
        days, hours, minutes, seconds = map(float, clock.groups(default="0"))
        return days * 86_400 + hours * 3600 + minutes * 60 + seconds
    if text[:1] in ("P", "p"):
        return _iso_seconds(text)
    return None


def _iso_seconds(text: str) -> float | None:
    """A duration as ISO 8601 writes it, which is what pandas writes to JSON: P0DT0H0M3.5S."""
    try:
        return msgspec.convert(text, timedelta).total_seconds()
    except msgspec.ValidationError:
        return None


def plain(value: Any, depth: int = 0) -> Any:
    """A value of another column as JSON can hold it.

    NaN and infinity become null, integers beyond 64 bits and everything that JSON has no type for (dates, decimals) text, bytes
    text or hex, durations seconds, lone surrogates U+FFFD, what is nested deeper than 16 levels null.
    """
    if isinstance(value, str):
        return _utf8(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    if depth == _MAX_DEPTH:
        return None
    if isinstance(value, dict):
        return {_utf8(str(name)): plain(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, depth + 1) for inner in value]
    return _utf8(str(value))


def _utf8(text: str) -> str:
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def _kept(value: Any) -> str | None:
    """What a rejection shows of a field: text or a number, cut."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, int | float):
        value = str(value)
    return _utf8(value[:_MAX_REJECTED_CHARS]) if isinstance(value, str) else None
