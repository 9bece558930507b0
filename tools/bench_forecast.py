"""Whether `materia plan` is right: `python -m tools.bench_forecast clips|actors [--json]`.

clips: a local job of real clips, planned from some of them and then run; bound: the pace within 20 %. actors: stages that sleep
as networks on an H100 would, planned and then run with 4 and 24 actors on this machine (bound: the pace within 10 %, of the
simulation, too), and simulated with up to 4,000, which says where the slowest pool falls below 0.95 busy.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from pipeline.capacity.forecast import forecast
from pipeline.capacity.measure import measure
from pipeline.capacity.rates import Rates
from pipeline.capacity.simulation import Simulated, SimulatedPool, simulate
from pipeline.config import Config
from pipeline.job import run_job
from stages.records import Row, Sample, StageName
from tools.bench_pipeline import Stub, many_clips, stub_manifest

H100_S: dict[StageName, float] = {
    "entities": 0.012,
    "frames": 0.08,
    "localise": 0.03,
    "link": 0.005,
    "segment": 0.045,
    "faces": 0.005,
    "background": 0.03,
    "cut": 0.05,
}
"""Seconds for a clip, assumed: of the order of what such networks take there."""
_POOLS: tuple[tuple[StageName, ...], ...] = (
    ("entities",),
    ("frames",),
    ("localise", "link", "segment", "faces", "background"),
    ("cut",),
)
_ACTORS: dict[int, tuple[int, ...]] = {4: (1, 1, 1, 1), 24: (2, 7, 10, 5)}
_SIMULATED: dict[int, tuple[int, ...]] = {128: (11, 37, 53, 27), 1000: (83, 292, 417, 208), 4000: (332, 1168, 1668, 832)}
_SLICES_OF_ACTOR = 30
_OF_SLICE, _OF_CHUNK = 8, 64
_RUN_S = 60.0  # a job's length, about
_STEADY = (0.2, 0.8)  # of the slices: between a start that fills pools and an end that empties them
_MEASURED_CLIPS = 64


@click.group()
def main() -> None:
    """Hold plans against jobs."""


class Sleeper(Stub):
    """A stage that takes its time, alone."""

    def process(self, samples: list[Sample]) -> list[Row]:
        """The samples."""
        time.sleep(H100_S[self.name] * len(samples))
        return super().process(samples)


def sleepers(config: Config, names: Iterable[StageName]) -> list[Sleeper]:
    """Stage factory."""
    return [Sleeper(name) for name in names]


@main.command()
@click.option("--config", "config_path", default="configs/local.yaml", show_default=True)
@click.option("--input", "manifest", required=True, help="JSONL manifest of real clips.")
@click.option("--clips", default=200, show_default=True, help="Clips of the job; the manifest's, repeated.")
@click.option("--json", "as_json", is_flag=True)
def clips(config_path: str, manifest: str, clips: int, as_json: bool) -> None:
    """A job of real clips."""
    with tempfile.TemporaryDirectory() as folder:
        config, repeated = many_clips(config_path, Path(manifest), Path(folder), clips)
        rates, rows = measure(config, repeated, _MEASURED_CLIPS)
        planned = forecast(config, rates, rows, cores=os.cpu_count())
        out = f"{folder}/out"
        began = time.monotonic()
        result = run_job(config, input=repeated, output=out)
        assert result.exit_code == 0, result.message
        whole_s = time.monotonic() - began
        pace = _steady_pace(out)
    shown = {
        "clips": clips,
        "clips/s planned": planned.clips_per_s,
        "clips/s": pace,
        "off by": planned.clips_per_s / pace - 1,
        "seconds planned": 3600 * planned.hours,
        "seconds, with Ray's start": whole_s,
        "bounded by": planned.bottleneck,
    }
    if as_json:
        print(json.dumps(shown))
        return
    for name, value in shown.items():
        print(f"{name:26} {value:.3f}" if isinstance(value, float) else f"{name:26} {value}")


@main.command()
@click.option("--json", "as_json", is_flag=True)
def actors(as_json: bool) -> None:
    """Stages that sleep, with more and more actors."""
    found: list[dict[str, Any]] = []
    rates: Rates | None = None
    driver_s = commit_s = 0.0
    for count, workers in _ACTORS.items():
        config = _config(workers)
        with tempfile.TemporaryDirectory() as folder:
            if rates is None:
                rates, _ = measure(config, stub_manifest(Path(folder), 256), 64, stage_factory=f"{__spec__.name}:sleepers")
            pace = forecast(config, rates, 1).clips_per_s
            rows = math.ceil(pace * _RUN_S / _OF_CHUNK) * _OF_CHUNK
            cpu_s = time.process_time()
            result = run_job(
                config,
                input=stub_manifest(Path(folder), rows),
                output=f"{folder}/out",
                stage_factory=f"{__spec__.name}:sleepers",
            )
            assert result.exit_code == 0, result.message
            cpu_s = time.process_time() - cpu_s
            slices = rows // _OF_SLICE
            commit_s = rates.commit_s * _OF_CHUNK
            driver_s = max(0.0, cpu_s - commit_s * rows / _OF_CHUNK) / (slices * len(_POOLS))
            simulated = _simulate(config, rates, slices, driver_s, commit_s)
            real = _steady_pace(f"{folder}/out")
        found.append(_row(count, workers, pace, simulated, slices, real))
    assert rates is not None
    for count, workers in _SIMULATED.items():
        config = _config(workers)
        slices = _SLICES_OF_ACTOR * count
        simulated = _simulate(config, rates, slices, driver_s, commit_s, on_cluster=True)
        found.append(_row(count, workers, forecast(config, rates, 1).clips_per_s, simulated, slices, None))
    if as_json:
        print(json.dumps({"driver_ms_a_step": 1000 * driver_s, "commit_ms": 1000 * commit_s, "actors": found}))
        return
    table = Table(*found[0], box=None)
    for row in found:
        table.add_row(
            *("" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values())
        )
    Console(width=160).print(table)
    print(f"driver {1000 * driver_s:.2f} ms of CPU a slice and pool, {1000 * commit_s:.1f} ms a commit")


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _row(
    count: int, workers: tuple[int, ...], pace: float, simulated: Simulated, slices: int, real: float | None
) -> dict[str, Any]:
    simulated_pace = slices * _OF_SLICE / simulated.wall_s
    return {
        "actors": count,
        "of each pool": "/".join(map(str, workers)),
        "clips/s planned": pace,
        "simulated": simulated_pace,
        "real": real,
        "plan off by": None if real is None else pace / real - 1,
        "busy, simulated": max(simulated.busy),
    }


def _config(workers: tuple[int, ...]) -> Config:
    pools = [
        {"stages": stages, "workers": count, "num_cpus": 0.05, "rows_per_batch": _OF_SLICE}
        for stages, count in zip(_POOLS, workers, strict=True)
    ]
    return Config.model_validate({"engine": {"rows_per_chunk": _OF_CHUNK, "rows_per_slice": _OF_SLICE, "pools": pools}})


def _simulate(
    config: Config, rates: Rates, slices: int, driver_s: float, commit_s: float, on_cluster: bool = False
) -> Simulated:
    pools = [SimulatedPool(pool.workers, _OF_SLICE * rates.of(pool.stages).seconds) for pool in config.engine.pools]
    of_chunk = _OF_CHUNK // _OF_SLICE
    return simulate(pools, slices, slices_per_chunk=of_chunk, driver_s=driver_s, commit_s=commit_s, on_cluster=on_cluster)


def _steady_pace(out: str) -> float:
    """Clips a second of the job's middle."""
    lines = [json.loads(line) for line in Path(out, "_run/timings.jsonl").read_text().splitlines()]
    first, last = (int(share * (len(lines) - 1)) for share in _STEADY)
    rows = sum(line["rows"] for line in lines[first + 1 : last + 1])
    return float(rows / (lines[last]["end_s"] - lines[first]["end_s"]))


if __name__ == "__main__":
    main()
