"""Whether a job stays within its bounds: `python -m tools.bench_scale rows|balance|driver|memory`.

rows: many rows with stub stages on Ray, real plan and commits: the driver's memory over time, and rows/s by tenths of the job.
balance: stub stages that sleep, a quick pool before a slow one and the reverse: whether the slow one always has work, and how
much waits.
driver: what the books of the driver cost for a slice with a thousand workers, without Ray.
memory: one clip as 4K ten-bit video in every row, through a real configuration on Ray: memory of all processes, and of Ray's
object store, against what the configuration allows.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import click
import psutil

from pipeline.capacity.measure import cpu_s
from pipeline.capacity.simulation import SimulatedPool, simulate
from pipeline.config import Config, load_config
from pipeline.engine.flow import Flow, Given
from pipeline.job import STAGE_FACTORY, run_job
from stages.records import Row, Sample, StageName
from stages.specs import STAGE_ORDER
from tools.bench_pipeline import Stub, stub_manifest

_MB = 2**20


@click.group()
def main() -> None:
    """Measure a job's bounds."""


class Sampler:
    """A context in which a thread looks at something every `every_s` seconds; `seen`: (seconds since it began, what it was)."""

    def __init__(self, look: Callable[[], Any], every_s: float) -> None:
        self._look, self._every_s = look, every_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seen: list[tuple[float, Any]] = []

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        began = time.monotonic()
        while not self._stopped.wait(self._every_s):
            self.seen.append((time.monotonic() - began, self._look()))


@main.command()
@click.option("--rows", default=500_000, show_default=True)
@click.option("--workers", default=2, show_default=True, help="Of the one pool.")
def rows(rows: int, workers: int) -> None:
    """Memory of the driver over time, and rows/s by tenths; and rows for a CPU second, which do not depend on neighbours."""
    pool = {"stages": STAGE_ORDER, "workers": workers, "num_cpus": 0.2, "rows_per_batch": 64}
    config = Config.model_validate({"engine": {"rows_per_chunk": 1024, "rows_per_slice": 64, "pools": [pool]}})
    driver = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        manifest = stub_manifest(Path(folder), rows)
        began = time.monotonic()
        with Sampler(lambda: (driver.memory_info().rss, *_cpu_s()), 2.0) as sampler:
            result = run_job(config, input=manifest, output=str(out), stage_factory="tools.bench_pipeline:stub_stages")
        assert result.exit_code == 0, result.message
        whole_s = time.monotonic() - began
        lines = map(json.loads, (out / "_run/timings.jsonl").read_text().splitlines())
        ends = [line["end_s"] for line in lines for _ in range(line["rows"])]
    most = max(range(len(sampler.seen)), key=lambda number: sampler.seen[number][1][2])
    looks = sampler.seen[: most + 1]  # then workers end, and what they have spent is no longer counted
    planned_s = looks[-1][0] - ends[-1]  # about; planning comes before the first slice
    at_s = [at - planned_s for at, _ in looks]
    tenth = len(ends) // 10
    bounds = [ends[0], *(ends[number * tenth - 1] for number in range(1, 11))]
    print("tenth  rows/s  rows a CPU second  ms of the driver's CPU a row  driver MB")
    for number, (start, end) in enumerate(itertools.pairwise(bounds), 1):
        seen = [what for at, (_, what) in zip(at_s, looks, strict=True) if start - 2 <= at <= end + 2]
        share = tenth * (len(seen) - 1) * 2.0 / (end - start)  # rows between the first and the last look
        own_s, all_s = seen[-1][1] - seen[0][1], seen[-1][2] - seen[0][2]
        held = max(rss for rss, *_ in seen) / _MB
        print(f"{number:5}  {tenth / (end - start):6.0f}  {share / all_s:17.0f}  {1000 * own_s / share:28.2f}  {held:9.0f}")
    print(f"{len(ends)} rows, {whole_s:.0f} s with planning")


def _cpu_s() -> tuple[float, float]:
    """Seconds of CPU until now, of this process; and of it and all below it."""
    return time.process_time(), cpu_s()


class Sleeper(Stub):
    """A stage that takes `_SECONDS[name]` for a row; the frames make a quarter of a megabyte of it."""

    def process(self, samples: list[Sample]) -> list[Row]:
        """The samples."""
        time.sleep(_SECONDS[self.name] * len(samples))
        if self.name == "frames":
            for sample in samples:
                sample.media = bytes(_MB // 4)
        return super().process(samples)


_SECONDS: Counter[StageName] = Counter()


def sleepers(config: Config, names: Iterable[StageName]) -> list[Sleeper]:
    """Stage factory of `balance`; what a stage takes is said where a stage has options."""
    for name in names:
        _SECONDS[name] = getattr(getattr(config, name, None), "options", {}).get("sleep_s", 0.0)
    return [Sleeper(name) for name in names]


@main.command()
@click.option("--slices", default=120, show_default=True)
def balance(slices: int) -> None:
    """How often every worker of the slowest pool has work, and what waits in Ray's object store of 100 MB."""
    from pipeline.engine import ray_runner

    vars(ray_runner)["Flow"] = _WatchedFlow
    for what, decode_s, card_s in (("quick decoding, slow card", 0.001, 0.05), ("slow decoding, quick card", 0.2, 0.005)):
        pools = [
            {"stages": STAGE_ORDER[:1], "workers": 1},
            {"stages": STAGE_ORDER[1:2], "workers": 3},
            {"stages": STAGE_ORDER[2:-1], "workers": 1},
            {"stages": STAGE_ORDER[-1:], "workers": 1},
        ]
        pools = [{"num_cpus": 0.1, "rows_per_batch": 16, **pool} for pool in pools]
        engine = {"rows_per_chunk": 64, "rows_per_slice": 16, "object_store_mb": 100, "pools": pools}
        options = {"frames": {"options": {"sleep_s": decode_s}}, "localise": {"options": {"sleep_s": card_s}}}
        config = Config.model_validate({"engine": engine, **options})
        slow, workers = (2, 1) if card_s > decode_s / 3 else (1, 3)
        with tempfile.TemporaryDirectory() as folder:
            manifest = stub_manifest(Path(folder), slices * 16)
            with Sampler(lambda: _WatchedFlow.state(slow), 0.1) as sampler:  # noqa: B023 (called within this turn)
                factory = f"{__spec__.name}:sleepers"
                result = run_job(config, input=manifest, output=f"{folder}/out", stage_factory=factory)
            assert result.exit_code == 0, result.message
        begun = [state for _, state in sampler.seen if state.finished and not state.ends]
        fed = sum(state.at_work == workers for state in begun) / len(begun)
        print(f"{what}: all workers of pool {slow} had work {fed:.3f} of the time; slices held at most", end=" ")
        print(f"{max(state.held for _, state in sampler.seen) / _MB:.0f} MB, bound 50 MB")


class _State(NamedTuple):
    """Of a flow at a moment: workers of the slow pool that have work, bytes held, whether slices are finished, or all begun."""

    at_work: int = 0
    held: float = 0.0
    finished: bool = False
    ends: bool = False


class _WatchedFlow(Flow):
    """The books of the job that runs."""

    now: ClassVar[_WatchedFlow | None] = None

    def __init__(self, workers: Sequence[int], bound: float) -> None:
        super().__init__(workers, bound)
        self.finished = self.ends = False
        _WatchedFlow.now = self if workers else None

    def next(self, left: int) -> Iterator[Given]:
        """As it is."""
        self.ends = not left
        return super().next(left)

    def done(self, given: Given, size: int) -> bool:
        """As it is."""
        is_last = super().done(given, size)
        self.finished |= is_last
        return is_last

    @classmethod
    def state(cls, pool: int) -> _State:
        """Now."""
        flow = cls.now
        return _State(flow.at_work(pool), flow.held, flow.finished, flow.ends) if flow else _State()


@main.command()
@click.option("--workers", default=1000, show_default=True)
@click.option("--slices", default=100_000, show_default=True)
def driver(workers: int, slices: int) -> None:
    """What the books cost for a slice; on Ray a call of an actor costs the driver about 1 ms besides."""
    shares = (0.1, 0.4, 0.4, 0.1)
    pools = [SimulatedPool(round(share * workers), round(share * workers), _MB) for share in shares]
    began = time.process_time()
    simulate(pools, slices, slices_per_chunk=16)
    cost_s = (time.process_time() - began) / slices
    print(
        f"{workers} workers in {len(pools)} pools: {1e6 * cost_s:.0f} us of CPU a slice, {1e6 * cost_s / len(pools):.0f} a step"
    )


@main.command()
@click.option("--config", "config_path", default="configs/local.yaml", show_default=True)
@click.option("--clip", required=True, help="A video; it is enlarged to 3840x2160, ten bits, HEVC.")
@click.option("--caption", required=True, help="What is to be seen in it.")
@click.option("--rows", default=16, show_default=True)
@click.option("--set", "overrides", multiple=True, help="As of `materia run`.")
def memory(config_path: str, clip: str, caption: str, rows: int, overrides: tuple[str, ...]) -> None:
    """Memory of all processes of a job."""
    config = load_config(config_path, overrides)
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "clips.jsonl")
        # In a process of its own: the encoder's memory is none of the driver's.
        command = [sys.executable, "-m", __spec__.name, "enlarge", clip, f"{folder}/clip.mp4"]
        subprocess.run(command, check=True)
        lines = ({"id": f"n{row}", "video": "clip.mp4", "caption": caption} for row in range(rows))
        manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
        with Sampler(_memory_of_all, 1.0) as sampler:
            result = run_job(config, input=str(manifest), output=f"{folder}/out", stage_factory=STAGE_FACTORY)
    print(result.message)
    kinds = sorted({kind for _, seen in sampler.seen for kind in seen})
    for kind in kinds:
        print(f"{kind:34} {max(seen[kind] for _, seen in sampler.seen) / _MB:7.0f} MB at most")
    allowed = sum(pool.workers * pool.memory_limit_gib for pool in config.engine.pools) * 1024
    peak = max(seen.total() for _, seen in sampler.seen) / _MB
    print(f"{'all of it':34} {peak:7.0f} MB at most")
    print(f"memory_limit_gib x workers {allowed:.0f} MB + object_store_mb {config.engine.object_store_mb}")


@main.command()
@click.argument("clip")
@click.argument("target")
def enlarge(clip: str, target: str, n_frames: int = 60) -> None:
    """Write a clip's first frames as 4K ten-bit HEVC, with grain, which makes its pictures as large as a camera's."""
    import av
    import cv2
    import numpy as np

    generator = np.random.default_rng(0)
    grain = generator.integers(-3, 4, (2160 + 64, 3840 + 64, 1)).astype(np.int16)
    with av.open(clip) as source, av.open(target, "w") as output:
        stream = output.add_stream("libx265", rate=25)
        stream.width, stream.height, stream.pix_fmt = 3840, 2160, "yuv420p10le"
        stream.options = {"preset": "ultrafast", "x265-params": "log-level=error:crf=22"}
        for frame in itertools.islice(source.decode(video=0), n_frames):
            left, top = generator.integers(0, 64, 2)
            large = cv2.resize(frame.to_ndarray(format="rgb24"), (3840, 2160), interpolation=cv2.INTER_CUBIC).astype(np.int16)
            grained = np.clip(large + grain[top : top + 2160, left : left + 3840], 0, 255).astype(np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(grained, format="rgb24")))
        output.mux(stream.encode())


def _memory_of_all() -> Counter[str]:
    """Bytes (PSS) of this process and all below it, by what they are; of shared memory, which is Ray's store, apart."""
    found: Counter[str] = Counter()
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with suppress(psutil.Error, OSError, StopIteration):
            command = " ".join(process.cmdline())
            sizes = dict(line.split()[:2] for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:])
            shared = int(sizes["Pss_Shmem:"])
            kind = "Ray's own processes"
            if process == this:
                kind = "driver"
            elif "pipeline.engine.child" in command:
                kind = "models, all workers"
            elif "_PoolActor" in command:
                kind = "actors, all workers"
            found[kind] += (int(sizes["Pss:"]) - shared) * 1024
            found["Ray's object store"] += shared * 1024
    return found


if __name__ == "__main__":
    main()
