"""How long a start takes on an output of millions of finished clips, in a store whose every request takes its time.

    python -m tools.bench_resume [--clips 10000000] [--delay-ms 30] [--left 2]

In: nothing; the store is one whose objects are made when they are asked for (tools/faults/synthetic.py), the plan that of a
small job, stretched. Out: seconds until the first slice is worked at (with `--left 0`: until all is said to be done),
requests by kind, and the most memory that the driver held.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import click
import msgspec

from materia.dataset import layout
from materia.dataset.layout import LEDGER_CHUNKS, Commit, FileHash, Folder, ledger_address, relative_path
from pipeline.config import Config
from pipeline.job import run_job
from pipeline.plan import open_plan
from stages.records import Row, Sample, StageName
from tools.bench_pipeline import Stub, stub_manifest
from tools.faults.servers import BUCKET, credentials
from tools.faults.synthetic import Store, serving

_OUT = f"s3://{BUCKET}/out"
_FOLDERS: tuple[Folder, ...] = ("index", "instances", "rejects", "shards")
_STORE = "MATERIA_BENCH_STORE"
_STAGES = "tools.bench_resume:stages"
_CHUNK = 1024


class _Telling(Stub):
    """Says when it is given its first slice."""

    def process(self, samples: list[Sample]) -> list[Row]:
        """The samples, as the plain stub."""
        if self.name == "entities" and _STORE in os.environ:
            sys.stdout.write(f"working {time.time()}\n")
            sys.stdout.flush()
        return super().process(samples)


def stages(_config: Config, names: Iterable[StageName]) -> list[_Telling]:
    """Stage factory (pipeline/engine/child.py)."""
    return [_Telling(name) for name in names]


@click.command()
@click.option("--clips", default=10_000_000, show_default=True)
@click.option("--delay-ms", default=30.0, show_default=True, help="Of each request.")
@click.option("--left", default=0, show_default=True, help="Chunks at the end that are not finished.")
@click.option("--ledger/--no-ledger", default=True, help="Without it each record is read by itself.")
@click.argument("request", required=False)
def main(clips: int, delay_ms: float, left: int, ledger: bool, request: str | None) -> None:
    """Print what a start costs."""
    if request is not None:
        _start(request)
        return
    with tempfile.TemporaryDirectory() as folder:
        chunks = -(-clips // _CHUNK)
        manifest = stub_manifest(Path(folder), 64)
        store = Store(_names(chunks - left, ledger), partial(_made, clips), partial(_size, clips), delay_ms / 1000)
        for name, data in _stretched(manifest, Path(folder), clips, chunks).items():
            store.put(f"{BUCKET}/out/{name}", data)
        with serving(store) as address:
            began = time.time()
            environment = os.environ | credentials() | {_STORE: address}
            command = [sys.executable, "-m", "tools.bench_resume", manifest]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
            seconds = time.time() - began
    working = next((float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("working")), None)
    if working is not None:
        print(f"first slice after {working - began:.1f} s")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{clips} clips, {chunks - left} of {chunks} chunks finished: {seconds:.1f} s, exit code {done.returncode}")
    print(f"requests: {dict(store.requests)}, driver {peak:.0f} MiB at most")


def _start(manifest: str) -> None:
    config = _config(os.environ[_STORE])
    result = run_job(config, input=manifest, output=_OUT, engine="inline", stage_factory=_STAGES)
    sys.stderr.write(f"{result.message}\n")
    sys.exit(result.exit_code)


def _config(address: str | None = None) -> Config:
    settings = {"storage": {"s3": {"endpoint": address}}} if address else {}
    return Config.model_validate(settings | {"engine": {"rows_per_chunk": _CHUNK, "rows_per_slice": 64}})


def _stretched(manifest: str, folder: Path, clips: int, chunks: int) -> dict[str, bytes]:
    """The files of a job on the manifest's rows, as if they were many more."""
    out = folder / "small"
    assert run_job(_config(), input=manifest, output=str(out), engine="inline", stage_factory=_STAGES).exit_code == 0
    plan = json.loads((out / "_run/plan/plan.json").read_text())
    plan["parts"][0][0] = clips
    (out / "_run/plan/plan.json").write_text(json.dumps(plan))
    stretched = open_plan(out / "_run/plan")
    assert stretched is not None and (stretched.rows, stretched.n_chunks) == (clips, chunks)
    info = json.loads((out / "dataset.json").read_text()) | {"rows": clips, "chunks": chunks, "plan_sha256": stretched.sha256}
    files = {"_run/plan/plan.json": json.dumps(plan).encode(), "dataset.json": json.dumps(info).encode()}
    segments = {str(path.relative_to(out)): path.read_bytes() for path in (out / "_run/plan").rglob("*") if path.is_file()}
    return {**segments, **files, "_run/libraries.json": (out / "_run/libraries.json").read_bytes()}


def _names(chunks: int, ledger: bool) -> list[str]:
    """Of a finished output's objects, in order."""
    folders: tuple[Folder, ...] = ("commits", *_FOLDERS)
    made = [f"{BUCKET}/out/{relative_path(folder, chunk)}" for folder in folders for chunk in range(chunks)]
    written = range(chunks // LEDGER_CHUNKS) if ledger else ()
    return sorted([*made, *(f"{BUCKET}/out{ledger_address('', number)}" for number in written)])


def _record(clips: int, chunk: int) -> Commit:
    rows = min(_CHUNK, clips - chunk * _CHUNK)
    files = {relative_path(folder, chunk): FileHash(1, "0" * 64) for folder in _FOLDERS}
    return Commit(chunk=chunk, rows=rows, samples=rows, rejections=0, first_row=chunk * _CHUNK, files=files)


def _made(clips: int, name: str) -> bytes:
    number = int(name.rpartition("/")[2].partition(".")[0])
    if "/ledger/" in name:
        chunks = range(number * LEDGER_CHUNKS, (number + 1) * LEDGER_CHUNKS)
        return b"".join(msgspec.json.encode(_record(clips, chunk)) + b"\n" for chunk in chunks)
    return layout.encode_record(_record(clips, number)) if "/commits/" in name else b"x"


def _size(clips: int, name: str) -> int:
    return len(_made(clips, name)) if "/commits/" in name and "/ledger/" not in name else 1


if __name__ == "__main__":
    main()
