"""Text from captions, file names and shards, made fit for a terminal: hostile words must not move its cursor or colour it."""

from __future__ import annotations

import sys
import unicodedata


def printable(text: str, max_chars: int = 500) -> str:
    r"""`text` with control, format and unassigned characters escaped (`\x1b`), at most `max_chars` of it; markup is left."""
    if len(text) > max_chars:
        text = text[: max_chars - 1] + "…"
    return "".join(_escaped(character) if unicodedata.category(character)[0] == "C" else character for character in text)


def plural(count: int, noun: str, several: str | None = None) -> str:
    """A number and its noun: 1, "row" -> "1 row"; 2, "row" -> "2 rows"; `several`: the plural, where that is not noun + s."""
    return f"{count} {noun if count == 1 else several or noun + 's'}"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def duration(seconds: float) -> str:
    """90 -> "1:30", 3700 -> "1:01:40"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def say(notice: str) -> None:
    """Tell the user something on standard error."""
    sys.stderr.write(f"notice: {printable(notice, max_chars=2000)}\n")
