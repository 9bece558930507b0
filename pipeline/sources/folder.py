"""Rows of a folder of videos: `x.mp4` with its caption in `x.txt`, or its fields in `x.json`, or both.

Sorted by name, folder by folder, so that the order is the same everywhere. Symbolic links to folders are not followed (they may
loop); a link to a file is judged like any video, on its real path.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from materia.base import storage
from pipeline.sources.access import Denied, allowed_roots, check_local, quoted
from pipeline.sources.rows import RawRow, SourceError, encoding_problem, too_long
from pipeline.sources.settings import SourceSettings
from pipeline.sources.text import parse_object

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".ts", ".mts", ".gif")
_SIDECARS = (".json", ".txt")


def folder_files(folder: str) -> Iterator[str]:
    """Names, relative to the folder, of all videos and the files that may describe them, sorted."""
    for inside, names in storage.walk(folder):
        for name in names:
            if posixpath.splitext(name)[1].lower() in (*VIDEO_SUFFIXES, *_SIDECARS):
                yield posixpath.join(inside, name)


def read_folder(folder: str, settings: SourceSettings) -> Iterator[RawRow]:
    """One row for each video. Raises SourceError if there is none."""
    n_videos = 0
    for inside, names in storage.walk(folder):
        present = set(names)
        for name in names:
            stem, suffix = posixpath.splitext(name)
            if suffix.lower() in VIDEO_SUFFIXES:
                sidecars = [posixpath.join(inside, stem + end) for end in _SIDECARS if stem + end in present]
                yield _row(folder, posixpath.join(inside, name), sidecars, settings)
                n_videos += 1
    if not n_videos:
        raise SourceError(f"{folder}: holds no video ({', '.join(VIDEO_SUFFIXES)}); give a manifest file, or another folder")


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
        if sidecar.endswith(".txt"):
            problem = encoding_problem(content)
            fields[columns.caption] = content.decode(errors="replace").strip()
        else:
            row = parse_object(content, settings.max_line_bytes)
            fields, problem = {**row.fields, columns.video: video}, row.problem
        if problem:
            return RawRow(fields, problem)
    if not sidecars:
        stem = posixpath.splitext(posixpath.basename(video))[0]
        return RawRow(fields, ("missing_field", f"no caption: {quoted(f'{stem}.txt')} should hold it, or a .json the fields"))
    return RawRow(fields)


def _read_sidecar(folder: str, name: str, settings: SourceSettings) -> bytes:
    """At most `max_line_bytes` + 1 bytes of a file beside a video, without byte order mark. Raises Denied, OSError."""
    file = storage.join(folder, name)
    if storage.local_path(folder) is not None:
        file = check_local(file, allowed_roots(folder, settings), name)
    content = storage.read_bytes(file, end=settings.max_line_bytes + 1)
    return content.removeprefix(b"\xef\xbb\xbf")
