"""A job that reads clips from an object store and writes to it, small and with real decoding; and what came out of it.

In: the address of a server. Out: an output below its bucket, compared without `_run/`, and its rows counted. Two rows of the
input are rejections by themselves. As a program (`python -m tools.faults.job REQUEST`) it is what can be killed.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq

from pipeline.config import Config
from pipeline.job import Engine, JobResult, run_job
from stages.base import Stage
from stages.records import Row, Sample, StageName
from stages.specs import STAGE_ORDER, build_stages
from stages.video.encode import write_rgb
from tools.bench_pipeline import Stub, complete
from tools.faults.servers import BUCKET

CLIPS = 3
STAGES = "tools.faults.job:stages"
_FRAMES = 8
_SIDE = 32


class Invented(Stub):
    """As the plain stub, but what `frames` found stays."""

    def process(self, samples: list[Sample]) -> list[Row]:
        """The samples, from the background with all that models find."""
        if self.name != "background":
            return [*samples]
        seen = [(sample.video, sample.frames) for sample in samples]
        for sample, (video, frames) in zip(samples, seen, strict=True):
            complete(sample)
            sample.video, sample.frames = video, frames
        return [*samples]


def stages(config: Config, names: Iterable[StageName]) -> list[Stage]:
    """Stage factory: videos are fetched and decoded in earnest, models are none."""
    return [build_stages(config, [name])[0] if name in ("frames", "cut") else Invented(name) for name in names]


def make_input(server: str, rows: int) -> str:
    """Put clips and a manifest into the bucket; gives the manifest's address."""
    store = fsspec.filesystem("s3", endpoint_url=server, key="k", secret="s", use_listings_cache=False)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(CLIPS):
            clip = Path(folder, f"{number}.mp4")
            pictures = [np.full((_SIDE, _SIDE, 3), 20 * frame + 5 * number, np.uint8) for frame in range(_FRAMES)]
            write_rgb(clip, pictures, size=(_SIDE, _SIDE), fps=8, crf=30)
            store.pipe_file(f"{BUCKET}/in/{clip.name}", clip.read_bytes())
    videos = [f"{row % CLIPS}.mp4" for row in range(rows)]
    videos[1] = "gone.mp4"
    lines = [{"id": f"r{row:04d}", "video": video, "caption": "a dog"} for row, video in enumerate(videos)]
    lines[2]["caption"] = " "
    store.pipe_file(f"{BUCKET}/in/manifest.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    return f"s3://{BUCKET}/in/manifest.jsonl"


def configuration(server: str, timeout_s: float, anonymous: bool) -> Config:
    """Of the job, which reaches the server (or a proxy before it) with that patience for silence."""
    pool = {"workers": 1, "num_cpus": 0.2, "memory_limit_gib": 1, "rows_per_batch": 2}
    pools = [{"stages": STAGE_ORDER[:1], **pool}, {"stages": STAGE_ORDER[1:], **pool}]
    return Config.model_validate(
        {
            "storage": {"s3": {"endpoint": server, "timeout_s": timeout_s, "anonymous": anonymous}},
            "source": {"schemes": ["s3"]},
            "engine": {
                "rows_per_chunk": 4,
                "rows_per_slice": 2,
                "object_store_mb": 100,
                "pools": pools,
            },
            "frames": {
                "min_duration_s": 0.1,
                "min_side_px": 16,
                "several_shots": "ignore",
                "motion": False,
            },
        }
    )


def run(
    server: str,
    out: str,
    engine: Engine,
    timeout_s: float = 1.0,
    ray_address: str | None = None,
    anonymous: bool = False,
) -> JobResult:
    """The job, from where it stands to its end. `out`: a name below the bucket."""
    return run_job(
        configuration(server, timeout_s, anonymous),
        input=f"s3://{BUCKET}/in/manifest.jsonl",
        output=f"s3://{BUCKET}/{out}",
        engine=engine,
        ray_address=ray_address,
        stage_factory=STAGES,
    )


def contents(server: str, out: str) -> dict[str, bytes]:
    """Every file of an output that must be equal between runs, straight from the server."""
    store = fsspec.filesystem("s3", endpoint_url=server, key="k", secret="s", use_listings_cache=False)
    root = f"{BUCKET}/{out}/"
    found: dict[str, bytes] = store.cat([name for name in store.find(root) if not name.startswith(f"{root}_run/")])
    return {name.removeprefix(root): data for name, data in found.items()}


def rows_of(files: dict[str, bytes]) -> list[int]:
    """Row numbers of all samples and rejections, sorted."""
    tables = [pq.read_table(io.BytesIO(data)) for name, data in files.items() if name.startswith(("index/", "rejects/"))]
    return sorted(row for table in tables for row in table["row"].to_pylist())


def reasons_of(files: dict[str, bytes]) -> list[str]:
    """Of all rejections."""
    tables = [pq.read_table(io.BytesIO(data)) for name, data in files.items() if name.startswith("rejects/")]
    return [reason for table in tables for reason in table["reason"].to_pylist()]


def main() -> None:
    """Run a job in a process of its own."""
    result = run(**json.loads(sys.argv[1]))
    sys.stderr.write(result.message + "\n")
    sys.exit(result.exit_code)


if __name__ == "__main__":
    main()
