"""Finding the input, telling its format, and reading it as a stream of rows."""

from __future__ import annotations

import hashlib
import itertools
import posixpath
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from materia.base import storage
from materia.base.settings_file import set_argument
from pipeline.sources.access import absolute, quoted, split_scheme
from pipeline.sources.csv_text import read_csv
from pipeline.sources.folder import KINDS, Kind, folder_files, is_part, is_video, read_folder
from pipeline.sources.json_text import read_json
from pipeline.sources.normalise import normalise
from pipeline.sources.parquet import read_parquet
from pipeline.sources.rows import RawRow, SourceError
from pipeline.sources.settings import SourceSettings
from stages.records import Clip, Rejection

_READERS: dict[Kind, Callable[[Any, SourceSettings, str], Iterator[RawRow]]] = {"json": read_json, "csv": read_csv}
_VERSION_FIELDS = ("ETag", "etag", "mtime", "LastModified", "created")  # what file systems call it, best first
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class InputFile:
    """A manifest file, or a folder of videos as a whole (`name` is "" then).

    `name` is relative to the input's root. `bytes` and `version` (ETag or time of the last change) mark its state; contents are
    not read, so a touched but equal file has another version.
    """

    name: str
    kind: Kind
    bytes: int
    version: str


@dataclass(frozen=True)
class Source:
    """An input that was found: its absolute address, its files in the order in which their rows are numbered, and `root`.

    Relative addresses of videos start at the folder of the manifest file that names them, and are recorded from `root` on: the
    file's folder, the folder that is the input, or of a pattern the folder before its first wildcard. `notice`: what of a
    folder is not read though it may have been meant.
    """

    address: str
    root: str
    files: tuple[InputFile, ...]
    notice: str = ""

    def address_of(self, file: InputFile) -> str:
        """Address of one of the files."""
        return storage.join(self.root, file.name) if file.name else self.root


def find_source(address: str, settings: SourceSettings) -> Source:
    """Look at the input: a manifest file, a pattern (`part-*.parquet`), a folder of manifest files, a folder of videos.

    Raises SourceError if it is missing, no regular file or folder, of unknown format or scheme.
    """
    address = absolute(address, str(Path.cwd()))
    for scheme in (split_scheme(address)[0], *settings.schemes):
        _check_scheme(scheme, address, settings)
    try:
        info = storage.info(address)
    except FileNotFoundError:
        if _GLOB.search(address):
            return _matching(address)
        raise SourceError(f"{address}: no such file or folder") from None
    except OSError as error:
        raise SourceError(f"{address}: cannot be seen: {error}") from None
    if info["type"] == "directory":
        return _inside(address)
    return Source(address, _parent(address), (_file(address, posixpath.basename(address), info),))


def read_rows(
    source: Source, settings: SourceSettings, on_notice: Callable[[str], None] = lambda notice: None
) -> Iterator[Clip | Rejection]:
    """Rows of the input as clips and rejections, in order, duplicates included; holds few rows (Parquet: a batch) at a time.

    `on_notice` is told what of a folder is no row though it may have been meant as one. Raises SourceError on the
    way if the input as a whole cannot be read.
    """
    if source.notice:
        on_notice(source.notice)
    numbers = itertools.count()
    for file in source.files:
        folder = posixpath.dirname(file.name)
        for raw in read_file(source, file, settings, on_notice):
            yield normalise(next(numbers), raw, source.root, settings, folder)


def read_file(
    source: Source,
    file: InputFile,
    settings: SourceSettings,
    on_notice: Callable[[str], None] = lambda notice: None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[RawRow]:
    """Rows of one file as the manifest has them. Raises SourceError on the way if it cannot be read.

    `share` (k, n), of Parquet only: the k-th of n parts that together are the file, one after the other.
    """
    address = source.address_of(file)
    try:
        if file.kind == "folder":
            yield from read_folder(address, settings, on_notice)
            return
        with storage.open_read(address) as opened:
            if file.kind == "parquet":
                yield from read_parquet(opened, settings, address, share)
            else:
                yield from _READERS[file.kind](opened, settings, address)
    except OSError as error:
        raise SourceError(f"{address}: cannot be read: {error}") from error


def _matching(address: str) -> Source:
    """The manifest files that a pattern matches, sorted by name."""
    root = _parent(address[: _GLOB.search(address).start()] + "*")  # type: ignore[union-attr]  # the caller has looked
    try:
        found = storage.glob(address)
    except OSError as error:
        raise SourceError(f"{address}: cannot be seen: {error}") from None
    files = [
        _file(one, absolute(one, root).removeprefix(root).lstrip("/"), info)
        for one, info in found.items()
        if info["type"] != "directory"
    ]
    if not files:
        raise SourceError(f"{address}: no file has such a name" + ("; what has one is a folder" if found else ""))
    return Source(address, root, tuple(sorted(files, key=lambda file: file.name)))


def _inside(folder: str) -> Source:
    """A folder: the manifest files below it, or itself if there is any video."""
    n_bytes = n_videos = 0
    unread = ""
    digest = hashlib.sha256()
    manifests = []
    try:
        for name in folder_files(folder):
            if is_part(name):
                manifests.append(name)
                continue
            info = storage.info(storage.join(folder, name))
            digest.update(repr((name, info["size"], _version(info))).encode())
            n_bytes += info["size"] or 0
            n_videos += is_video(name)
            if not unread and name.endswith(".json"):
                unread = f"{folder}: .json files are not read, {quoted(name)}; to read them, give a pattern, {folder}/*.json"
        if manifests and not n_videos:
            infos = ((name, storage.join(folder, name)) for name in sorted(manifests))
            return Source(folder, folder, tuple(_file(address, name, storage.info(address)) for name, address in infos), unread)
    except OSError as error:
        raise SourceError(f"{folder}: cannot be read: {error}") from error
    return Source(folder, folder, (InputFile("", "folder", n_bytes, digest.hexdigest()),))


def _file(address: str, name: str, info: dict[str, Any]) -> InputFile:
    if not stat.S_ISREG(info.get("mode", stat.S_IFREG)):
        raise SourceError(f"{address}: neither a regular file nor a folder")
    suffix = posixpath.splitext(name)[1].lower()
    if suffix not in KINDS:
        known = ", ".join(KINDS)
        raise SourceError(f"{address}: unknown format {suffix!r}; known: {known}, a pattern of such files, or a folder")
    return InputFile(name, KINDS[suffix], info["size"] or 0, _version(info))


def _version(info: dict[str, Any]) -> str:
    return str(next((info[field] for field in _VERSION_FIELDS if field in info), ""))


def _check_scheme(scheme: str, address: str, settings: SourceSettings) -> None:
    if scheme not in settings.schemes:
        wider = set_argument("source.schemes", [*settings.schemes, scheme])
        raise SourceError(f"{address}: scheme {scheme!r} is not allowed; to allow it: {wider}")
    try:
        storage.check_scheme(scheme)
    except ValueError as error:
        raise SourceError(f"source.schemes: {scheme!r} cannot be used here: {error}") from None


def _parent(address: str) -> str:
    scheme, path = split_scheme(address)
    parent = posixpath.dirname(path)
    return parent if scheme == "file" else f"{scheme}://{parent}"
