"""Write one planned chunk: a tar of samples, its tables, and last the commit record that makes them count.

In: the chunk's rows in manifest order, records whose clips are still at their address. Out: `shards/NNNNNN.tar`, `index/`,
`instances/` and `rejects/NNNNNN.parquet`, `commits/NNNNNN.json`. Equal rows give equal bytes: fixed tar headers, member
order, field order and Parquet options. A reader trusts only what a commit record names, so a crash leaves nothing that looks
whole.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from materia.base import retries, storage
from materia.base.conditional import Conflict
from materia.base.errors import StorageFailed, lasting_trouble
from materia.dataset.documents import Provenance, document_of, encode_document
from materia.dataset.extra import ExtraType
from materia.dataset.layout import Commit, FileHash, encode_record, read_commit, record_address, relative_path
from materia.dataset.rows import Member, index_row, instance_rows, reject_row
from materia.dataset.schema import INSTANCES, REJECTS, index_schema
from materia.dataset.tables import parquet_table
from stages.records import Rejection, Row, Sample, reject

PASSING = "transient_exhausted"
"""The reason of rows that may succeed another time."""
_COPY_BYTES = 1 << 20


class LostClip(Exception):
    """The clip is no longer what was processed; `transient` says whether another try may help."""

    def __init__(self, reason: str, message: str, transient: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.transient = transient


def write_chunk(
    out: str,
    chunk: int,
    rows: Iterable[Row],
    *,
    provenance: Provenance,
    extra: Mapping[str, ExtraType] | None = None,
    generation: int = 0,
    still_ours: Callable[[], object] = lambda: None,
) -> Commit:
    """Write and commit a chunk. A chunk that has a commit record is left as it is.

    `rows` are consecutive manifest rows in order; they are used up one by one, so memory holds one sample. A clip that cannot
    be read any more, or a sample that breaks the contract, becomes a rejection. `extra`: the user's own columns that the index
    holds, name -> type, the same for every chunk of an output; None: none. `generation`, if not 0: of a chunk that is built
    again; its files get new names and its record is replaced, if fewer rows than before failed for reasons that may pass.
    `still_ours` raises if another job took over; it is asked before anything is replaced that another one may have written.
    Raises ValueError when rows are missing or out of order (an error of the caller), OSError when the output cannot be written.
    """
    record = record_address(out, chunk)
    seen = storage.version(record)
    old = read_commit(out, chunk) if seen is not None else None
    if old is not None and generation in (0, old.generation):
        return old
    generation = generation if old is not None else 0
    files: dict[str, FileHash] = {}
    shard, extra = relative_path("shards", chunk, generation), extra or {}
    with storage.staged(storage.join(out, shard)) as staging:
        tar = Tar(staging.file)
        tables = _pack_all(tar, rows, shard, provenance, extra)
        if not tables.numbers or tables.numbers != list(range(tables.numbers[0], tables.numbers[0] + len(tables.numbers))):
            raise ValueError(f"chunk {chunk} needs consecutive manifest rows, got {_abridged(tables.numbers)}")
        if old is not None and _may_pass(row["reason"] for row in tables.rejects) >= _may_pass(_reasons(out, old)):
            return old
        if tables.samples:
            tar.finish()
            files[shard] = _hash(staging.file)
            _publish(staging, storage.join(out, shard), still_ours)
    if not tables.samples and storage.exists(storage.join(out, shard)):  # of a commit that ended while its clips were there
        still_ours()
        storage.remove(storage.join(out, shard))
    for name, records, schema in (
        (relative_path("index", chunk, generation), tables.samples, index_schema(extra)),
        (relative_path("instances", chunk, generation), tables.instances, INSTANCES),
        (relative_path("rejects", chunk, generation), tables.rejects, REJECTS),
    ):
        data = parquet_bytes(records, schema)
        files[name] = _hash(io.BytesIO(data))
        _write(storage.join(out, name), data, None, still_ours)
    commit = Commit(
        chunk=chunk,
        rows=len(tables.numbers),
        samples=len(tables.samples),
        rejections=len(tables.rejects),
        first_row=tables.numbers[0],
        files=dict(sorted(files.items())),
    )
    _write(record, encode_record(commit), seen, still_ours)
    return commit


class _Tables(NamedTuple):
    """Rows of a chunk's tables, and the manifest rows of all in the order in which they came."""

    samples: list[dict[str, Any]]
    instances: list[dict[str, Any]]
    rejects: list[dict[str, Any]]
    numbers: list[int]


def _pack_all(tar: Tar, rows: Iterable[Row], shard: str, provenance: Provenance, extra: Mapping[str, ExtraType]) -> _Tables:
    """Put samples into the tar, one by one."""
    tables = _Tables([], [], [], [])
    for row in rows:
        packed = _pack(tar, row, shard, provenance, extra) if isinstance(row, Sample) else row
        if isinstance(packed, Rejection):
            tables.rejects.append(reject_row(packed))
            tables.numbers.append(packed.row)
        else:
            tables.samples.append(packed.row)
            tables.instances.extend(packed.instances)
            tables.numbers.append(packed.row["row"])
    return tables


def _write(address: str, data: bytes, replaces: str | None, still_ours: Callable[[], object]) -> None:
    with storage.staged(address) as staging:
        staging.file.write(data)
        _publish(staging, address, still_ours, replaces)


def _publish(staging: storage.Staged, address: str, still_ours: Callable[[], object], replaces: str | None = None) -> None:
    """Publish a file where there is none (or the version that it `replaces`). What else is found there is of a job that ended
    before it committed, or that was stopped and does not know yet that this one took over: it is replaced as it was found.
    """
    try:
        staging.publish(replaces)
    except Conflict:
        still_ours()
        staging.publish(storage.version(address))


def _reasons(out: str, commit: Commit) -> list[str]:
    """Of the rejections of a committed chunk."""
    table = parquet_table(storage.read_bytes(storage.join(out, commit.path("rejects"))), ["reason"])
    reasons: list[str] = table["reason"].to_pylist()
    return reasons


def _may_pass(reasons: Iterable[str]) -> int:
    return sum(reason == PASSING for reason in reasons)


class Tar:
    """A tar with nothing in its headers but names and sizes; `file` is seekable, so a half-written sample can be taken back.

    Plain USTAR blocks; only a name over 100 bytes or a clip over 8 GiB adds a POSIX (PAX) record, which every reader knows.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def add(self, name: str, size: int, blocks: Iterable[bytes]) -> int:
        """Append a member whose `blocks` add up to `size` bytes; gives the offset of its first data byte."""
        info = tarfile.TarInfo(name)
        info.size = size
        self.file.write(info.tobuf(tarfile.PAX_FORMAT))
        offset = self.file.tell()
        for block in blocks:
            self.file.write(block)
        self.file.write(bytes(-size % tarfile.BLOCKSIZE))
        return offset

    def rewind(self, offset: int) -> None:
        """Forget everything from `offset` on."""
        self.file.seek(offset)
        self.file.truncate()

    def finish(self) -> None:
        """Write the end of the archive: two empty blocks, filled up to a whole record as tar does."""
        self.file.write(bytes(2 * tarfile.BLOCKSIZE))
        self.file.write(bytes(-self.file.tell() % tarfile.RECORDSIZE))


class _Packed(NamedTuple):
    """Of a sample that is in the tar: its row of the index, and its rows of the instances."""

    row: dict[str, Any]
    instances: list[dict[str, Any]]


def _pack(tar: Tar, sample: Sample, shard: str, provenance: Provenance, extra: Mapping[str, ExtraType]) -> _Packed | Rejection:
    """Append a sample's members and give its rows; or a rejection, and the tar is as it was."""
    try:
        document = document_of(sample, provenance)
        text = encode_document(document)
    except ValueError as error:
        return reject(sample, "background", "internal_error", f"the finished sample breaks the contract: {error}")
    start = tar.file.tell()
    try:
        members = [_add_clip(tar, sample, document.video.member)]
    except LostClip as lost:
        tar.rewind(start)
        return reject(sample, "source", lost.reason, str(lost))
    parts = [
        ("json", text),
        *((f"frame{index}.jpg", frame.jpeg) for index, frame in enumerate(sample.frames)),
        *((f"ref{index:02d}.png", instance.png) for index, instance in enumerate(sample.instances)),
    ]
    if sample.background is not None:
        parts.append(("background.png", sample.background.png))
    members += [Member(name, tar.add(f"{sample.clip.key}.{name}", len(data), [data]), len(data)) for name, data in parts]
    return _Packed(index_row(document, shard, members, extra), instance_rows(document))


def _add_clip(tar: Tar, sample: Sample, name: str) -> Member:
    """Append the clip: re-encoded bytes if it was cut, else its file's own. Raises LostClip, after some attempts."""
    member = f"{sample.clip.key}.{name}"
    if sample.media is not None:
        return Member(name, tar.add(member, len(sample.media), [sample.media]), len(sample.media))
    start = tar.file.tell()

    def copy() -> Member:
        tar.rewind(start)
        return _copy_clip(tar, sample, member, name)

    return retries.again(copy, lambda error: isinstance(error, LostClip) and error.transient)


def _copy_clip(tar: Tar, sample: Sample, member: str, name: str) -> Member:
    uri = sample.clip.uri
    with _reading(uri):
        file = storage.open_read(sample.clip.address)
    with file:
        with _reading(uri):
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
        if sample.source_bytes not in (None, size):
            raise LostClip("transient_exhausted", f"{uri} changed: {sample.source_bytes} bytes when decoded, {size} now")
        return Member(name, tar.add(member, size, _blocks(file, size, uri)), size)


def _blocks(file: IO[bytes], size: int, uri: str) -> Iterator[bytes]:
    """Exactly `size` bytes, in blocks. Raises LostClip when the file has fewer."""
    while size:
        with _reading(uri):
            block = file.read(min(size, _COPY_BYTES))
        if not block:
            raise LostClip("transient_exhausted", f"{uri} became {size} bytes shorter while it was copied", transient=True)
        size -= len(block)
        yield block


@contextmanager
def _reading(uri: str) -> Iterator[None]:
    """Around reads only, never around writes: a full disk is the job's trouble, not the clip's."""
    try:
        yield
    except FileNotFoundError:
        raise LostClip("not_found", f"{uri} was there when it was decoded and has gone since") from None
    except retries.NotAFile:
        raise LostClip("not_a_file", f"{uri} is no longer a regular file") from None
    except Exception as error:  # what an object store's client raises is up to the client
        if lasting_trouble(error) is not None:
            raise
        if isinstance(error, StorageFailed):  # it was asked often enough
            raise LostClip("transient_exhausted", f"{uri} cannot be read any more: {error}") from error
        message = f"{uri} cannot be read any more ({type(error).__name__}); read {len(retries.pauses_s())} times"
        raise LostClip("transient_exhausted", message, transient=True) from error


def parquet_bytes(rows: list[dict[str, Any]], schema: pa.Schema) -> bytes:
    """A Parquet file of the rows; equal rows give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), buffer, compression="zstd", version="2.6")
    return buffer.getvalue()


def _hash(file: IO[bytes]) -> FileHash:
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # typeshed wants a raw file
    return FileHash(file.seek(0, io.SEEK_END), digest.hexdigest())


def _abridged(numbers: list[int]) -> str:
    text = ", ".join(map(str, numbers[:20]))
    return f"{text}, ..." if len(numbers) > 20 else text or "none"
