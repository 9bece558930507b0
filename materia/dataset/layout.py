"""Where things lie in an output, and the records that say what is whole: commits/NNNNNN.json and dataset.json.

    shards/000000.tar  index/000000.parquet  instances/000000.parquet  rejects/000000.parquet  commits/000000.json
    dataset.json  commits/ledger/000000.jsonl  _run/

A reader trusts the files that a commit record names, and no others; it is written last. Files of a chunk that was built again
have the number of that start in their names (`shards/000000-7.tar`), so that until its record is replaced the old ones hold.
The ledger repeats the records of a thousand chunks in one file, once these are all there: nobody shall read a hundred thousand
small objects one after the other. `_run/` is no result.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args

import msgspec
from msgspec import Meta

from materia.base import storage
from materia.base.errors import UserError
from materia.dataset.documents import VERSION, Count, Hash, Text, Version

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
_FILE = "^(shards/[0-9]{6,}(-[0-9]+)?\\.tar|(index|instances|rejects)/[0-9]{6,}(-[0-9]+)?\\.parquet)$"
LEDGER = "ledger"
LEDGER_CHUNKS = 1000
"""Whose records are in one file of the ledger: chunks 0 .. 999 in the first."""
_AT_ONCE = 16  # requests to a store
_T = TypeVar("_T")
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
        return self.path("instances") in self.files

    @property
    def generation(self) -> int:
        """0, or of a chunk that was built again the number of the start that did so."""
        return max((int(number) for name in self.files for number in re.findall(r"-(\d+)\.", name)), default=0)

    def path(self, folder: Folder) -> str:
        """Path of its file in a folder, whether it has one or not, from the output's address on."""
        return relative_path(folder, self.chunk, self.generation)


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


def relative_path(folder: Folder, chunk: int, generation: int = 0) -> str:
    """Path of a chunk's file from the output's address on; a chunk's record has no generation."""
    built_again = f"-{generation}" if generation and folder != "commits" else ""
    return f"{folder}/{chunk:06d}{built_again}.{_SUFFIXES[folder]}"


def record_address(out: str, chunk: int) -> str:
    """Address of a chunk's commit record."""
    return storage.join(out, relative_path("commits", chunk))


def require_output(out: str) -> None:
    """Raises OutputError for an address where no job has written."""
    if not storage.exists(storage.join(out, "dataset.json")) and not committed(out):
        raise OutputError(f"{out} is no output: it has neither dataset.json nor commits/")


def committed(out: str) -> set[int]:
    """Numbers of the chunks that are whole; costs a request for each thousand."""
    names = (re.fullmatch(r"(\d{6,})\.json", name) for name in storage.listdir(storage.join(out, "commits")))
    return {int(name[1]) for name in names if name}


def commits(out: str) -> Iterator[Commit]:
    """Commit records, by chunk. Raises OutputError naming a record that cannot be read."""
    for _, record in _records(out):
        if isinstance(record, str):
            raise OutputError(record)
        yield record


def records_of(out: str, chunks: list[int]) -> Iterator[Commit]:
    """The chunks' own records, in the order given. Raises OutputError."""
    return _side_by_side(out, lambda chunk: read_commit(out, chunk), chunks)


def write_ledger(out: str, number: int, records: Iterable[Commit]) -> None:
    """Write a file of the ledger: the records of all its chunks, one a line, in order."""
    lines = [msgspec.json.encode(record) + b"\n" for record in sorted(records, key=lambda record: record.chunk)]
    storage.atomic_write(ledger_address(out, number), b"".join(lines))


def ledger_address(out: str, number: int) -> str:
    """Address of the ledger's file for chunks `LEDGER_CHUNKS` * number and those after it."""
    return storage.join(out, "commits", LEDGER, f"{number:06d}.jsonl")


def in_ledger(out: str) -> list[int]:
    """Numbers of the ledger's files."""
    names = storage.listdir(storage.join(out, "commits", LEDGER))
    return [int(name.removesuffix(".jsonl")) for name in names if re.fullmatch(r"\d{6,}\.jsonl", name)]


def read_ledger(out: str, number: int) -> list[Commit]:
    """Records in a file of the ledger. Raises OutputError."""
    address = ledger_address(out, number)
    try:
        return [_COMMITS.decode(line) for line in storage.read_bytes(address).splitlines()]
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise OutputError(f"{address} cannot be read: {error}; it only repeats records: delete it") from None


def _ledger(out: str) -> Iterator[Commit]:
    for records in _side_by_side(out, lambda number: read_ledger(out, number), in_ledger(out)):
        yield from records


def _side_by_side(out: str, read: Callable[[int], _T], numbers: list[int]) -> Iterator[_T]:
    """What `read` gives for each number, in order; a store is asked for several at once."""
    if storage.local_path(out) is not None:
        yield from map(read, numbers)
        return
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for first in range(0, len(numbers), LEDGER_CHUNKS):
            yield from threads.map(read, numbers[first : first + LEDGER_CHUNKS])


def index_sha256(records: Iterable[Commit]) -> str:
    """Of the index files that commit records name: which samples there are, and what is known of them."""
    digest = hashlib.sha256()
    for record in records:
        name = record.path("index")
        digest.update(f"{name} {record.files[name].sha256}\n".encode())
    return digest.hexdigest()


class Inspection(NamedTuple):
    """What is found of chunks that have a commit record: which are `whole`; (chunk, what is wrong) of those with a file that is
    gone or of another size, or a record that cannot be read; addresses of files of whole chunks that no record names any more.
    """

    whole: set[int]
    broken: list[tuple[int, str]]
    replaced: list[str]


def inspect(out: str) -> Inspection:
    """Look at names and sizes of all files; what they hold, `validate` reads. Costs a few requests for each thousand chunks."""
    folders = [folder for folder in FOLDERS if folder != "commits"]
    listed = _side_by_side(out, lambda number: storage.sizes(storage.join(out, folders[number])), list(range(len(folders))))
    sizes = {f"{folder}/{name}": size for folder, files in zip(folders, listed, strict=True) for name, size in files.items()}
    found = Inspection(set(), [], [])
    named: set[str] = set()
    for chunk, record in _records(out):
        problem = record if isinstance(record, str) else _problem(out, record, sizes)
        if problem:
            found.broken.append((chunk, problem))
        elif isinstance(record, Commit):
            found.whole.add(chunk)
            named.update(record.files)
    for name in sizes:
        chunk_of = re.fullmatch(r"[a-z]+/(\d{6,})(-\d+)?\.[a-z]+", name)
        if chunk_of and name not in named and int(chunk_of[1]) in found.whole:
            found.replaced.append(storage.join(out, name))
    return found


def _problem(out: str, record: Commit, sizes: dict[str, int]) -> str:
    for name, file in record.files.items():
        if name not in sizes:
            return f"{storage.join(out, name)} is gone"
        if sizes[name] != file.bytes:
            return f"{storage.join(out, name)} has {sizes[name]} bytes, {file.bytes} when it was committed"
    return ""


def _records(out: str) -> Iterator[tuple[int, Commit | str]]:
    """(chunk, its record, or why that cannot be read), in order."""
    there = committed(out)
    known = {record.chunk: record for record in _ledger(out) if record.chunk in there}

    def read(chunk: int) -> tuple[int, Commit | str]:
        try:
            return chunk, known.pop(chunk, None) or read_commit(out, chunk)
        except OutputError as error:
            return chunk, str(error)

    return _side_by_side(out, read, sorted(there))


def read_commit(out: str, chunk: int) -> Commit:
    """Raises OutputError."""
    return _read(out, relative_path("commits", chunk), _COMMITS)


def read_info(out: str) -> DatasetInfo | None:
    """dataset.json; None where there is none. Raises OutputError when it cannot be understood."""
    return _read(out, "dataset.json", _INFOS) if storage.exists(storage.join(out, "dataset.json")) else None


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


# Made here: msgspec crashes where threads decode a type for the first time together.
_VERSIONED, _COMMITS = msgspec.json.Decoder(_Versioned), msgspec.json.Decoder(Commit)
_INFOS = msgspec.json.Decoder(DatasetInfo)


def _read(out: str, name: str, decoder: msgspec.json.Decoder[_Record]) -> _Record:
    advice = f"run: materia validate {out}"
    try:
        data = storage.read_bytes(storage.join(out, name))
        version = _VERSIONED.decode(data).schema
        if version not in (known := get_args(Version)):
            readable = " and ".join(map(str, known))
            raise OutputError(f"{out} was written with schema {version}, this version reads {readable}; update prima-materia")
        return decoder.decode(data)
    except OSError as error:
        raise OutputError(f"{storage.join(out, name)} cannot be read: {error}; {advice}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise OutputError(f"{storage.join(out, name)}: {error}; {advice}") from None
