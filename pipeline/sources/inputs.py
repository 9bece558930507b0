"""Finding the input, telling its format, and reading it as a stream of rows."""

from __future__ import annotations

import hashlib
import posixpath
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from materia.base import storage
from materia.base.settings_file import set_argument
from pipeline.sources.access import absolute, split_scheme
from pipeline.sources.csv_text import read_csv
from pipeline.sources.folder import folder_files, read_folder
from pipeline.sources.json_text import read_json
from pipeline.sources.normalise import normalise
from pipeline.sources.parquet import read_parquet
from pipeline.sources.rows import RawRow, SourceError
from pipeline.sources.settings import SourceSettings
from stages.records import Clip, Rejection

Kind = Literal["json", "csv", "parquet", "folder"]

_KINDS: dict[str, Kind] = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
_READERS: dict[Kind, Callable[[Any, SourceSettings, str], Iterator[RawRow]]] = {
    "json": read_json,
    "csv": read_csv,
    "parquet": read_parquet,
}
_VERSION_FIELDS = ("ETag", "etag", "mtime", "LastModified", "created")  # what file systems call it, best first


@dataclass(frozen=True)
class Source:
    """An input that was found: its absolute address, its kind, and the folder at which relative addresses start."""

    address: str
    kind: Kind
    root: str


def find_source(address: str, settings: SourceSettings) -> Source:
    """Look at the input. Raises SourceError if it is missing, no regular file or folder, of unknown format or scheme."""
    address = absolute(address, str(Path.cwd()))
    for scheme in (split_scheme(address)[0], *settings.schemes):
        _check_scheme(scheme, address, settings)
    info = _info(address)
    if info["type"] == "directory":
        return Source(address, "folder", address)
    if not stat.S_ISREG(info.get("mode", stat.S_IFREG)):
        raise SourceError(f"{address}: neither a regular file nor a folder")
    suffix = posixpath.splitext(address)[1].lower()
    if suffix not in _KINDS:
        raise SourceError(f"{address}: unknown format {suffix!r}; known: {', '.join(_KINDS)}, or a folder of videos")
    return Source(address, _KINDS[suffix], _parent(address))


def read_rows(
    source: Source, settings: SourceSettings, on_notice: Callable[[str], None] = lambda notice: None
) -> Iterator[Clip | Rejection]:
    """Rows of the input as clips and rejections, in order, duplicates included; holds few rows (Parquet: a batch) at a time.

    `on_notice` is told at the end what of a folder is no row though it may have been meant as one. Raises SourceError on the
    way if the input as a whole cannot be read.
    """
    for row, raw in enumerate(_read(source, settings, on_notice)):
        yield normalise(row, raw, source.root, settings)


def stamp(source: Source) -> dict[str, Any]:
    """A cheap mark of the input's state: {files, bytes, sha256 of names, sizes and modification times (or ETags)}.

    Contents are not read: a touched but equal file has another stamp. Raises SourceError if files vanish meanwhile.
    """
    names = folder_files(source.address) if source.kind == "folder" else [""]
    files = n_bytes = 0
    digest = hashlib.sha256()
    try:
        for name in names:
            info = storage.info(f"{source.address}/{name}" if name else source.address)
            version = next((info[field] for field in _VERSION_FIELDS if field in info), "")
            digest.update(repr((name, info["size"], str(version))).encode())
            files += 1
            n_bytes += info["size"] or 0
    except OSError as error:
        raise SourceError(f"{source.address}: cannot be read: {error}") from error
    return {"files": files, "bytes": n_bytes, "sha256": digest.hexdigest()}


def _read(source: Source, settings: SourceSettings, on_notice: Callable[[str], None]) -> Iterator[RawRow]:
    try:
        if source.kind == "folder":
            yield from read_folder(source.address, settings, on_notice)
            return
        with storage.open_read(source.address) as file:
            yield from _READERS[source.kind](file, settings, source.address)
    except OSError as error:
        raise SourceError(f"{source.address}: cannot be read: {error}") from error


def _check_scheme(scheme: str, address: str, settings: SourceSettings) -> None:
    if scheme not in settings.schemes:
        wider = set_argument("source.schemes", [*settings.schemes, scheme])
        raise SourceError(f"{address}: scheme {scheme!r} is not allowed; to allow it: {wider}")
    try:
        storage.check_scheme(scheme)
    except ValueError as error:
        raise SourceError(f"source.schemes: {scheme!r} cannot be used here: {error}") from None


def _info(address: str) -> dict[str, Any]:
    try:
        return storage.info(address)
    except FileNotFoundError:
        raise SourceError(f"{address}: no such file or folder") from None
    except OSError as error:
        raise SourceError(f"{address}: cannot be seen: {error}") from None


def _parent(address: str) -> str:
    scheme, path = split_scheme(address)
    parent = posixpath.dirname(path)
    return parent if scheme == "file" else f"{scheme}://{parent}"
