"""How fast the page of `materia view` answers with a million samples: `python -m tools.bench_view FOLDER [--rows 1000000]`.

In: a folder, in which an output of synthetic rows is written once: tables and commit records, no shards. Out, as JSON: seconds
until the index is read, milliseconds of filters, sorts and histograms over it, and the memory of the server's process.
"""

from __future__ import annotations

import hashlib
import io
import json
import resource
import time

import click
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from starlette.testclient import TestClient

from materia.base import storage
from materia.dataset.layout import Commit, DatasetInfo, FileHash, encode_record, relative_path, write_info
from materia.dataset.schema import INDEX, REJECTS
from materia.view.app import application
from materia.view.viewer import Viewer

ROWS_PER_CHUNK = 1000
_SUBJECTS = ("man", "woman", "dog", "cat", "boy", "girl", "horse", "bear", "young woman", "old man", "child", "bird")
_OBJECTS = ("ball", "hat", "bicycle", "cup", "guitar", "red car", "umbrella", "book", "phone", "leash", "chair", "table")
_PLACES = ("street", "park", "beach", "room", "kitchen", "field", "forest", "stage")
_FLAGS = ("still", "portrait", "long", "ambiguous_identity")
_ROLES = ("mp4", "json", "frame0.jpg", "frame1.jpg", "frame2.jpg", *(f"ref{n:02d}.png" for n in range(6)), "background.png")


def synthetic_index(first_row: int, rows: int, shard: str) -> pa.Table:
    """Rows of an index (materia/dataset/schema.py) as those of a real output are spread; the same for the same arguments."""
    random = np.random.default_rng(first_row)
    numbers = np.arange(first_row, first_row + rows)
    n_subjects, n_objects = random.integers(1, 4, rows), random.integers(0, 4, rows)
    subjects = [random.choice(_SUBJECTS, n, replace=False).tolist() for n in n_subjects]
    objects = [random.choice(_OBJECTS, n, replace=False).tolist() for n in n_objects]
    places = [[str(random.choice(_PLACES))] for _ in range(rows)]
    captions = [f"A {' and a '.join(s)} with {', '.join(o) or 'nothing'} in the {p[0]}, seen from afar on a calm afternoon."
                for s, o, p in zip(subjects, objects, places, strict=True)]  # fmt: skip
    sizes = random.integers(5_000, 900_000, (rows, len(_ROLES)))
    ends = np.cumsum(512 + (sizes + 511) // 512 * 512, axis=1)
    starts = ends - (sizes + 511) // 512 * 512
    members = [
        [{"name": name, "offset": at, "size": size} for name, at, size in zip(_ROLES, *line, strict=True)]
        for line in zip(starts.tolist(), sizes.tolist(), strict=True)
    ]
    columns: dict[str, object] = {
        "row": numbers,
        "key": [f"clip-{number:08d}" for number in numbers],
        "id": [f"clip-{number:08d}" for number in numbers],
        "source_id": [f"video-{number // 5:07d}" for number in numbers],
        "shard": [shard] * rows,
        "n_subjects": n_subjects,
        "n_objects": n_objects,
        "n_instances": 3 * n_subjects + 2 * n_objects,
        "n_faces": random.integers(0, 4, rows),
        "subject_words": subjects,
        "object_words": objects,
        "background_words": places,
        "subject_instances": [[3] * n for n in n_subjects],
        "object_instances": [[2] * n for n in n_objects],
        "frames_with_subject": random.integers(1, 4, rows),
        "ambiguous_words": [[] for _ in range(rows)],
        "dropped": [["odd_one"] if lost else [] for lost in random.random(rows) < 0.1],
        "flags": [[str(random.choice(_FLAGS))] if lost else [] for lost in random.random(rows) < 0.2],
        "duration_s": random.gamma(3, 2.5, rows),
        "fps": random.choice([24.0, 25.0, 29.97, 30.0], rows),
        "width": random.choice([640, 1280, 1920], rows),
        "height": random.choice([360, 720, 1080], rows),
        "caption": captions,
        "caption_chars": [len(caption) for caption in captions],
        "bytes": sizes.sum(axis=1),
        "members": members,
    }
    for field in INDEX:
        if field.name not in columns:
            kind = pa.types.is_floating(field.type)
            columns[field.name] = np.round(random.beta(2, 3, rows), 6) if kind else random.integers(0, 3, rows)
    return pa.Table.from_arrays([pa.array(columns[field.name], field.type) for field in INDEX], schema=INDEX)


def write_synthetic_output(out: str, rows: int, rows_per_chunk: int = ROWS_PER_CHUNK) -> None:
    """An output of so many samples and a rejection a chunk, without shards."""
    chunks = -(-rows // rows_per_chunk)
    write_info(out, DatasetInfo(version="0", rows=rows + chunks, chunks=chunks, rows_per_chunk=rows_per_chunk + 1,
               plan_sha256="0" * 64, config={}, prompt_sha="0" * 64, stage_sha={}))  # fmt: skip
    for chunk in range(chunks):
        first = chunk * (rows_per_chunk + 1)
        n = min(rows_per_chunk, rows - chunk * rows_per_chunk)
        reject = {field.name: None for field in REJECTS} | {
            "row": first + n, "key": f"lost-{chunk}", "caption": "A room.", "stage": "entities", "reason": "no_subject",
            "message": "no word is a subject", "found": "{}",
        }  # fmt: skip
        tables = {
            "index": synthetic_index(first, n, relative_path("shards", chunk)),
            "rejects": pa.Table.from_pylist([reject], REJECTS),
        }
        files = {}
        for folder, table in tables.items():
            buffer = io.BytesIO()
            pq.write_table(table, buffer, compression="zstd")
            name = relative_path(folder, chunk)  # type: ignore[arg-type]
            storage.atomic_write(storage.join(out, name), buffer.getvalue())
            files[name] = FileHash(bytes=buffer.tell(), sha256=hashlib.sha256(buffer.getvalue()).hexdigest())
        commit = Commit(chunk=chunk, rows=n + 1, samples=n, rejections=1, first_row=first, files=files)
        storage.atomic_write(storage.join(out, relative_path("commits", chunk)), encode_record(commit))


def measure(out: str) -> dict[str, float]:
    """Milliseconds of processor time (both cores together) of what the page asks, once each after one to warm up."""
    viewer = Viewer([out])
    start, busy = time.perf_counter(), time.process_time()
    viewer.read_all()
    found = {"read_s": time.perf_counter() - start, "read_cpu_s": time.process_time() - busy}
    client = TestClient(application(viewer, ["127.0.0.1:1"]), base_url="http://127.0.0.1:1")
    states = {
        "filter and sort": {"sort": "-residual", "ranges": {"residual": [0.1, 0.301]}},
        "word, filter and sort": {"sort": "min_mask_score", "words": ["dog"], "ranges": {"residual": [0, 0.501]}},
        "flag and sort": {"sort": "-duration_s", "flags": ["still"]},
        "audit": {"audit": {"n": 100, "seed": 1}},
    }
    asked = {f"select: {name}": ("/api/select", {"q": json.dumps(state), "limit": "60"}) for name, state in states.items()}
    asked |= {
        "first page": ("/api/select", {"limit": "60"}),
        "count": ("/api/count", {"q": json.dumps({"ranges": {"residual": [0, 0.3]}})}),
        "histogram": ("/api/histogram", {"column": "residual", "q": json.dumps({"ranges": {"min_mask_score": [0.2, None]}})}),
        "60 cards of 60 chunks": ("/api/cards", {"n": ",".join(str(n * viewer.outputs[0].samples // 60) for n in range(60))}),
        "a sample by key": ("/api/sample", {"key": "clip-00001001"}),
    }
    client.get("/api/select", params={"q": json.dumps({"sort": "fps"})})
    for name, (path, parameters) in asked.items():
        start, busy = time.perf_counter(), time.process_time()
        answer = client.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        found[f"{name}, ms"] = round(1000 * (time.perf_counter() - start), 1)
        found[f"{name}, CPU ms"] = round(1000 * (time.process_time() - busy), 1)
    found["resident MiB"] = psutil.Process().memory_info().rss >> 20
    found["most resident MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return found


@click.command()
@click.argument("folder", type=click.Path())
@click.option("--rows", type=int, default=1_000_000, show_default=True)
def main(folder: str, rows: int) -> None:
    """Write the synthetic output, if it is not there, and measure."""
    if not storage.exists(storage.join(folder, "dataset.json")):
        write_synthetic_output(folder, rows)
    print(json.dumps(measure(folder), indent=2))


if __name__ == "__main__":
    main()
