"""Outputs of any size that consist of tables alone, as a large job would leave them; their shards are not there.

`make_tables(out, chunks, rows)` writes index, instances, rejects and commit records directly, column by column: a million rows
in a minute.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from samples import make_dataset

from materia.dataset import layout
from materia.dataset.schema import INDEX, INSTANCES, REJECTS

KEPT = 0.7
REASONS = [
    ("source", "not_found"), ("entities", "no_subject"), ("entities", "plural_subject"), ("frames", "several_shots"),
    ("frames", "too_short"), ("localise", "no_instance"), ("link", "no_consistent_subject"), ("segment", "low_mask_score"),
    ("background", "nothing_left"), ("background", "low_quality"), ("entities", "not_in_caption"), ("frames", "unreadable"),
]  # fmt: skip
MEMBERS = [
    {"name": name, "offset": 512 + 9000 * at, "size": 8000}
    for at, name in enumerate(["json", "mp4", "frame0.jpg", "ref00.png"])
]
WORDS = {name: np.array([f"{name} {number}" for number in range(5000)]) for name in ("subject", "object", "background")}


def make_tables(out: Path, chunks: int, rows: int, odd: int | None = None, instances: bool = True) -> None:
    """`odd`: a chunk whose masks are much worse than those of the others."""
    layout.write_info(str(out), make_dataset(chunks * rows, chunks, rows))
    for chunk in range(chunks):
        rng = np.random.default_rng(chunk)
        kept = np.flatnonzero(rng.random(rows) < KEPT) + chunk * rows
        lost = np.setdiff1d(np.arange(rows) + chunk * rows, kept)
        index = index_table(rng, chunk, kept, 0.2 if chunk == odd else 1.0)
        tables = {"index": index, "rejects": rejects_table(rng, lost)}
        if instances:
            tables["instances"] = instances_table(rng, index)
        files = {name: write(out, name, table, chunk) for name, table in tables.items()}
        files["shards"] = layout.FileHash(bytes=int(rng.normal(1e9, 3e7)), sha256="0" * 64)
        commit = layout.Commit(
            chunk=chunk,
            rows=rows,
            samples=len(kept),
            rejections=len(lost),
            first_row=chunk * rows,
            files={layout.relative_path(name, chunk): file for name, file in files.items()},
        )
        path = out / layout.relative_path("commits", chunk)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(layout.encode_record(commit))


def write(out: Path, name: str, table: pa.Table, chunk: int) -> layout.FileHash:
    path = out / layout.relative_path(name, chunk)
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path, compression="zstd")
    data = path.read_bytes()
    return layout.FileHash(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def index_table(rng: np.random.Generator, chunk: int, rows: np.ndarray, masks: float) -> pa.Table:
    """Samples of the manifest's `rows`, of one chunk. `masks`: factor of their scores."""
    n = len(rows)
    words = {f"{name}_words": lists(rng, n, 1 + at, many) for at, (name, many) in enumerate(WORDS.items())}
    keys = [f"clip-{row:08d}" for row in rows]
    values = {
        "row": rows, "key": keys, "id": keys, "source_id": keys, "shard": [layout.relative_path("shards", chunk)] * n,
        **words, "subject_instances": [[3]] * n, "object_instances": [[2]] * n,
        "ambiguous_words": [[]] * n, "dropped": [[]] * n, "flags": [["still"] if row % 10 == 0 else [] for row in rows],
        "members": [MEMBERS] * n, "caption": [f"A caption of clip {row}, about as long as they are." for row in rows],
        "n_instances": np.full(n, 5), "frames_with_subject": rng.integers(1, 4, n), "bytes": rng.integers(10**5, 10**7, n),
        "min_mask_score": rng.beta(8, 3, n) * masks, "duration_s": rng.lognormal(2, 0.5, n),
    }  # fmt: skip
    columns = [pa.array(values[field.name] if field.name in values else number(rng, field, n), field.type) for field in INDEX]
    return pa.Table.from_arrays(columns, schema=INDEX)


def number(rng: np.random.Generator, field: pa.Field, n: int) -> np.ndarray:
    return rng.integers(0, 1000, n) if pa.types.is_integer(field.type) else rng.random(n)


def lists(rng: np.random.Generator, n: int, each: int, words: np.ndarray) -> pa.Array:
    """`each` words a row, few of them often and many seldom."""
    ranks = np.minimum(rng.zipf(1.3, n * each) - 1, len(words) - 1)
    return pa.ListArray.from_arrays(np.arange(0, n * each + 1, each, dtype=np.int32), pa.array(words[ranks]))


def instances_table(rng: np.random.Generator, index: pa.Table) -> pa.Table:
    n = 5 * len(index)
    values = {
        "row": np.repeat(index["row"].to_numpy(), 5), "key": np.repeat(index["key"].to_pylist(), 5), "word": ["dog"] * n,
        "category": ["subject"] * n, "is_face": np.arange(n) % 5 == 4, "carried": np.zeros(n, bool),
    }  # fmt: skip
    columns = [
        pa.array(values[field.name] if field.name in values else number(rng, field, n), field.type) for field in INSTANCES
    ]
    return pa.Table.from_arrays(columns, schema=INSTANCES)


def rejects_table(rng: np.random.Generator, rows: np.ndarray) -> pa.Table:
    why = [REASONS[at] for at in np.minimum(rng.zipf(1.5, len(rows)) - 1, len(REASONS) - 1)]
    keys = [f"clip-{row:08d}" for row in rows]
    columns = [rows, keys, keys, keys, [f"clips/{key}.mp4" for key in keys], ["A room."] * len(rows)]
    columns += [[stage for stage, _ in why], [reason for _, reason in why]]
    columns += [["what was wrong and what to do about it"] * len(rows), ['{"entities": []}'] * len(rows)]
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, REJECTS, strict=True)], schema=REJECTS
    )
