"""What a clip costs an object store: `python -m tools.count_requests [--engine ray] [--rows-per-slice 64] ...`.

Jobs of one and of three chunks, with stub stages, read their clips from an S3 server on this machine (moto) and write their
output there. What the second takes more, divided by its further clips, is what a clip costs: requests by kind, and bytes, for
each kind of object. What a job costs whatever its size is printed below.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import click

from materia.base import storage
from materia.base.storage_settings import use_storage
from pipeline.config import Config
from pipeline.job import Engine, run_job
from stages.specs import STAGE_ORDER

METHODS = ("PUT", "GET", "HEAD", "LIST", "DELETE")
_KINDS = (
    (r"in/clips/.*", "clips"),
    (r"in/.*", "manifest"),
    (r"out/(shards|index|instances|rejects|commits)/.+", r"\1"),
    (r"out/_run/plan/.*", "plan"),
    (r"out/.*", "the rest of the output"),
    (r".*", "listings of folders"),
)
_CLIP_BYTES = 1000


class Asked(NamedTuple):
    """A kind of request: its method, LIST for a GET of a folder and PUT for parts of one too; and the kind of object."""

    method: str
    kind: str


class Counts:
    """Requests and bytes, both ways, of an S3 server's application."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._lock = threading.Lock()
        self.requests: Counter[Asked] = Counter()
        self.bytes: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """WSGI."""
        asked = _asked(environ["REQUEST_METHOD"], unquote(environ["PATH_INFO"]), environ.get("QUERY_STRING", ""))
        size = int(environ.get("CONTENT_LENGTH") or 0)

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            answer = 0 if asked.method == "HEAD" else int(dict(headers).get("Content-Length", 0))
            with self._lock:
                self.requests[asked] += 1
                self.bytes[asked.kind] += size + answer
            return start_response(status, headers, *more)

        return self._application(environ, start)


@contextmanager
def counting_server() -> Iterator[tuple[str, Counts]]:
    """The address of an S3 server that has the bucket `bucket`, and its counts."""
    import fsspec
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    counts = Counts(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, counts, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    os.environ.update(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s")
    urllib.request.urlopen(f"{address}/moto-api/reset", data=b"").close()  # moto keeps what another server of this process held
    fsspec.filesystem("s3", endpoint_url=address).mkdir("bucket")
    try:
        yield address, counts
    finally:
        server.shutdown()


class Cost(NamedTuple):
    """Of the jobs: `fixed` whatever the size, `further` of so many further clips; requests and bytes."""

    clips: int
    fixed: Counter[Asked]
    further: Counter[Asked]
    bytes: Counter[str]

    def of_a_clip(self, *methods: str) -> float:
        """Requests of these methods that a clip costs."""
        return sum(times for asked, times in self.further.items() if asked.method in methods) / self.clips


def count(engine: Engine, rows_per_slice: int, rows_per_chunk: int) -> Cost:
    """Run both jobs."""
    with counting_server() as (address, counts):
        one, one_bytes = _job(address, counts, engine, rows_per_slice, rows_per_chunk, chunks=1)
        three, three_bytes = _job(address, counts, engine, rows_per_slice, rows_per_chunk, chunks=3)
    further = Counter({asked: (times - one[asked]) for asked, times in three.items() if times > one[asked]})
    fixed = Counter({asked: times - further[asked] // 2 for asked, times in one.items() if times > further[asked] // 2})
    return Cost(2 * rows_per_chunk, fixed, further, three_bytes - one_bytes)


def _job(
    address: str, counts: Counts, engine: Engine, rows_per_slice: int, rows_per_chunk: int, chunks: int
) -> tuple[Counter[Asked], Counter[str]]:
    pools = [{"stages": STAGE_ORDER, "workers": 2, "num_cpus": 0.2, "rows_per_batch": 64}]
    config = Config.model_validate(
        {
            "engine": {"rows_per_chunk": rows_per_chunk, "rows_per_slice": rows_per_slice, "pools": pools},
            "storage": {"s3": {"endpoint": address}},
            "source": {"schemes": ["file", "s3"], "allowed_roots": ["s3://bucket"]},
        }
    )
    root = f"s3://bucket/{chunks}"
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "manifest.jsonl")
        with manifest.open("w") as file:
            for row in range(chunks * rows_per_chunk):
                clip = f"{root}/in/clips/{row:06d}.mp4"
                file.write(json.dumps({"id": f"n{row}", "video": clip, "caption": "a dog"}) + "\n")
        use_storage(config.storage)
        for row in range(chunks * rows_per_chunk):
            storage.atomic_write(f"{root}/in/clips/{row:06d}.mp4", bytes(_CLIP_BYTES))
        counts.requests.clear()
        counts.bytes.clear()
        factory = "tools.bench_pipeline:stub_stages"
        result = run_job(config, input=str(manifest), output=f"{root}/out", engine=engine, stage_factory=factory)
    assert result.exit_code == 0, result.message
    return counts.requests.copy(), counts.bytes.copy()


def _asked(method: str, path: str, query: str) -> Asked:
    _, _, key = path.lstrip("/").partition("/")
    if method == "GET" and re.search(r"(^|&)(list-type|prefix|delimiter|location)=?", query):
        return Asked("LIST", "listings of folders")
    name = key.partition("/")[2]  # without the job's folder
    pattern, kind = next((pattern, kind) for pattern, kind in _KINDS if re.fullmatch(pattern, name))
    return Asked("PUT" if method == "POST" else method, re.sub(pattern, kind, name))


@click.command()
@click.option("--engine", type=click.Choice(["ray", "serial", "inline"]), default="ray", show_default=True)
@click.option("--rows-per-slice", default=64, show_default=True)
@click.option("--rows-per-chunk", default=1024, show_default=True)
def main(engine: Engine, rows_per_slice: int, rows_per_chunk: int) -> None:
    """Print what a clip costs."""
    cost = count(engine, rows_per_slice, rows_per_chunk)
    print(f"Requests and bytes for a clip, {rows_per_slice} rows a slice, {rows_per_chunk} a chunk, engine {engine}\n")
    _print_table(cost.further, cost.clips, cost.bytes)
    print(f"\nPUT + DELETE + LIST: {cost.of_a_clip('PUT', 'DELETE', 'LIST'):.4f} for a clip\n\nFor a job\n")
    _print_table(cost.fixed, 1, None)


def _print_table(requests: Counter[Asked], clips: int, n_bytes: Counter[str] | None) -> None:
    print("| object | " + " | ".join(METHODS) + (" | bytes |" if n_bytes is not None else " |"))
    print("|---|" + "---|" * (len(METHODS) + (n_bytes is not None)))
    for kind in dict.fromkeys(asked.kind for asked in sorted(requests)):
        cells = [f"{requests[Asked(method, kind)] / clips:.4f}".rstrip("0").rstrip(".") for method in METHODS]
        if n_bytes is not None:
            cells.append(f"{n_bytes[kind] / clips:.0f}")
        print(f"| {kind} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
