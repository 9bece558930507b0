"""Rows of a folder of videos: `x.mp4` with its caption in `x.txt`, or its fields in `x.json`, or both.

Sorted by name, folder by folder, so that the order is the same everywhere. A folder without videos may hold manifests instead
(inputs.py). Symbolic links to folders are not followed (they may loop); a link to a file is judged like any video, on its real
path. Hidden files and folders, and those in which systems keep what is theirs, are not looked at. A caption that no video has
is told at the end: its video may have an ending that we do not know, or be missing.
"""

from __future__ import annotations

import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Literal

from materia.base import storage
from pipeline.sources.access import Denied, allowed_roots, check_local, quoted
from pipeline.sources.json_text import parse_object
from pipeline.sources.rows import RawRow, SourceError, encoding_problem, too_long
from pipeline.sources.settings import SourceSettings

VIDEO_SUFFIXES = (
    *(".3g2", ".3gp", ".3gpp", ".amv", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".m1v", ".m2t", ".m2ts", ".m2v"),
    *(".m4v", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts"),
    *(".vob", ".webm", ".wmv", ".wtv", ".y4m"),
)
"""Endings that a video may have, in lower case; whether its container is read shows when it is opened (stages/video)."""
_SIDECARS = (".json", ".txt")
Kind = Literal["json", "csv", "parquet", "folder"]
KINDS: dict[str, Kind] = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
"""Endings of manifests, in lower case."""
_SYSTEM_FOLDERS = {"__macosx", "@eadir", "$recycle.bin", "lost+found", "system volume information"}
_MOST_NAMES = 5  # in a message


def folder_files(folder: str) -> Iterator[str]:
    """Names, relative to the folder, of all videos, the files that may describe them, and manifests, sorted."""
    for inside, names in _walk(folder):
        for name in names:
            path = posixpath.join(inside, name)
            if is_video(name) or _ending(name) in _SIDECARS or is_part(path):
                yield path


def is_video(name: str) -> bool:
    """Whether a file's name is that of a video."""
    return _ending(name) in VIDEO_SUFFIXES


def is_part(path: str) -> bool:
    """Whether a file of a folder, `path` from there on, is one of the manifests if it is a folder of manifests.

    Not what is .json, which describes a video, or what Spark and its like mark with _ as unfinished or their own.
    """
    return _ending(path) in KINDS.keys() - {".json"} and not any(part.startswith("_") for part in path.split("/"))


def read_folder(folder: str, settings: SourceSettings, on_notice: Callable[[str], None]) -> Iterator[RawRow]:
    """One row for each video; `on_notice` is told at the end of captions without one.

    Raises SourceError if there is no video.
    """
    n_videos = n_unused = 0
    examples: list[str] = []
    manifest = ""
    for inside, names in _walk(folder):
        sidecars = _Sidecars(names)
        for name in names:
            if is_video(name):
                beside = [posixpath.join(inside, sidecar) for sidecar in sidecars.of(_stem(name))]
                yield _row(folder, posixpath.join(inside, name), beside, settings)
                n_videos += 1
            elif not manifest and is_part(posixpath.join(inside, name)):
                manifest = posixpath.join(inside, name)
        unused = sidecars.unused()
        n_unused += len(unused)
        examples += [_with_neighbour(inside, name, names) for name in unused[: _MOST_NAMES - len(examples)]]
    endings = " ".join(VIDEO_SUFFIXES)
    found = f"{n_unused} .txt or .json files without a video of their name: {', '.join(examples)}" if n_unused else ""
    found += ", ..." if n_unused > len(examples) else ""
    if not n_videos:
        found = f" but {found}" if found else ""
        raise SourceError(f"{folder}: holds no video ({endings}){found}; give a manifest file, or another folder")
    if found:
        on_notice(f"{folder}: {found}; they are no rows. A video's ending is one of {endings}")
    if manifest:
        on_notice(f"{folder}: its videos are the rows, {quoted(manifest)} is not read; to read it, give it as the input")


class _Sidecars:
    """The files of a folder that may describe videos, by the videos' names.

    A file describes the videos of exactly its name; if there is none, those whose name differs in case or Unicode normal form
    only and that have no file of exactly theirs. The case of endings never matters.
    """

    def __init__(self, names: list[str]) -> None:
        self._stems = {_stem(name) for name in names if is_video(name)}
        self._alike: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for name in names:
            if _ending(name) in _SIDECARS:
                self._alike[_folded(_stem(name)), _ending(name)].append(name)
        self._used: set[str] = set()

    def of(self, stem: str) -> list[str]:
        """What describes the videos of a name: at most one file of each ending."""
        found = []
        for ending in _SIDECARS:
            alike = self._alike.get((_folded(stem), ending), [])
            exact = [name for name in alike if _stem(name) == stem]
            found += (exact or [name for name in alike if _stem(name) not in self._stems])[-1:]  # x.txt rather than x.TXT
        self._used.update(found)
        return found

    def unused(self) -> list[str]:
        """What describes no video that was asked for, sorted."""
        return sorted(name for names in self._alike.values() for name in names if name not in self._used)


def _walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    for inside, names in storage.walk(folder, skip=lambda name: _is_hidden(name) or name.lower() in _SYSTEM_FOLDERS):
        yield inside, [name for name in names if not _is_hidden(name)]


def _is_hidden(name: str) -> bool:
    """Also of what macOS keeps beside a file, ._x.mp4."""
    return name.startswith(".")


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


def _ending(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _folded(stem: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", stem).casefold())


def _with_neighbour(inside: str, name: str, names: list[str]) -> str:
    """A name for the message, with that of a file beside it that may be its video."""
    beside = next((other for other in names if _stem(other) == _stem(name) and _ending(other) not in _SIDECARS), None)
    shown = quoted(posixpath.join(inside, name))
    return f"{shown} (beside {quoted(beside)})" if beside else shown


def _row(folder: str, video: str, sidecars: list[str], settings: SourceSettings) -> RawRow:
    columns = settings.columns
    fields = {columns.video: video}
    for sidecar in sidecars:
        try:
            content = _read_sidecar(folder, sidecar, settings)
        except Denied as denied:
            return RawRow(fields, (denied.reason, str(denied)))
        except OSError as error:
            return RawRow(fields, ("not_found", f"{quoted(sidecar)} cannot be read: {type(error).__name__}"))
        if len(content) > settings.max_line_bytes:
            return RawRow(fields, too_long(settings.max_line_bytes))
        if _ending(sidecar) == ".txt":
            problem = encoding_problem(content)
            fields[columns.caption] = content.decode(errors="replace").strip()
        else:
            row = parse_object(content, settings.max_line_bytes)
            fields, problem = {**row.fields, columns.video: video}, row.problem
        if problem:
            return RawRow(fields, problem)
    if not sidecars:
        stem = _stem(posixpath.basename(video))
        return RawRow(fields, ("missing_field", f"no caption: {quoted(f'{stem}.txt')} should hold it, or a .json the fields"))
    return RawRow(fields)


def _read_sidecar(folder: str, name: str, settings: SourceSettings) -> bytes:
    """At most `max_line_bytes` + 1 bytes of a file beside a video, without byte order mark. Raises Denied, OSError."""
    file = storage.join(folder, name)
    if storage.local_path(folder) is not None:
        file = check_local(file, allowed_roots(folder, settings), name)
    content = storage.read_bytes(file, end=settings.max_line_bytes + 1)
    return content.removeprefix(b"\xef\xbb\xbf")
