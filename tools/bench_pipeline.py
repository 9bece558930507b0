"""What the engine costs: `python -m tools.bench_pipeline efficiency|overhead|wall [--json]`.

efficiency: seconds of the stages in a plain one-thread loop over N clips / (cores x wall from first to last commit of a run on
Ray), over a manifest's clips repeated under distinct ids; median of `--repeat` runs; floor 0.75. overhead: stub stages that
decode nothing, so that only the engine works: milliseconds a clip, and the driver's peak memory at 1,000 and 100,000 rows;
floors: 15 ms, 50 MB more. wall: a whole job from the command line to its end, imports and models included, on Ray / in a plain
pool of processes that share nothing and survive nothing, run in turn; floor 1.15 at 130 clips.
"""

from __future__ import annotations

import base64
import itertools
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from materia.base import storage
from materia.base.weights.files import Missing
from materia.dataset.documents import Provenance
from pipeline.config import Config, load_config
from pipeline.engine.child import run_stages
from pipeline.engine.messages import JobSpec
from pipeline.engine.spool import commit_chunk, plan_folder
from pipeline.engine.worker import read_rows
from pipeline.job import STAGE_FACTORY, run_job
from pipeline.plan import make_plan, open_plan
from stages.base import Stage
from stages.records import Background, EntityWord, Frame, Instance, MaskRle, Row, Sample, StageName, VideoInfo, encode_rows
from stages.specs import STAGE_ORDER, build_stages

_ROWS = (1_000, 100_000)
_PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII=")


@click.group()
def main() -> None:
    """Measure the engine."""


@main.command()
@click.option("--config", "config_path", default="configs/local.yaml", show_default=True)
@click.option("--input", "manifest", required=True, help="JSONL manifest of real clips.")
@click.option("--clips", default=200, show_default=True, help="Clips of a run; the manifest's, repeated.")
@click.option("--cores", default=2, show_default=True)
@click.option("--repeat", default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def efficiency(config_path: str, manifest: str, clips: int, cores: int, repeat: int, as_json: bool) -> None:
    """Seconds of the same stage code in a plain loop / (cores x wall from first to last commit)."""
    with tempfile.TemporaryDirectory() as folder:
        config, repeated = many_clips(config_path, Path(manifest), Path(folder), clips)
        plain_s = _in_fresh_process("_plain_loop", config, repeated, folder)["seconds"]
        runs = [_in_fresh_process("_ray_run", config, repeated, f"{folder}/{number}") for number in range(repeat)]
    walls = [run["wall_s"] for run in runs]
    ratios = [plain_s / (cores * wall) for wall in walls]
    result = {"clips": clips, "plain_s": plain_s, "wall_s": walls, "efficiency": ratios, "median": statistics.median(ratios)}
    _show(result, as_json)


@main.command()
@click.option("--config", "config_path", default="configs/local.yaml", show_default=True)
@click.option("--input", "manifest", required=True, help="JSONL manifest of real clips.")
@click.option("--clips", default=130, show_default=True, help="Clips of a run; the manifest's, repeated.")
@click.option("--processes", default=2, show_default=True, help="Of the plain pool; cores of the machine.")
@click.option("--repeat", default=2, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def wall(config_path: str, manifest: str, clips: int, processes: int, repeat: int, as_json: bool) -> None:
    """Seconds of a whole job on Ray / of a plain pool of processes that do the same work."""
    walls: dict[str, list[float]] = {"_ray_run": [], "_plain_pool": []}
    with tempfile.TemporaryDirectory() as folder:
        config, repeated = many_clips(config_path, Path(manifest), Path(folder), clips)
        for number in range(repeat):
            for name, seconds in walls.items():
                began = time.monotonic()
                more = STAGE_FACTORY if name == "_ray_run" else str(processes)
                _in_fresh_process(name, config, repeated, f"{folder}/{name}{number}", more)
                seconds.append(time.monotonic() - began)
    ratios = [on_ray / in_pool for on_ray, in_pool in zip(*walls.values(), strict=True)]
    _show({"clips": clips, "ray_s": walls["_ray_run"], "pool_s": walls["_plain_pool"], "ratio": ratios}, as_json)


@main.command()
@click.option("--json", "as_json", is_flag=True)
def overhead(as_json: bool) -> None:
    """Milliseconds a clip and the driver's memory when the stages do nothing."""
    pools = [
        {"stages": STAGE_ORDER[:1], "workers": 2, "num_cpus": 0.2},
        {"stages": STAGE_ORDER[1:], "workers": 2, "num_cpus": 0.2},
    ]
    config = Config.model_validate({"engine": {"rows_per_chunk": 1000, "rows_per_slice": 16, "pools": pools}})
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        for rows in _ROWS:
            manifest = stub_manifest(Path(folder), rows)
            runs[rows] = _in_fresh_process("_ray_run", config, manifest, f"{folder}/{rows}", "tools.bench_pipeline:stub_stages")
    few, many = (runs[rows] for rows in _ROWS)
    result = {
        "rows": _ROWS,
        "job_s": [few["job_s"], many["job_s"]],
        "ms_a_clip": 1000 * (many["job_s"] - few["job_s"]) / (_ROWS[1] - _ROWS[0]),
        "driver_peak_mb": [few["peak_mb"], many["peak_mb"]],
        "driver_growth_mb": many["peak_mb"] - few["peak_mb"],
    }
    _show(result, as_json)


class Stub:
    """A stage that costs nothing; the last one fills in what a sample must have."""

    def __init__(self, name: StageName) -> None:
        self.name = name

    def missing(self) -> list[Missing]:
        """Nothing."""
        return []

    def identity(self) -> dict[str, str]:
        """The same always."""
        return {"prompt": "stub"}

    def setup(self) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to give back."""

    def process(self, samples: list[Sample]) -> list[Row]:
        """The samples, by the last stage with all their parts."""
        return [complete(sample) if self.name == STAGE_ORDER[-1] else sample for sample in samples]


def stub_stages(_config: Config, names: Iterable[StageName]) -> list[Stub]:
    """Stage factory of the overhead measurement."""
    return [Stub(name) for name in names]


def complete(sample: Sample) -> Sample:
    """The sample with all that it must have."""
    sample.entities = [EntityWord(word="dog", category="subject", spans=[(2, 5)])]
    sample.video = VideoInfo(
        container="mp4", codec="none", width=1, height=1, rotation=0, sar="1:1", fps=10, duration_s=1, n_frames=10
    )
    sample.frames = [Frame(percent=percent, index=0, time_s=0.0, jpeg=_PIXEL) for percent in (5, 50, 95)]
    sample.instances = [
        Instance(
            word="dog",
            category="subject",
            frame=1,
            box_xyxy_px=(0, 0, 1, 1),
            detector_score=1,
            mask_rle=MaskRle(size=(1, 1), counts="01"),
            mask_score=1,
            area_share=1,
            crop_xyxy_px=(0, 0, 1, 1),
            png=_PIXEL,
        )
    ]
    sample.background = Background(word=None, method="stub", masked_share=0, residual={}, png=_PIXEL)
    return sample


def _plain_loop(config: Config, manifest: str, folder: str, _factory: str) -> dict[str, float]:
    """Seconds of all stages over all slices, models loaded; nothing is written."""
    plan = make_plan(manifest, f"{folder}/plan", config.source, config.engine.rows_per_chunk, config.engine.rows_per_slice)
    pools = [(build_stages(config, pool.stages), pool.rows_per_batch) for pool in config.engine.pools]
    for stages, _ in pools:
        for stage in stages:
            stage.setup()
    seconds = 0.0
    for number in range(plan.n_slices):
        rows = read_rows(plan, number, config.source)
        for stages, rows_per_batch in pools:
            began = time.perf_counter()
            rows = _through(stages, rows_per_batch, rows)
            seconds += time.perf_counter() - began
    return {"seconds": seconds}


def _plain_pool(config: Config, manifest: str, out: str, processes: str) -> dict[str, float]:
    """The same shards by processes that each hold all models and take one slice after the other."""
    plan = make_plan(manifest, plan_folder(out), config.source, config.engine.rows_per_chunk, config.engine.rows_per_slice)
    request = (config.model_dump_json(), out)
    with multiprocessing.get_context("spawn").Pool(int(processes), _pool_process, request) as pool:
        hashes: dict[str, str] = dict.fromkeys((name for name in STAGE_ORDER if name != "cut"), "")
        job = JobSpec(config.model_dump_json().encode(), out, Provenance("", hashes), "", [])
        slices = pool.imap(_pool_slice, range(plan.n_slices))
        for chunk in range(plan.n_chunks):
            commit_chunk(job, plan.extra, chunk, itertools.islice(slices, len(plan.slices_of(chunk))))
    return {}


_process: dict[str, Any] = {}
"""What a process of the plain pool holds: stages by pool, configuration, plan."""


def _pool_process(config_json: str, out: str) -> None:
    config = Config.model_validate_json(config_json)
    pools = [(build_stages(config, pool.stages), pool.rows_per_batch) for pool in config.engine.pools]
    for stages, _ in pools:
        for stage in stages:
            stage.setup()
    _process.update(pools=pools, config=config, plan=open_plan(plan_folder(out)))


def _pool_slice(number: int) -> bytes:
    rows = read_rows(_process["plan"], number, _process["config"].source)
    for stages, rows_per_batch in _process["pools"]:
        rows = _through(stages, rows_per_batch, rows)
    return encode_rows(rows)


def _through(stages: list[Stage], rows_per_batch: int, rows: list[Row]) -> list[Row]:
    """Samples among the rows through the stages of a pool, in batches; rejections stay where they are."""
    samples = [row for row in rows if isinstance(row, Sample)]
    batches = [samples[first : first + rows_per_batch] for first in range(0, len(samples), rows_per_batch)]
    done = iter([row for batch in batches for row in run_stages(stages, batch, lambda _: None).rows])
    return [next(done) if isinstance(row, Sample) else row for row in rows]


def _ray_run(config: Config, manifest: str, out: str, factory: str) -> dict[str, float]:
    """A job on Ray: wall from first to last commit, of the whole job, and this process's peak memory."""
    began = time.monotonic()
    result = run_job(config, input=manifest, output=out, engine="ray", stage_factory=factory)
    if result.exit_code:
        raise click.ClickException(result.message)
    job_s = time.monotonic() - began
    times = [path.stat().st_mtime for path in Path(out, "commits").iterdir()]
    status = Path("/proc/self/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {"wall_s": max(times) - min(times), "job_s": job_s, "peak_mb": peak_kib / 1024}


_MEASUREMENTS: dict[str, Callable[[Config, str, str, str], dict[str, float]]] = {
    "_plain_loop": _plain_loop,
    "_plain_pool": _plain_pool,
    "_ray_run": _ray_run,
}


def _in_fresh_process(name: str, config: Config, manifest: str, out: str, more: str = STAGE_FACTORY) -> Any:
    """A measurement whose memory and caches are its own, with one thread a process. `more`: its last argument."""
    request = json.dumps([name, config.model_dump_json(), manifest, out, more])
    command = ["env", "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1", sys.executable, "-m", __spec__.name]
    answer = subprocess.run([*command, "measure", request], stdout=subprocess.PIPE, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


@main.command(hidden=True)
@click.argument("request")
def measure(request: str) -> None:
    """One measurement, as asked by `_in_fresh_process`."""
    name, config_json, manifest, out, more = json.loads(request)
    print(json.dumps(_MEASUREMENTS[name](Config.model_validate_json(config_json), manifest, out, more)))


def many_clips(config_path: str, manifest: Path, folder: Path, clips: int) -> tuple[Config, str]:
    """A configuration that may read the manifest's clips from elsewhere, and a manifest that repeats them."""
    config = load_config(config_path)
    settings = config.source.model_copy(update={"allowed_roots": [str(manifest.resolve().parent)]})
    return config.model_copy(update={"source": settings}), _repeat_manifest(manifest, folder / "clips.jsonl", clips)


def _repeat_manifest(manifest: Path, target: Path, clips: int) -> str:
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
    with target.open("w", encoding="utf-8") as file:
        for number in range(clips):
            row = rows[number % len(rows)]
            address = storage.join(str(manifest.resolve().parent), row["video"])
            file.write(json.dumps({**row, "id": f"n{number:05d}", "video": address}) + "\n")
    return str(target)


def stub_manifest(folder: Path, rows: int) -> str:
    """A manifest of so many rows that share one file, which is no video."""
    (folder / "clip.mp4").write_bytes(b"stub")
    target = folder / f"{rows}.jsonl"
    with target.open("w") as file:
        file.writelines(_stub_lines(rows))
    return str(target)


def _stub_lines(rows: int) -> Iterator[str]:
    for row in range(rows):
        yield json.dumps({"id": f"n{row}", "video": "clip.mp4", "caption": "a dog"}) + "\n"


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        values = value if isinstance(value, list | tuple) else [value]
        print(f"{name:18}", "  ".join(f"{number:.3f}" if isinstance(number, float) else str(number) for number in values))


if __name__ == "__main__":
    main()
