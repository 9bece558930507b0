"""Whether the columns that every row needs are there, and which of those that are may be meant.

In: the names of columns, and a row as an example. Out: nothing, or the sentence that names what was found and the `--set` that
would read it. A guess is never acted on: a wrong column as caption would spoil a whole data set.
"""

from __future__ import annotations

import difflib
import itertools
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from materia.base.settings_file import set_argument
from pipeline.sources.access import quoted
from pipeline.sources.folder import VIDEO_SUFFIXES
from pipeline.sources.rows import RawRow, SourceError
from pipeline.sources.settings import SourceSettings

Required = Literal["video", "caption"]
REQUIRED: tuple[Required, ...] = ("video", "caption")
_WORDS: dict[Required, tuple[str, ...]] = {
    "video": ("video", "path", "filepath", "file", "filename", "url", "uri", "src", "media", "clip", "movie", "mp4"),
    "caption": ("caption", "captions", "text", "description", "desc", "prompt", "sentence", "txt", "title"),
}
"""What such a column is called elsewhere: the words in its name, the likeliest first."""
_MOST_NAMES = 50  # that are looked at and shown


def check_columns(columns: list[str], settings: SourceSettings, address: str, rows: Iterator[RawRow]) -> None:
    """Raises SourceError unless the video and caption columns are there and no name stands twice.

    Of `rows` the first is taken, as an example, only if it raises.
    """
    if any(getattr(settings.columns, field) not in columns for field in REQUIRED):
        row = next(rows, RawRow({}))
        example = {name: row.fields.get(name) for name in columns}
        hint = missing_columns(example, settings)
        hint += "; is it the first line? Cells are parted by , ; | or tabs" if len(columns) == 1 else ""
        raise SourceError(f"{address}: {hint}")
    for name, times in Counter(columns).items():
        if name and times > 1:
            raise SourceError(f"{address}: column {name!r} stands more than once; rename or remove one")


def missing_columns(row: Mapping[str, Any], settings: SourceSettings) -> str:
    """Which required columns a row has not, which it has, and how to name the likeliest; at least one must be missing."""
    absent = [field for field in REQUIRED if getattr(settings.columns, field) not in row]
    names = list(itertools.islice(row, _MOST_NAMES))
    taken = {name for _, name in settings.columns}
    sets = []
    for field in absent if len(row) > 1 else ():
        name = likeliest(field, {name: row[name] for name in names if name not in taken}, settings)
        if name is not None:
            taken.add(name)
            sets.append(set_argument(f"source.columns.{field}", name))
    named = " and ".join(f"no column {getattr(settings.columns, field)!r}" for field in absent)
    found = ", ".join(map(quoted, names)) + (", ..." if len(row) > len(names) else "")
    return f"{named}; found: {found or 'none'}" + (f"; perhaps {' '.join(sets)}" if sets else "")


def likeliest(field: Required, row: Mapping[str, Any], settings: SourceSettings) -> str | None:
    """The column that rather holds the videos, or the captions, than the others do; None if none looks like it.

    A value that looks right counts more than a name that does; of equals the first.
    """
    wanted = (getattr(settings.columns, field), field)

    def likeness(name: str) -> tuple[bool, float, int]:
        value = row[name]
        fits = _names_video(value) if field == "video" else _is_sentence(value)
        return fits, _name_likeness(name, wanted, _WORDS[field]), len(value) if fits and field == "caption" else 0

    best = max(row, key=likeness, default=None)
    return best if best is not None and any(likeness(best)) else None


def _names_video(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        path = urlsplit(value).path if "://" in value else value
    except ValueError:
        return False
    return posixpath.splitext(path)[1].lower() in VIDEO_SUFFIXES


def _is_sentence(value: Any) -> bool:
    return isinstance(value, str) and len(value.split()) > 2 and not _names_video(value)


def _name_likeness(name: str, wanted: Iterable[str], words: tuple[str, ...]) -> float:
    """Above 0 if it is nearly one of the `wanted`, or has one of the words; the more, the likelier."""
    parts = re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold())
    ranks = [1 - words.index(part) / len(words) for part in parts if part in words]
    near = max(difflib.SequenceMatcher(None, name.casefold(), other.casefold()).ratio() for other in wanted)
    return max([near if near >= 0.8 else 0.0, *ranks])
