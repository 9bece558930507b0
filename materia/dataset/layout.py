"""Where things lie in an output, and the records that say what is whole: commits/NNNNNN.json and dataset.json.

    shards/000000.tar  index/000000.parquet  instances/000000.parquet  rejects/000000.parquet  commits/000000.json
    dataset.json  _run/

A reader trusts the files that a commit record names, and no others; it is written last. `_run/` is no result.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta

from materia.base import storage
from materia.base.errors import UserError
from materia.dataset.documents import Count, Hash, Text
from materia.dataset.schema import VERSION, Version

TableName = Literal["index", "instances", "rejects"]
Folder = Literal["shards", TableName, "commits"]
FOLDERS: tuple[Folder, ...] = get_args(Folder)
_SUFFIXES: dict[Folder, str] = {
    "shards": "tar",
    "index": "parquet",
    "instances": "parquet",
    "rejects": "parquet",
    "commits": "json",
}
_FILE = "^(shards/[0-9]{6,}\\.tar|(index|instances|rejects)/[0-9]{6,}\\.parquet)$"
_Record = TypeVar("_Record", bound=msgspec.Struct)


class OutputError(UserError):
    """An output that cannot be read as asked; the message names it and says why."""


class FileHash(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size and SHA-256 (hex) of a committed file."""

    bytes: Count
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Commit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The record that chunk `chunk` is whole: rows first_row .. first_row + rows - 1 are in `files` (relative path -> hash).

    `rows` = `samples` + `rejections`; no tar if there is no sample, no instances if an earlier version wrote the chunk.
    """

    schema: Version = VERSION
    chunk: Count
    rows: Annotated[int, Meta(ge=1)]
    samples: Count
    rejections: Count
    first_row: Count
    files: dict[Annotated[str, Meta(pattern=_FILE)], FileHash]

    @property
    def has_instances(self) -> bool:
        """Whether there is a table of the chunk's instances; earlier versions wrote none."""
        return relative_path("instances", self.chunk) in self.files


class DatasetInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """dataset.json, written when a job first starts, and again when rows are appended: the frozen plan's size and hash, and the
    configuration that can change results, by section; stage -> fingerprint of its settings, prompt and weights.
    """

    schema: Version = VERSION
    writer: Text = "prima-materia"
    version: Text
    rows: Count
    chunks: Count
    rows_per_chunk: Annotated[int, Meta(ge=1)]
    plan_sha256: Text
    config: dict[str, Any]
    prompt_sha: Hash
    stage_sha: dict[str, str]


def relative_path(folder: Folder, chunk: int) -> str:
    """Path of a chunk's file from the output's address on."""
    return f"{folder}/{chunk:06d}.{_SUFFIXES[folder]}"


def address_of(out: str, folder: Folder, chunk: int) -> str:
    """Address of a chunk's file."""
    return storage.join(out, relative_path(folder, chunk))


def require_output(out: str) -> None:
    """Raises OutputError for an address where no job has written."""
    if not storage.exists(storage.join(out, "dataset.json")) and not committed(out):
        raise OutputError(f"{out} is no output: it has neither dataset.json nor commits/")


def committed(out: str) -> set[int]:
    """Numbers of the chunks that are whole; costs one listing."""
    names = (re.fullmatch(r"(\d{6,})\.json", name) for name in storage.listdir(storage.join(out, "commits")))
    return {int(name[1]) for name in names if name}


def commits(out: str) -> Iterator[Commit]:
    """Commit records, by chunk. Raises OutputError naming a record that cannot be read."""
    for chunk in sorted(committed(out)):
        yield read_commit(out, chunk)


def index_sha256(records: Iterable[Commit]) -> str:
    """Of the index files that commit records name: which samples there are, and what is known of them."""
    digest = hashlib.sha256()
    for record in records:
        name = relative_path("index", record.chunk)
        digest.update(f"{name} {record.files[name].sha256}\n".encode())
    return digest.hexdigest()


def incomplete(out: str) -> Iterator[tuple[int, str]]:
    """(chunk, what is wrong) of chunks that have a commit record but a file of which is gone or of another size.

    Costs four listings; what the files hold, `validate` reads. A record that cannot be read is wrong, too.
    """
    sizes = {
        f"{folder}/{name}": n_bytes
        for folder in FOLDERS
        if folder != "commits"
        for name, n_bytes in storage.sizes(storage.join(out, folder)).items()
    }
    for chunk in sorted(committed(out)):
        try:
            files = read_commit(out, chunk).files
        except OutputError as error:
            yield chunk, str(error)
            continue
        for name, file in files.items():
            if name not in sizes:
                yield chunk, f"{storage.join(out, name)} is gone"
                break
            if sizes[name] != file.bytes:
                yield chunk, f"{storage.join(out, name)} has {sizes[name]} bytes, {file.bytes} when it was committed"
                break


def read_commit(out: str, chunk: int) -> Commit:
    """Raises OutputError."""
    return _read(out, relative_path("commits", chunk), Commit)


def read_info(out: str) -> DatasetInfo | None:
    """dataset.json; None where there is none. Raises OutputError when it cannot be understood."""
    return _read(out, "dataset.json", DatasetInfo) if storage.exists(storage.join(out, "dataset.json")) else None


def write_info(out: str, info: DatasetInfo) -> None:
    """Write dataset.json, once, when a job first starts. Raises FileExistsError when there is another one already."""
    address = storage.join(out, "dataset.json")
    data = encode_record(info)
    if storage.exists(address):
        if storage.read_bytes(address) != data:
            raise FileExistsError(f"{address} was made by another job or configuration; choose another output")
        return
    storage.atomic_write(address, data)


def replace_info(out: str, info: DatasetInfo) -> None:
    """Write dataset.json anew: the plan has become longer. Who reads sees the old one or this."""
    storage.atomic_write(storage.join(out, "dataset.json"), encode_record(info))


def encode_record(record: msgspec.Struct) -> bytes:
    """A record as it is written, for people too."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


class _Versioned(msgspec.Struct):
    schema: int


def _read(out: str, name: str, kind: type[_Record]) -> _Record:
    advice = f"run: materia validate {out}"
    try:
        data = storage.read_bytes(storage.join(out, name))
        version = msgspec.json.decode(data, type=_Versioned).schema
        if version not in (known := get_args(Version)):
            readable = " and ".join(map(str, known))
            raise OutputError(f"{out} was written with schema {version}, this version reads {readable}; update prima-materia")
        return msgspec.json.decode(data, type=kind)
    except OSError as error:
        raise OutputError(f"{storage.join(out, name)} cannot be read: {error}; {advice}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise OutputError(f"{storage.join(out, name)}: {error}; {advice}") from None
