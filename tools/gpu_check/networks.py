"""Speed of the models of the data pipeline and of the trainer's encoders: steps that time one network each.

In: random weights. Out: a row for each dtype and batch size: milliseconds a picture of the network alone (`network_ms`) and of
the backend's whole call with all that the CPU does for it (`whole_ms`), the peak of the card's memory, and the share of the
floor (card.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import load_config
from stages.batching import Batches
from stages.precision import autocast
from stages.records import Box, EntityWord
from tools.gpu_check import weights
from tools.gpu_check.card import bytes_of, floor_s, peak_gib, seconds, synchronise
from tools.gpu_check.step import Context, Row

HEIGHT, WIDTH = 720, 1280
WORDS = ("woman", "red hat", "dog", "green bottle")


@dataclass(frozen=True)
class Timed:
    """A loaded network: `alone(n)` gives a call of it on n pictures that lie on the device, `whole(n)` the backend's own call,
    which goes through `batches_of`."""

    name: str
    dtype: str
    modules: Sequence[torch.nn.Module]
    alone: Callable[[int], Callable[[], Any]]
    whole: Callable[[int], Callable[[], Any]]
    batches: Sequence[int]
    batches_of: Batches
    compiled: bool = False
    booked_gib: float | None = None


def frames(n: int) -> list[np.ndarray]:
    """Pictures (720, 1280, 3) uint8 RGB: a gradient with a square that moves, and noise, so that no two are alike."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    made = []
    for number in range(n):
        picture = np.stack([255 * x // WIDTH, 255 * y // HEIGHT, (x + y) % 256], axis=2)
        left = 100 + 80 * (number % 10)
        picture[200:500, left : left + 250] = rng.integers(0, 256, 3)
        made.append((picture * 0.9 + rng.integers(0, 25, picture.shape)).astype(np.uint8))
    return made


def holes(n: int) -> list[np.ndarray]:
    """Masks (720, 1280) bool of a subject's size."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[200:560, 300:700] = True
    return [mask] * n


def boxes(n: int) -> list[list[Box]]:
    """Two boxes for each of n frames."""
    corners = [(100.0, 200.0, 420.0, 520.0), (500.0, 100.0, 900.0, 600.0)]
    return [[Box(word=f"thing {k}", category="object", frame=0, box_xyxy_px=c, score=1.0) for k, c in enumerate(corners)]] * n


def groundingdino(context: Context) -> Iterator[Row]:
    """Step `groundingdino`: Swin-T with BERT base, 720p frames at the method's 800 px."""
    for dtype in _dtypes(context):
        yield from _rows(load_groundingdino(context, dtype), context)


def sam_b(context: Context) -> Iterator[Row]:
    """Step `sam-b`."""
    for dtype in _dtypes(context):
        yield from _rows(load_sam(context, "vit_b", dtype), context)


def sam_h(context: Context) -> Iterator[Row]:
    """Step `sam-h`."""
    for dtype in _dtypes(context):
        yield from _rows(load_sam(context, "vit_h", dtype), context)


def lama(context: Context) -> Iterator[Row]:
    """Step `lama`: float32, its Fourier transforms have no half precision."""
    yield from _rows(load_lama(context), context)


def compiled(context: Context) -> Iterator[Row]:
    """Step `compiled`: those that have `options.compile`, in bfloat16; `first_s` is what the first call takes."""
    yield from _rows(load_groundingdino(context, "bfloat16", compile=True), context)
    yield from _rows(load_sam(context, "vit_b", "bfloat16", compile=True), context)


def load_groundingdino(context: Context, dtype: str, compile: bool = False) -> Timed:
    """Swin-T, loaded."""
    from stages.localise.groundingdino import GroundingDino
    from stages.localise.groundingdino_model import forward
    from stages.localise.pictures import network_size, normalise, resize
    from stages.localise.prompt import make_prompts

    checkpoint, bert = weights.groundingdino(context)
    sides = (224, 300) if context.tiny else (800, 1333)
    model = GroundingDino(
        str(checkpoint), str(bert), dtype=dtype, compile=compile, short_side_px=sides[0], long_side_px=sides[1]
    )
    model.setup(context.device, torch.get_num_threads())
    size = network_size((HEIGHT, WIDTH), *sides)
    prompt = make_prompts(list(WORDS), model.model.tokenizer, 20)[0]
    asked = [EntityWord(word=word, category="subject", spans=[(0, 1)]) for word in WORDS]

    def alone(n: int) -> Callable[[], Any]:
        pixels = normalise([resize(frame, size) for frame in frames(n)], context.device)
        return _in(dtype, context, lambda: forward(model.model, pixels, [prompt] * n))

    def whole(n: int) -> Callable[[], Any]:
        model.grounding.batches.size = n
        pictures = frames(n)
        return lambda: model.detect(pictures, [asked] * n)

    batches = (2,) if context.tiny else (1, 3, 6, 12)
    return Timed(
        "GroundingDINO Swin-T",
        dtype,
        [model.model],
        alone,
        whole,
        batches,
        model.grounding.batches,
        compile,
        _booked("localise"),
    )


def load_sam(context: Context, architecture: str, dtype: str, compile: bool = False) -> Timed:
    """SAM, loaded; `alone` is the image encoder, `whole` has the masks of two boxes a frame too."""
    from stages.segment.sam import Sam

    model = Sam(str(weights.sam(context, architecture)), dtype=dtype, compile=compile)
    model.setup(context.device, torch.get_num_threads())
    side = model.model.image_encoder.img_size

    def alone(n: int) -> Callable[[], Any]:
        pixels = torch.randn(n, 3, side, side, device=context.device)
        return _in(dtype, context, lambda: model.encode(pixels))

    def whole(n: int) -> Callable[[], Any]:
        model.frames.size = n
        pictures, wanted = frames(n), boxes(n)
        return lambda: model.segment(pictures, wanted)

    name = f"SAM ViT-{architecture[-1].upper()}"
    batches = (2,) if context.tiny else (1, 2, 4)
    booked = _booked("segment") if architecture == "vit_b" else None
    return Timed(name, dtype, [model.model], alone, whole, batches, model.frames, compile, booked)


def load_lama(context: Context) -> Timed:
    """LaMa, loaded; 720p pictures."""
    from stages.background.lama import Lama
    from stages.background.lama_model import run

    model = Lama(str(weights.lama(context)), hd_strategy_resize_limit=256 if context.tiny else 1280)
    model.setup(context.device, torch.get_num_threads())
    assert model.model is not None
    generator = model.model.model

    def alone(n: int) -> Callable[[], Any]:
        size = (144, 256) if context.tiny else (HEIGHT, WIDTH)
        image = torch.rand(n, 3, *size, device=context.device)
        mask = torch.zeros(n, 1, *size, device=context.device)
        mask[:, :, 40:100, 60:140] = 1
        return lambda: run(generator, image, mask)

    def whole(n: int) -> Callable[[], Any]:
        model.batches.size = n
        pictures, masks = frames(n), holes(n)
        return lambda: model.inpaint(pictures, masks, [None] * n)

    batches = (2,) if context.tiny else (1, 2, 4)
    return Timed("big-LaMa", "float32", [generator], alone, whole, batches, model.batches, booked_gib=_booked("background"))


def _rows(timed: Timed, context: Context) -> Iterator[Row]:
    for n in timed.batches:
        alone, whole = timed.alone(n), timed.whole(n)
        began = time.perf_counter()
        first = {}
        if timed.compiled:
            alone()
            synchronise(context.device)
            first = {"first_s": time.perf_counter() - began}
        network_s = seconds(alone, context)
        yield {
            "network": timed.name,
            "dtype": timed.dtype,
            "compiled": timed.compiled,
            "batch": n,
            "network_ms": 1000 * network_s / n,
            "whole_ms": 1000 * seconds(whole, context) / n,
            "peak_gib": peak_gib(whole, context.device),
            "booked_gib": timed.booked_gib,
            "floor_share": _floor_share(timed, alone, network_s, context),
            **first,
        }


def _floor_share(timed: Timed, call: Callable[[], Any], took_s: float, context: Context) -> float | None:
    """None for a compiled network, whose operations torch does not count."""
    if timed.compiled:
        return None
    return floor_s(call, bytes_of(*timed.modules), context, timed.dtype) / took_s


def _in(dtype: str, context: Context, call: Callable[[], Any]) -> Callable[[], Any]:
    def inside() -> Any:
        with torch.inference_mode(), autocast(dtype, context.device):
            return call()

    return inside


def _dtypes(context: Context) -> tuple[str, ...]:
    """On a CPU one is enough: half precision is slow there."""
    return ("float32", "bfloat16") if context.device == "cuda" else ("float32",)


def _booked(stage: str) -> float:
    """What configs/gpu.yaml says that the stage needs, GiB."""
    config = load_config(str(Path(__file__).parents[2] / "configs" / "gpu.yaml"))
    return float(getattr(config, stage).gpu_memory_gib)
