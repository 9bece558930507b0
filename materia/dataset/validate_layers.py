"""Check the layers of an output: each layer.json, its file, and the keys in it.

In: an output, and the keys of all samples. Out: findings. What lies in a layer's folder may be damaged or hostile, as anything
in an output: it becomes a finding, never an exception.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3

import pyarrow as pa
import pyarrow.parquet as pq

from materia.base import storage
from materia.base.terminal import plural
from materia.dataset.findings import Validation
from materia.dataset.layers import FOLDER, LayerInfo, is_layer_name, read_info, refusal
from materia.dataset.layout import OutputError

_MAX_KEY_BYTES = 1 << 30
_UNNAMED = "readers pass it over; delete it"


def check_layers(report: Validation, out: str, keys: sqlite3.Connection) -> None:
    """Add what is wrong with layers. `keys`: a table `keys`, with the keys of all samples in its column `key`."""
    keys.execute("CREATE TABLE layer_keys (key TEXT PRIMARY KEY) WITHOUT ROWID")
    for name in storage.listdir(storage.join(out, FOLDER)):
        if not is_layer_name(name):
            report.add(f"{FOLDER}/{name}", "has no layer's name", severity="warning", cure=_UNNAMED)
            continue
        cure = f"write it again: materia layers add OUT {name}, or remove it: materia layers remove OUT {name}"
        named = {"layer.json"}
        try:
            info = read_info(out, name)
        except OutputError as error:
            report.add(f"{FOLDER}/{name}/layer.json", str(error), cure="")
        else:
            if info is not None:
                named.add(info.file)
                _check_file(report, out, name, info, cure, keys)
            for file in storage.listdir(storage.join(out, FOLDER, name)):
                if file not in named:
                    report.add(f"{FOLDER}/{name}/{file}", "layer.json does not name it", severity="warning", cure=_UNNAMED)


def _check_file(report: Validation, out: str, name: str, info: LayerInfo, cure: str, keys: sqlite3.Connection) -> None:
    where, expected = f"{FOLDER}/{name}/{info.file}", info.files[info.file]
    try:
        with storage.local_copy(storage.join(out, where)) as path:
            with storage.open_read(str(path)) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # typeshed wants a raw file
                size = file.seek(0, os.SEEK_END)
            if size != expected.bytes:
                report.add(where, f"has {plural(size, 'byte')}; layer.json: {expected.bytes}", cure=cure)
            elif digest != expected.sha256:
                report.add(where, "has other content than was written (SHA-256)", cure=cure)
            with pq.ParquetFile(path) as table:
                _check_table(report, where, table, info, cure, keys)
    except OSError as error:
        report.add(where, f"layer.json names it but it cannot be read: {error}", cure=cure)
    except (ValueError, pa.ArrowException) as error:
        report.add(where, f"is no readable Parquet: {error}", cure=cure)


def _check_table(
    report: Validation, where: str, table: pq.ParquetFile, info: LayerInfo, cure: str, keys: sqlite3.Connection
) -> None:
    """Rows, columns, and that each key is there once and is a sample's."""
    if (why := refusal(table.schema_arrow)) is not None:
        report.add(where, why, cure=cure)
        return
    rows = table.metadata.num_rows
    if rows != info.rows:
        report.add(where, f"has {plural(rows, 'row')}; layer.json: {info.rows}", cure=cure)
    groups = (table.metadata.row_group(number) for number in range(table.metadata.num_row_groups))
    place = table.metadata.schema.names.index("key")
    if sum(group.column(place).total_uncompressed_size for group in groups) > _MAX_KEY_BYTES:
        report.add(where, f"has keys of more than {plural(_MAX_KEY_BYTES, 'byte')}", cure=cure)
        return
    keys.execute("DELETE FROM layer_keys")
    missing = 0
    for batch in table.iter_batches(columns=["key"], use_threads=False):
        values = batch.column(0)
        missing += values.null_count
        keys.executemany("INSERT OR IGNORE INTO layer_keys VALUES (?)", ((key,) for key in values.drop_null().to_pylist()))
    if missing:
        report.add(where, f"`key` is missing in {plural(missing, 'row')}", cure=cure)
    (different,) = keys.execute("SELECT count(*) FROM layer_keys").fetchone()
    if twice := rows - missing - different:
        report.add(where, f"{plural(twice, 'row')} repeat a key that another row has", cure=cure)
    unknown, example = keys.execute(
        "SELECT count(*), min(key) FROM layer_keys WHERE key NOT IN (SELECT key FROM keys)"
    ).fetchone()
    if unknown:
        told = f"{plural(unknown, 'key')} of {different} are of no sample, e.g. {example!r}"
        report.add(where, told[:400], severity="warning", cure="readers pass these rows over")
