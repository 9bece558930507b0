"""Check a whole output: every committed shard against schemas, index, hashes, the conservation law, and itself.

In: an output's address. Out: a `Validation` of findings, each naming its file, sample and fault. Shards are read with plain
`webdataset`, as a user would, after a scan of the tar's headers has shown that nothing in it is larger or stranger than a shard
may hold. Shards may be damaged or hostile: whatever they contain becomes a finding, never an exception.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from materia.base import storage
from materia.base.terminal import plural
from materia.dataset.documents import Container, Provenance
from materia.dataset.extra import ExtraType
from materia.dataset.findings import BUILT_AGAIN, FINISHED, PASSED_OVER, Validation
from materia.dataset.json_schema import SchemaName, json_schema
from materia.dataset.layout import (
    FOLDERS,
    LEDGER,
    Commit,
    DatasetInfo,
    OutputError,
    TableName,
    committed,
    in_ledger,
    ledger_address,
    read_ledger,
    relative_path,
    require_output,
)
from materia.dataset.rows import CAPTION_CHARS, Member, index_row, instance_rows
from materia.dataset.sample_checks import Recipe, check_sample, parse_document
from materia.dataset.schema import INSTANCES, REJECTS, extra_types, index_schema_like
from materia.dataset.validate_layers import check_layers
from stages.specs import FINGERPRINTED, REASONS

_MAX_JSON_BYTES = 16 << 20
_MAX_PICTURE_BYTES = 256 << 20
_MAX_VIDEO_BYTES = 8 << 30
_MAX_TABLE_BYTES = 1 << 30
_MAX_DILATION = 1000
_CONTAINERS = get_args(Container)
_MEMBER = re.compile(
    r"([A-Za-z0-9_-]{1,120})\.(json|frame[0-2]\.jpg|ref\d{2,}\.png|background\.png|" + "|".join(_CONTAINERS) + ")"
)
_Record = TypeVar("_Record", bound=msgspec.Struct)


def validate(out: str) -> Validation:
    """Check an output. Memory is bounded by the largest sample. Raises OutputError when there is no output at all."""
    require_output(out)
    report = Validation()
    dataset = _read_record(report, out, "dataset.json", "dataset", DatasetInfo)
    seen: list[Commit] = []
    columns: pa.Schema | None = None
    with tempfile.TemporaryDirectory(prefix="materia-") as folder, closing(sqlite3.connect(f"{folder}/keys")) as keys:
        keys.execute("CREATE TABLE keys (key TEXT PRIMARY KEY, shard TEXT) WITHOUT ROWID")
        for number in sorted(committed(out)):
            name = relative_path("commits", number)
            commit = _read_record(report, out, name, "commit", Commit)
            if commit is None:
                continue
            if commit.chunk != number:
                report.add(name, f"says chunk {commit.chunk}")
                continue
            if dataset is not None and commit.schema != dataset.schema:
                report.add(name, f"says schema {commit.schema}, dataset.json {dataset.schema}")
            seen.append(commit)
            chunk = _Chunk(report, out, commit, dataset)
            _check_chunk(chunk, keys)
            columns = _check_columns(chunk, columns)
        check_layers(report, out, keys)
    _check_whole(report, dataset, seen)
    _check_ledger(report, out, seen)
    _check_strays(report, out, seen)
    report.chunks = len(seen)
    return report


def _read_record(report: Validation, out: str, name: str, schema: SchemaName, kind: type[_Record]) -> _Record | None:
    """A JSON record that satisfies its schema, or None and findings."""
    address = storage.join(out, name)
    try:
        if storage.size(address) > _MAX_JSON_BYTES:
            report.add(name, f"is larger than {plural(_MAX_JSON_BYTES, 'byte')}")
            return None
        value = json.loads(storage.read_bytes(address))
        problem = best_match(Draft202012Validator(json_schema(schema)).iter_errors(value))
        if problem is not None:
            report.add(name, f"{problem.json_path}: {problem.message[:200]}")
            return None
        return msgspec.convert(value, kind)
    except (OSError, ValueError, RecursionError) as error:
        report.add(name, f"cannot be read: {error}")
        return None


class _Chunk:
    """The state of checking one chunk: where findings go, and what its samples must agree with."""

    def __init__(self, report: Validation, out: str, commit: Commit, dataset: DatasetInfo | None) -> None:
        self.report, self.out, self.commit, self.dataset = report, out, commit, dataset
        self.recipe = _recipe(dataset)
        self.record, self.shard = (commit.path(folder) for folder in ("commits", "shards"))
        self.index, self.instances, self.rejects = (commit.path(table) for table in get_args(TableName))
        self.columns: pa.Schema | None = None  # of the index, once it is read
        self.extra: dict[str, ExtraType] = {}  # the user's own columns of it
        self.of_sample: dict[str, list[dict[str, Any]]] | None = None  # key -> rows of the instances, once they are read


def _check_chunk(chunk: _Chunk, keys: sqlite3.Connection) -> None:
    report, commit = chunk.report, chunk.commit
    expected = {chunk.index, chunk.rejects} | ({chunk.shard} if commit.samples else set())
    expected |= {chunk.instances} if commit.has_instances else set()
    if set(commit.files) != expected:
        report.add(chunk.record, f"names the files {sorted(commit.files)}, not {sorted(expected)}")
    if commit.samples + commit.rejections != commit.rows:
        counts = (plural(commit.samples, "sample"), plural(commit.rejections, "rejection"), plural(commit.rows, "row"))
        report.add(chunk.record, "{} + {} are not {}".format(*counts))
    there = {name for name in sorted(expected & set(commit.files)) if _check_hash(chunk, name)}
    index: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    if chunk.index in there:
        index, chunk.columns = _read_table(chunk, chunk.index, index_schema_like, commit.samples)
        chunk.extra = extra_types(chunk.columns) if chunk.columns else {}
    if chunk.rejects in there:
        rejects, _ = _read_table(chunk, chunk.rejects, lambda schema: REJECTS, commit.rejections)
    _check_rejects(chunk, rejects)
    if chunk.instances in there and chunk.columns is not None:
        _read_instances(chunk, index)
    if {chunk.index, chunk.rejects} <= there:
        _check_rows(chunk, [row["row"] for row in index + rejects])
    for row in index:
        try:
            keys.execute("INSERT INTO keys VALUES (?, ?)", (row["key"], chunk.shard))
        except sqlite3.IntegrityError:
            (other,) = keys.execute("SELECT shard FROM keys WHERE key = ?", (row["key"],)).fetchone()
            report.add(chunk.index, f"the key is already in {other}", row["key"])
    if chunk.shard in there:
        with storage.local_copy(storage.join(chunk.out, chunk.shard)) as path:
            _check_shard(chunk, path.resolve(), {row["key"]: row for row in index})
    report.samples += len(index)
    report.rejections += len(rejects)


def _check_hash(chunk: _Chunk, name: str) -> bool:
    """Whether the file is there to be read; a wrong size or hash is a finding and does not stop further checks."""
    try:
        with storage.open_read(storage.join(chunk.out, name)) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # typeshed wants a raw file
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        chunk.report.add(name, f"is committed but cannot be read: {error}", cure=BUILT_AGAIN)
        return False
    committed_file = chunk.commit.files[name]
    if size != committed_file.bytes:
        chunk.report.add(name, f"has {plural(size, 'byte')}; committed: {committed_file.bytes}", cure=BUILT_AGAIN)
    elif digest != committed_file.sha256:
        chunk.report.add(name, "has other content than was committed (SHA-256)", cure=BUILT_AGAIN)
    return True


def _read_instances(chunk: _Chunk, index: list[dict[str, Any]]) -> None:
    """The table of the instances; what each sample has is compared with its KEY.json later, and so is how many rows that is."""
    rows, columns = _read_table(chunk, chunk.instances, lambda schema: INSTANCES)
    if columns is None:
        return
    chunk.of_sample = {row["key"]: [] for row in index}
    for row in rows:
        if row["key"] in chunk.of_sample:
            chunk.of_sample[row["key"]].append(row)
        else:
            chunk.report.add(chunk.instances, "is not in the index", row["key"])


def _read_table(
    chunk: _Chunk, name: str, expected: Callable[[pa.Schema], pa.Schema], rows: int | None = None
) -> tuple[list[dict[str, Any]], pa.Schema | None]:
    """Rows and columns of a table with `rows` rows, if that is known, and the columns `expected` by those it has; else nothing,
    and findings.
    """
    nothing: tuple[list[dict[str, Any]], None] = [], None
    try:
        with storage.local_copy(storage.join(chunk.out, name)) as path, pq.ParquetFile(path) as file:
            found = file.schema_arrow
            if not found.equals(schema := expected(found)):
                chunk.report.add(name, f"has other columns than it should: {_differing(found, schema)}")
                return nothing
            groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
            if sum(group.total_byte_size for group in groups) > _MAX_TABLE_BYTES:
                chunk.report.add(name, f"holds more than {plural(_MAX_TABLE_BYTES, 'byte')}")
                return nothing
            if rows is not None and file.metadata.num_rows != rows:
                chunk.report.add(name, f"has {plural(file.metadata.num_rows, 'row')}; committed: {rows}")
                return nothing
            return file.read().to_pylist(), found
    except (OSError, ValueError, pa.ArrowException) as error:
        chunk.report.add(name, f"is no readable Parquet: {error}", cure=BUILT_AGAIN)
        return nothing


def _check_columns(chunk: _Chunk, before: pa.Schema | None) -> pa.Schema | None:
    """Compare the columns of the index with those of the chunk before; gives those to compare the next one with."""
    if before is not None and chunk.columns is not None and not before.equals(chunk.columns):
        differing = f"has other columns than the index before it ({_differing(before, chunk.columns)})"
        chunk.report.add(chunk.index, f"{differing}; --where knows those that all have", severity="warning")
    return before if chunk.columns is None else chunk.columns


def _differing(schema: pa.Schema, other: pa.Schema) -> str:
    """Names of columns that only one of two schemas has, or that they have differently."""
    return ", ".join(sorted({field.name for field in set(schema) ^ set(other)}))


def _check_rejects(chunk: _Chunk, rejects: list[dict[str, Any]]) -> None:
    for row in rejects:
        stage, reason = row["stage"], row["reason"]
        if reason not in REASONS.get(stage, ()):
            chunk.report.add(chunk.rejects, f"row {row['row']}: {stage}/{reason} is not a known reason", row["key"])
        if row["caption"] is not None and len(row["caption"]) > CAPTION_CHARS:
            chunk.report.add(chunk.rejects, f"row {row['row']}: its caption is longer than {CAPTION_CHARS}", row["key"])
        try:
            json.loads(row["found"])
        except (ValueError, RecursionError):
            chunk.report.add(chunk.rejects, f"row {row['row']}: `found` is not JSON", row["key"])


def _check_rows(chunk: _Chunk, rows: list[int]) -> None:
    """The conservation law: each planned row exactly once, as a sample or as a rejection."""
    first, end = chunk.commit.first_row, chunk.commit.first_row + chunk.commit.rows
    for row, count in Counter(rows).items():
        if count > 1:
            chunk.report.add(chunk.record, f"row {row} is there {count} times")
        if not first <= row < end:
            chunk.report.add(chunk.record, f"row {row} does not belong to rows {first} to {end - 1}")
    missing = chunk.commit.rows - len({row for row in rows if first <= row < end})
    if missing:
        chunk.report.add(chunk.record, f"neither sample nor rejection: {missing} of rows {first} to {end - 1}")


def _check_shard(chunk: _Chunk, path: Path, index: dict[str, dict[str, Any]]) -> None:
    members = _scan(chunk, path)
    if members is None:
        return
    read: set[str] = set()
    try:
        for sample in webdataset.WebDataset([str(path)], shardshuffle=False, empty_check=False):
            key = sample["__key__"]
            content = {name: data for name, data in sample.items() if not name.startswith("__")}
            read.add(key)
            for message in _check_member(chunk, key, content, members.get(key, []), index.get(key)):
                chunk.report.add(chunk.shard, message, key)
    except Exception as error:  # whatever a shard made webdataset raise is about the shard
        chunk.report.add(chunk.shard, f"webdataset cannot read it: {type(error).__name__}: {error}")
    for key in sorted(set(index) - read):
        chunk.report.add(chunk.shard, "is in the index but not in the shard", key)


def _scan(chunk: _Chunk, path: Path) -> dict[str, list[Member]] | None:
    """Each key's members by the tar's headers; None, and findings, if there is something that should not be read at all."""
    members: dict[str, list[Member]] = {}
    suspicious = False
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps every header
                match = _MEMBER.fullmatch(info.name)
                complaint = "is not a member's name" if match is None else _strange(info, match[2])
                if complaint or match is None:
                    chunk.report.add(chunk.shard, f"{info.name[:200]!r} {complaint}")
                    suspicious = True
                else:
                    members.setdefault(match[1], []).append(Member(match[2], info.offset_data, info.size))
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        chunk.report.add(chunk.shard, f"is no readable tar: {error}", cure=BUILT_AGAIN)
        return None
    return None if suspicious else members


def _strange(info: tarfile.TarInfo, name: str) -> str | None:
    if info.type != tarfile.REGTYPE:  # links, devices, sparse files that claim to be huge
        return f"is of tar type {info.type!r}, not a plain file"
    limit = _MAX_JSON_BYTES if name == "json" else _MAX_VIDEO_BYTES if name in _CONTAINERS else _MAX_PICTURE_BYTES
    return f"has {plural(info.size, 'byte')}, more than {limit}" if info.size > limit else None


def _check_member(
    chunk: _Chunk, key: str, content: dict[str, bytes], members: list[Member], row: dict[str, Any] | None
) -> Iterator[str]:
    """One sample as webdataset gives it, against its KEY.json, its index row, its instances' rows and dataset.json."""
    document, errors = parse_document(content.get("json", b""))
    yield from errors
    if row is None:
        yield "is in the shard but not in the index"
    if document is None:
        return
    if document.schema != chunk.commit.schema:
        yield f"KEY.json says schema {document.schema}, the commit record {chunk.commit.schema}"
    names = [member.name for member in members]
    if document.key != key:
        yield f"KEY.json says key {document.key!r}"
    if names != document.members or set(names) != set(content):
        yield f"has the members {names}, not {document.members}"
        return
    if row is not None:
        yield from _differing_row("the index has", row, index_row(document, chunk.shard, members, chunk.extra))
    if chunk.of_sample is not None:
        yield from _check_instances(chunk.of_sample.get(key, []), instance_rows(document))
    if not content[document.video.member]:
        yield "the clip has no bytes"
    if chunk.dataset is not None and not _made_by(document.provenance, chunk.dataset):
        yield "was made with another prompt or another stage than dataset.json says"
    yield from check_sample(document, content, chunk.recipe)


def _check_instances(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> Iterator[str]:
    if len(rows) != len(expected):
        yield f"the table of instances has {plural(len(rows), 'row')}, KEY.json gives {len(expected)}"
        return
    for number, (row, true) in enumerate(zip(rows, expected, strict=True)):
        yield from _differing_row(f"the table of instances has, as number {number},", row, true)


def _differing_row(where: str, row: dict[str, Any], expected: dict[str, Any]) -> Iterator[str]:
    """Columns of a row that are not as KEY.json and the tar say; an earlier version may have written fewer."""
    for column in [column for column in row if expected[column] != row[column]]:
        yield f"{where} {column} {row[column]!r}, KEY.json and the tar give {expected[column]!r}"[:400]


def _made_by(provenance: Provenance, dataset: DatasetInfo) -> bool:
    stages = {stage: sha for stage, sha in dataset.stage_sha.items() if stage in FINGERPRINTED}
    return (provenance.prompt_sha, provenance.stage_sha) == (dataset.prompt_sha, stages)


def _recipe(dataset: DatasetInfo | None) -> Recipe | None:
    """How background masks grew; None when dataset.json does not say, and then backgrounds are not compared."""
    settings = dataset.config.get("background") if dataset else None
    if not isinstance(settings, dict):
        return None
    values = [settings.get("dilate_px"), settings.get("dilate_times"), settings.get("retry_dilate", 0)]
    if not all(isinstance(value, int) and 0 <= value <= _MAX_DILATION for value in values):
        return None
    return msgspec.convert(values, Recipe)


def _check_whole(report: Validation, dataset: DatasetInfo | None, seen: list[Commit]) -> None:
    """All chunks together: none missing, none foreign, their rows side by side."""
    for before, after in pairwise(seen):
        gap = after.first_row - (before.first_row + before.rows)
        if gap < 0 or (gap > 0 and after.chunk == before.chunk + 1):
            report.add(
                relative_path("commits", after.chunk), f"first_row {after.first_row} does not follow chunk {before.chunk}"
            )
    if dataset is None:
        return
    planned = [commit for commit in seen if commit.chunk < dataset.chunks]
    if len(planned) < len(seen):
        too_many = plural(len(seen) - len(planned), "chunk")
        cure = f"delete the records in commits/ from {dataset.chunks:06d}.json on"
        report.add("dataset.json", f"committed but not planned: {too_many}", cure=cure)
    if len(planned) < dataset.chunks:
        missing = dataset.chunks - len(planned)
        report.add("dataset.json", f"{missing} of {plural(dataset.chunks, 'chunk')} not committed", cure=FINISHED)
    elif (rows := sum(commit.rows for commit in planned)) != dataset.rows or (planned and planned[0].first_row != 0):
        report.add("dataset.json", f"planned: {plural(dataset.rows, 'row')}; committed: {rows}")
    if _recipe(dataset) is None:
        report.add("dataset.json", "does not say how background masks grew; backgrounds were not compared", severity="warning")


def _check_ledger(report: Validation, out: str, seen: list[Commit]) -> None:
    """The ledger says what the records say."""
    records = {commit.chunk: commit for commit in seen}
    for number in in_ledger(out):
        name = ledger_address("", number).removeprefix("/")
        try:
            told = read_ledger(out, number)
        except OutputError as error:
            report.add(name, str(error), cure="delete it: it only repeats records, and is written again")
            continue
        for commit in told:
            if records.get(commit.chunk) != commit:
                cure = "delete it: it only repeats records, and is written again"
                report.add(name, f"does not say of chunk {commit.chunk} what its record says", cure=cure)
                break


def _check_strays(report: Validation, out: str, seen: list[Commit]) -> None:
    """Files that no commit record vouches for: harmless to readers, and gone or replaced when the job is finished."""
    trusted = {name for commit in seen for name in commit.files} | {relative_path("commits", commit.chunk) for commit in seen}
    for folder in FOLDERS:
        for name in storage.listdir(storage.join(out, folder)):
            if f"{folder}/{name}" not in trusted and (folder, name) != ("commits", LEDGER):
                cure = "" if folder == "commits" else PASSED_OVER  # a record that cannot be read is an error, and says more
                report.add(f"{folder}/{name}", "belongs to no committed chunk", severity="warning", cure=cure)
    for address in storage.temporaries(out):
        name = os.path.relpath(address, storage.local_path(out))
        report.add(name, "was left by a writer that was stopped; the next start removes it", severity="warning")
