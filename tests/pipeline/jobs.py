"""Helpers of the engine's tests: manifests of clips that the stub stages do not decode, configurations, outputs to compare."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import psutil
import warm
from processes import living

from pipeline.config import Config
from stages.specs import STAGE_ORDER

STUBS = "stub_stages:build_stubs"


def make_manifest(folder: Path, captions: list[str]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clip.mp4").write_bytes(b"no video, but nobody looks")
    rows = [{"id": f"c{row:04d}", "video": "clip.mp4", "caption": caption} for row, caption in enumerate(captions)]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(manifest)


def make_config(workers: int = 1, rows_per_batch: int = 1, entities: dict | None = None, **engine) -> Config:
    pool = {"workers": workers, "num_cpus": 0.2, "memory_limit_gib": 0.6}
    pools = [
        {"stages": STAGE_ORDER[:1], **pool},
        {"stages": STAGE_ORDER[1:], "rows_per_batch": rows_per_batch, **pool},
    ]
    engine = {"rows_per_chunk": 8, "rows_per_slice": 4, "min_deadline_s": 2, "object_store_mb": 100, "pools": pools} | engine
    return Config.model_validate({"engine": engine, "entities": entities or {}})


def contents(out: Path) -> dict[str, bytes]:
    """Every file of an output that must be equal between runs."""
    files = (path for path in out.rglob("*") if path.is_file() and "_run" not in path.parts)
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(files)}


def outcomes(out: Path) -> dict[int, str]:
    """row -> "sample" or the reason of its rejection, from index and rejects."""
    import pyarrow.parquet as pq

    found = {}
    for path in sorted((out / "index").glob("*.parquet")):
        found |= dict.fromkeys(pq.read_table(path)["row"].to_pylist(), "sample")
    for path in sorted((out / "rejects").glob("*.parquet")):
        table = pq.read_table(path)
        found |= dict(zip(table["row"].to_pylist(), table["reason"].to_pylist(), strict=True))
    return found


def traces(folder: Path) -> list[dict]:
    """What the stubs left in the folder of stub_stages.TRACES."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def helpers(folder: Path) -> list[psutil.Process]:
    """Processes that stubs started and that are still there."""
    started = [trace["helper"] for trace in traces(folder) if trace.get("helper")]
    return living(started)


def start(
    manifest: str, out: Path, engine: str, largest_file: int | None = None, stdin=None, stdout=None, **settings
) -> warm.Program:
    """The same job in a process of its own, as a person would start it; with a limit (`ulimit -f`) of so many bytes a file."""
    request = json.dumps([manifest, str(out), engine, largest_file, settings])
    env = {
        name: value for name, value in os.environ.items() if name != "PYTHONBREAKPOINT"
    }  # Ray sets it, also in a test's process
    command = [sys.executable, __file__, request]
    return warm.Program(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=env)


def kill_all(process: warm.Program) -> None:
    """SIGKILL the driver and everything below it, and wait until all of it is gone."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.communicate()
    psutil.wait_procs(family, timeout=100)


def wait_for(happened, timeout_s: float = 120.0):
    """What `happened` gives, once it is true."""
    ends = time.monotonic() + timeout_s
    while not (found := happened()):
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.02)
    return found


def main() -> None:
    from pipeline.job import run_job

    manifest, out, engine, largest_file, settings = json.loads(sys.argv[1])
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    result = run_job(make_config(**settings), input=manifest, output=out, engine=engine, stage_factory=STUBS)
    sys.stderr.write(result.message)
    sys.exit(result.exit_code)


if __name__ == "__main__":
    main()
