"""How fast manifests are planned: `python -m tools.bench_plan [--rows N] [--files N] [--format F] [--engine E] [--json]`.

Rows are like real ones: a path, a caption of 10 to 30 words, an id, start and end, two columns more. Rows a second are of the
whole planning, duplicates included, Ray's start left out; a CPU second is one of this process or Ray's workers, whose PSS
together is the memory. Floor: 100,000 rows a second on two cores from Parquet, in many files and in one.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import psutil

from pipeline.config import Config
from pipeline.engine.ray_tasks import RayTasks
from pipeline.plan import Tasks, make_plan
from tools.bench_scale import Sampler

_WORDS = ["a", "the", "of", "in", "on", "near", *(f"word{number}" for number in range(200)), "café"]
_BATCH_ROWS = 50_000
_SAMPLE_S = 1.0


@click.command()
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--files", default=8, show_default=True, help="Among which the rows are divided.")
@click.option("--format", "suffix", type=click.Choice(["parquet", "jsonl", "csv"]), default="parquet", show_default=True)
@click.option("--engine", type=click.Choice(["ray", "serial"]), default="ray", show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(rows: int, files: int, suffix: str, engine: str, as_json: bool) -> None:
    """Plan a synthetic manifest and say how long that took."""
    config = Config()
    tasks: RayTasks | None = RayTasks(config, None) if engine == "ray" else None
    with tempfile.TemporaryDirectory() as folder:
        for number in range(files):
            write_part(Path(folder) / f"part-{number:04d}.{suffix}", rows * number // files, rows * (number + 1) // files)
        if tasks is not None:
            _warm_up(tasks)
        with Sampler(_memory, _SAMPLE_S) as memory:
            began, cpu = time.monotonic(), _cpu_s()
            plan = make_plan(f"{folder}/part-*.{suffix}", f"{folder}/plan", config.source, 1024, 64, tasks=tasks)
            wall_s, cpu_s = time.monotonic() - began, _cpu_s() - cpu
    if tasks is not None:
        tasks.close()
    result = {
        "rows": plan.rows,
        "files": files,
        "format": suffix,
        "engine": engine,
        "segments": len(plan.segments),
        "wall_s": round(wall_s, 2),
        "rows_a_second": round(plan.rows / wall_s),
        "cpu_s": round(cpu_s, 2),
        "rows_a_cpu_second": round(plan.rows / cpu_s),
        "peak_mb": round(max((total for _, (_, total) in memory.seen), default=0) / 1e6),
        "driver_peak_mb": round(max((own for _, (own, _) in memory.seen), default=0) / 1e6),
    }
    click.echo(json.dumps(result) if as_json else "\n".join(f"{name:14} {value}" for name, value in result.items()))


def write_part(path: Path, first: int, end: int) -> None:
    """Rows `first` to before `end` of the synthetic manifest; row groups of 50,000 in Parquet."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    chance = random.Random(first)
    tables = (_table(start, min(start + _BATCH_ROWS, end), chance) for start in range(first, end, _BATCH_ROWS))
    schema = _table(0, 1, chance).schema
    if path.suffix == ".jsonl":
        with path.open("w") as file:
            for table in tables:
                file.writelines(json.dumps(row) + "\n" for row in table.to_pylist())
        return
    with pq.ParquetWriter(path, schema) if path.suffix == ".parquet" else pa.csv.CSVWriter(path, schema) as writer:
        for table in tables:
            writer.write_table(table)


def _table(first: int, end: int, chance: random.Random) -> Any:
    import pyarrow as pa

    rows = range(first, end)
    starts = [round(chance.random() * 600, 2) for _ in rows]
    captions = (" ".join(chance.choices(_WORDS, k=chance.randint(10, 30))) for _ in rows)
    return pa.table(
        {
            "video": [f"videos/{row // 1000:05d}/{row:09d}.mp4" for row in rows],
            "caption": [f"{caption.capitalize()}." for caption in captions],
            "id": [f"clip-{row:09d}" for row in rows],
            "start": starts,
            "end": [start + 5.0 for start in starts],
            "score": [chance.random() for _ in rows],
            "licence": ["CC-BY-4.0"] * len(rows),
        }
    )


def _warm_up(tasks: Tasks) -> None:
    """Start Ray, and a process a core with what planning imports."""
    for _ in tasks(_wait, [0.5] * (psutil.cpu_count() or 1)):
        pass


def _wait(seconds: float) -> None:
    import pipeline.plan  # noqa: F401

    time.sleep(seconds)


def _workers() -> list[psutil.Process]:
    return [process for process in psutil.Process().children(recursive=True) if process.name().startswith("ray::")]


def _cpu_s() -> float:
    """Seconds of CPU of this process and Ray's workers so far."""
    return time.process_time() + sum(sum(process.cpu_times()[:2]) for process in _workers())


def _memory() -> tuple[int, int]:
    """PSS of this process, and with Ray's workers, bytes."""
    own = total = psutil.Process().memory_full_info().pss
    for process in _workers():
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return own, total


if __name__ == "__main__":
    main()
