"""How busy the engine keeps a card with the real networks: clips through the vision stages, serial, and on Ray.

In: clips made here. Out: clips a second, and the share of the speed of light: what the card alone takes for all pictures that
were asked of it (the sum of its kernels, measured network by network beforehand), over the wall from the first fifth of the
calls to the last one. DINOv2, which looks at a few crops a clip, is run and not counted.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import Config, load_config
from pipeline.job import run_job
from stages.backends import FaceDetector
from stages.base import Stage
from stages.records import EntityWord, Row, Sample, StageName
from stages.specs import STAGE_ORDER, build_stages
from stages.video.encode import write_rgb
from tools.bench_pipeline import Stub
from tools.gpu_check import weights
from tools.gpu_check.card import seconds, synchronise
from tools.gpu_check.networks import load_groundingdino, load_lama, load_sam
from tools.gpu_check.step import Context
from tools.gpu_check.step import Row as TableRow

CALLS = "CHECK_CALLS"
"""Environment variable: a file that gets a line for each call of a network: when it ended, which, for how many pictures."""
CLIPS, VIDEOS = 64, 8
CAPTION = "a red square passes a blue square"
WARM_UP = 0.2
MODELS: dict[str, str] = {
    "stages.localise.groundingdino:GroundingDino": "detect",
    "stages.segment.sam:Sam": "segment",
    "stages.background.lama:Lama": "inpaint",
}


def run(context: Context) -> Iterator[TableRow]:
    """Step `engine`."""
    n_clips = 1 if context.tiny else CLIPS
    folder = context.folder / "engine"
    manifest = _clips(folder, n_clips, context)
    config = _config(context)
    picture_s = _seconds_a_picture(context)
    for name, value in picture_s.items():
        yield {"what": f"{name} alone, kernels", "ms_a_picture": 1000 * value}
    for engine in ("serial", "ray"):
        if engine == "ray" and importlib.util.find_spec("ray") is None:
            yield {"what": "Ray is not installed here"}
            continue
        calls = folder / f"{engine}.calls"
        calls.unlink(missing_ok=True)
        os.environ[CALLS] = str(calls.resolve())
        began = time.monotonic()
        out = str(folder / f"{engine}-{os.getpid()}")
        result = run_job(config, input=str(manifest), output=out, engine=engine, stage_factory=f"{__name__}:stages")
        if result.exit_code:
            raise RuntimeError(result.message)
        row: TableRow = {
            "what": f"{engine} engine",
            "clips": result.rows,
            "kept": result.samples,
            "whole_job_s": time.monotonic() - began,
        }
        yield row | _busy(calls, picture_s, n_clips, aimed=engine == "ray" and context.device == "cuda")


def stages(config: Config, names: Iterable[StageName]) -> list[Stage]:
    """Stage factory: real vision stages that log the calls of their networks; words without a language model."""
    names = list(names)
    for path, method in MODELS.items():
        _log_calls(path, method)
    real = {stage.name: stage for stage in build_stages(config, [name for name in names if name != "entities"])}
    return [real.get(name) or Words(name) for name in names]


class NoFaces(FaceDetector):
    """Its weights are not random, and a machine without network may not have them."""

    def setup(self, device: str, threads: int) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to give back."""

    def detect_face(self, image: np.ndarray, box_xyxy_px: np.ndarray) -> None:
        """None."""


class Words(Stub):
    """The words of `CAPTION`."""

    def process(self, samples: list[Sample]) -> list[Row]:
        """Samples with entities."""
        for sample in samples:
            sample.entities = [
                EntityWord(word="red square", category="subject", spans=[(2, 12)]),
                EntityWord(word="blue square", category="object", spans=[(22, 33)]),
            ]
        return list(samples)


def _log_calls(path: str, method: str) -> None:
    """Once a process."""
    module, _, name = path.partition(":")
    owner = getattr(importlib.import_module(module), name)
    original: Callable[..., Any] = getattr(owner, method)
    if hasattr(original, "logged"):
        return

    def logged(self: Any, images: list[np.ndarray], *others: Any) -> Any:
        results = original(self, images, *others)
        with Path(os.environ[CALLS]).open("a") as file:
            file.write(f"{time.monotonic()} {name} {len(images)}\n")
        return results

    logged.logged = True  # type: ignore[attr-defined]
    setattr(owner, method, logged)


def _seconds_a_picture(context: Context) -> dict[str, float]:
    """Of the card alone, for each network."""
    loaded = {
        "GroundingDino": load_groundingdino(context, "auto"),
        "Sam": load_sam(context, "vit_b", "auto"),
        "Lama": load_lama(context),
    }
    return {name: _card_s(timed.whole(2), context) / 2 for name, timed in loaded.items()}


def _card_s(call: Callable[[], Any], context: Context) -> float:
    """The sum of the kernels of a call; on a CPU its wall."""
    if context.device != "cuda":
        return seconds(call, context)
    for _ in range(2):
        call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        synchronise(context.device)
    return float(sum(event.self_device_time_total for event in profile.key_averages())) / 1e6


def _busy(calls: Path, picture_s: dict[str, float], n_clips: int, aimed: bool) -> TableRow:
    lines = sorted((float(when), name, int(n)) for when, name, n in map(str.split, calls.read_text().splitlines()))
    first = int(WARM_UP * len(lines))
    wall_s = lines[-1][0] - lines[first][0]
    card_s = sum(picture_s[name] * n for _, name, n in lines[first + 1 :])
    share = card_s / wall_s if wall_s else math.nan
    rate = n_clips * (1 - (first + 1) / len(lines)) / wall_s if wall_s else math.nan
    row: TableRow = {"clips_per_s": rate, "speed_of_light_share": share}
    return row | {"target": "speed_of_light_share >= 0.9"} if aimed else row


def _config(context: Context) -> Config:
    """configs/gpu.yaml with the networks of the check, gates that let random ones through, two workers that share a card."""
    checkpoint, bert = weights.groundingdino(context)
    on_card = {"num_gpus": 0.5} if context.device == "cuda" else {}
    pools = [
        {"stages": STAGE_ORDER[:1], "num_cpus": 0.1},
        {"stages": ["frames"], "workers": 1 if context.tiny else 4, "num_cpus": 0.1},
        {
            "stages": ["localise", "link", "segment", "faces", "background"],
            "workers": 2,
            "num_cpus": 0.1,
            "rows_at_once": 2,
            "memory_limit_gib": 32,
            **on_card,
        },
        {"stages": ["cut"], "workers": 1 if context.tiny else 4, "num_cpus": 0.1},
    ]
    small = {"short_side_px": 224, "long_side_px": 300} if context.tiny else {}
    changes: dict[str, Any] = {
        "device": context.device,
        "entities": {"device": "cpu"},
        "faces": {"backend": f"{__name__}:NoFaces"},
        "localise": {"min_score": 0, "options": {"checkpoint": checkpoint, "text_encoder": bert, "batch_size": 6, **small}},
        "link": {"options": {"checkpoint": weights.dinov2(context, "base")}, "faces": {"backend": "none"}},
        "segment": {"min_score": 0, "options": {"checkpoint": weights.sam(context, "vit_b"), "batch_size": 2}},
        "background": {
            "max_masked_share": 1,
            "retry_dilate": 0 if context.tiny else 2,
            "options": {"checkpoint": weights.lama(context)},
        },
        "engine": {"rows_per_chunk": 32, "rows_per_slice": 16, "pools": pools},
    }
    gpu = Path(__file__).parents[2] / "configs" / "gpu.yaml"
    return load_config(gpu, tuple(f"{name}={_yaml(value)}" for name, value in _flat(changes)))


def _flat(changes: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in changes.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _yaml(value: Any) -> str:
    return json.dumps(str(value.resolve()) if isinstance(value, Path) else value)


def _clips(folder: Path, n_clips: int, context: Context) -> Path:
    """Videos of two squares that cross a picture of noise, and a manifest that has each several times."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(min(n_clips, VIDEOS)):
        _film(folder / f"{number}.mp4", (320, 192) if context.tiny else (1280, 720), number)
    rows = [{"id": f"n{n:03d}", "video": f"{n % VIDEOS}.mp4", "caption": CAPTION} for n in range(n_clips)]
    manifest = folder / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def _film(target: Path, size: tuple[int, int], seed: int) -> None:
    """Two seconds, 24 frames a second."""
    write_rgb(target, _crossing(*size, seed), size=size, fps=24, crf=20, preset="veryfast")


def _crossing(width: int, height: int, seed: int) -> Iterator[np.ndarray]:
    ground = np.random.default_rng(seed).integers(90, 160, (height, width, 3), np.uint8)
    side = height // 3
    for number in range(48):
        picture = ground.copy()
        left = (width - side) * number // 47
        picture[side : 2 * side, left : left + side] = (200, 30, 30)
        picture[: side // 2, width - side - left : width - left] = (30, 30, 200)
        yield picture
