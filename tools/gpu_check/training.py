"""The trainer on a card: steps of three sizes, attention, masks, resuming, FSDP2, and what encoding and sampling take.

In: random latents, captions and references of true shape. Out: seconds, clips a second, memory, and MFU: the operations that
the model needs (trainer/run/monitor.py) over the maker's peak of the card.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist

from tools.gpu_check import weights
from tools.gpu_check.card import peak_gib, seconds
from tools.gpu_check.step import Context, Row
from trainer import distributed, encoders
from trainer.config import TrainConfig
from trainer.data.batch import EncodedItem, collate
from trainer.data.encode import encode_images, encode_texts, encode_videos
from trainer.distributed import World
from trainer.model import dit as model_module
from trainer.model.dit import SIZES, ModelConfig
from trainer.run import learner, loop
from trainer.run.learner import Learner
from trainer.run.monitor import peak_flops, step_flops
from trainer.run.optimiser import adamw
from trainer.sample.generate import Trained, default_steps, generate

TEXT_TOKENS, IMAGES, IMAGE_TOKENS = 64, 3, 256
"""Of an item: a caption of some 50 words, and references at 224 px in patches of 14."""
SHORT, LONG = (17, 144, 256), (49, 288, 512)
"""Clips: frames, height, width in pixels; the autoencoder makes 4x8x8 of them one latent, the first frame alone."""


class Size(NamedTuple):
    """A model, the clips of a step, and the MFU to reach on an H100 or H200."""

    name: str
    clip: tuple[int, int, int]
    batch: int
    least_mfu: float | None


TWO_BILLION = {**SIZES["paper"], "depth": 7}
"""The paper's blocks, 7 of them."""
FULL = (Size("small", SHORT, 64, None), Size("base", LONG, 4, 0.45), Size("2b", LONG, 1, 0.50))
TINY = (Size("tiny", (5, 32, 32), 2, None),)


def sizes(context: Context) -> Iterator[Row]:
    """Step `trainer`: bfloat16, compiled."""
    for size in _sizes(context):
        yield _timed(size, context, {"compile": not context.tiny})


def variants(context: Context) -> Iterator[Row]:
    """Step `trainer-variants`: `base` with compile off, activation checkpointing, each kernel, and without masks."""
    size = TINY[0] if context.tiny else FULL[1]
    compiled = {"compile": not context.tiny}
    yield _timed(size, context, {})
    yield _timed(size, context, {**compiled, "checkpoint_activations": True})
    for kernel in ("auto",) if context.tiny else ("flash", "cudnn", "efficient"):
        yield _timed(size, context, {**compiled, "attention": kernel})
    with patch.object(model_module, "_attendable", lambda _mask: None):
        yield _timed(size, context, compiled, note="no masks: every key attended")


def resume(context: Context) -> Iterator[Row]:
    """Step `resume`: six steps at once, and three, a checkpoint, three more in a new learner."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS wants for the same sums every time
    torch.use_deterministic_algorithms(True, warn_only=True)
    size = TINY[0] if context.tiny else FULL[0]._replace(batch=8)
    config, world = _config(size, context, {"precision": "float32"}), _alone(context)
    straight = _learner(size, config, world)
    _steps(straight, size, config, world, 0, 6)
    with tempfile.TemporaryDirectory(dir=context.folder) as folder:
        before, after = (_learner(size, config, world) for _ in range(2))
        _steps(before, size, config, world, 0, 3)
        learner.save(before, config, Path(folder), 3, world)
        began = learner.resume(after, Path(folder), world, lambda _: None)
        _steps(after, size, config, world, began, 6)
    yield {"what": "weights after a resume, largest difference", "value": _apart(straight, after), "target": "value <= 1e-4"}


def fsdp2(context: Context) -> Iterator[Row]:
    """Step `fsdp2`: three steps sharded over one rank, replicated over one rank, and plain."""
    size = TINY[0] if context.tiny else FULL[0]._replace(batch=8)
    config, world = _config(size, context, {"precision": "float32"}), _alone(context)
    wanted = _steps(_learner(size, config, world), size, config, world, 0, 3)
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if context.device == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            for name in ("ddp", "fsdp2"):
                torch.manual_seed(config.seed)
                model = model_module.VideoDiT(_model_config(size))
                module = distributed.replicate(model, world) if name == "ddp" else distributed.shard(model, world, config.run)
                found = _steps(_learner(size, config, world, module), size, config, world, 0, 3)
                difference = max(abs(a - b) for a, b in zip(wanted, found, strict=True))
                yield {"what": f"losses of {name} against one process", "value": difference, "target": "value <= 1e-4"}
        finally:
            dist.destroy_process_group()


def encoding(context: Context) -> Iterator[Row]:
    """Step `encoders`: T5, DINOv2 and CogVideoX's autoencoder in bfloat16; what a clip takes to precompute, decoding aside."""
    built = _encoders(context)
    clip = (5, 32, 32) if context.tiny else LONG
    video = np.random.default_rng(0).integers(0, 256, (1, *clip, 3), np.uint8)
    pictures = np.random.default_rng(0).integers(0, 256, (12, 224, 224, 3), np.uint8)
    latents = encode_videos(video, built).mean
    text_s = seconds(lambda: encode_texts(["a man with a red hat walks his dog"], built), context)
    image_s = seconds(lambda: encode_images(pictures, built), context)
    video_s = seconds(lambda: encode_videos(video, built), context)
    of_clip = "x".join(map(str, clip))
    yield {"what": "T5 Large, a caption", "seconds": text_s}
    yield {"what": "DINOv2 ViT-L/14, 12 pictures (3 references, 4 variants)", "seconds": image_s}
    yield {
        "what": f"CogVideoX, encode {of_clip}",
        "seconds": video_s,
        "peak_gib": peak_gib(lambda: encode_videos(video, built), context.device),
    }
    yield {
        "what": f"CogVideoX, decode {of_clip}",
        "seconds": seconds(lambda: built.video.decode(latents), context),
        "peak_gib": peak_gib(lambda: built.video.decode(latents), context.device),
    }
    yield {"what": "to precompute a clip", "seconds": text_s + image_s + video_s}


def sample(context: Context) -> Iterator[Row]:
    """Step `sample`: a clip of `base` under both guidances with the paper's number of steps, decoded."""
    size = TINY[0] if context.tiny else FULL[1]._replace(batch=1)
    config, built, world = _config(size, context, {}), _encoders(context), _alone(context)
    of_encoders = dataclasses.replace(_model_config(size), latent_channels=built.video.channels)
    trained_model = distributed.parallelise(model_module.VideoDiT(of_encoders), world, config.run).eval()
    trained = Trained(config, of_encoders, trained_model, 0, built, world.device)
    items = _items(size, of_encoders)[:1]
    steps = 2 if context.tiny else default_steps(*size.clip[1:])
    took_s = seconds(lambda: generate(trained, items, [0], steps=steps), context, warm_up=0)
    yield {"model": size.name, "clip": "x".join(map(str, size.clip)), "steps": steps, "seconds": took_s}


def _timed(size: Size, context: Context, run: dict[str, Any], note: str = "") -> Row:
    config, world = _config(size, context, {"precision": "bfloat16", **run}), _alone(context)
    learns = _learner(size, config, world)
    items = _items(size, learns.config)

    def step() -> None:
        loop.gradients(learns, items, size.batch, 0, config, world)
        loop.update(learns, 0, config)

    with distributed.attention_kernels(config.run):
        step_s = seconds(step, context)
        peak = peak_gib(step, context.device)
    peak_rate = peak_flops(world.device, config.run.precision)
    rate = step_flops(learns.config, collate(items, learns.config.word_tokens)) / step_s
    row: Row = {
        "model": size.name,
        "parameters_m": sum(parameter.numel() for parameter in learns.module.parameters()) / 1e6,
        "clip": "x".join(map(str, size.clip)),
        "batch": size.batch,
        "compile": config.run.compile,
        "attention": config.run.attention,
        "checkpointed": config.run.checkpoint_activations,
        "note": note,
        "step_s": step_s,
        "clips_per_s": size.batch / step_s,
        "tflops": rate / 1e12,
        "mfu": None if peak_rate is None else rate / peak_rate,
        "peak_gib": peak,
    }
    aimed = size.least_mfu is not None and peak_rate is not None and run == {"compile": True} and not note
    return row | {"target": f"mfu >= {size.least_mfu:g}"} if aimed else row


def _steps(learns: Learner, size: Size, config: TrainConfig, world: World, first: int, end: int) -> list[float]:
    """Losses of steps on the same items."""
    losses = []
    items = _items(size, learns.config)
    for number in range(first, end):
        outcome = loop.gradients(learns, items, size.batch, number, config, world)
        loop.update(learns, number, config)
        losses.append(float(outcome.losses.double().mean()))
    return losses


def _apart(some: Learner, others: Learner) -> float:
    a, b = (distributed.weights(learns.module) for learns in (some, others))
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def _sizes(context: Context) -> tuple[Size, ...]:
    return TINY if context.tiny else FULL


def _alone(context: Context) -> World:
    return World(0, 1, 0, torch.device(context.device))


def _config(size: Size, context: Context, run: dict[str, Any]) -> TrainConfig:
    frames, height, width = size.clip
    bucket = {"frames": frames, "height": height, "width": width, "batch": size.batch}
    return TrainConfig.model_validate({"data": {"fps": 24, "buckets": [bucket]}, "run": {"device": context.device, **run}})


def _model_config(size: Size) -> ModelConfig:
    """With the widths of T5 Large, DINOv2 ViT-L and CogVideoX, or of their small stand-ins."""
    width = 32 if size.name == "tiny" else 1024
    sizes = TWO_BILLION if size.name == "2b" else SIZES[size.name]
    return ModelConfig(**sizes, text_width=width, image_width=width)  # type: ignore[arg-type]  # as in trainer/run/learner.py


def _learner(size: Size, config: TrainConfig, world: World, module: torch.nn.Module | None = None) -> Learner:
    """A new one; of a module that is laid out already, with its own optimiser and average."""
    sizes = _model_config(size)
    if module is None:
        return learner.begin(config, sizes, world)
    return Learner(module, sizes, adamw(module, config.optimiser), distributed.average_of(module))


def _items(size: Size, config: ModelConfig) -> list[EncodedItem]:
    """Random ones of the clip's size."""
    rng = torch.Generator().manual_seed(0)
    frames, height, width = size.clip
    latents = (config.latent_channels, (frames - 1) // 4 + 1, height // 8, width // 8)
    return [
        EncodedItem(
            key=str(slot),
            slot=slot,
            mean=torch.randn(latents, generator=rng).half(),
            std=torch.full(latents, 0.1).half(),
            text=torch.randn(TEXT_TOKENS - slot % 3, config.text_width, generator=rng).half(),
            offsets=torch.stack([torch.arange(TEXT_TOKENS - slot % 3), torch.arange(1, TEXT_TOKENS + 1 - slot % 3)], dim=1),
            images=torch.randn(IMAGES - slot % 2, IMAGE_TOKENS, config.image_width, generator=rng).half(),
            spans=torch.tensor([[4 * k, 4 * k + 3] for k in range(IMAGES - slot % 2)]),
        )
        for slot in range(size.batch)
    ]


def _encoders(context: Context) -> encoders.Encoders:
    def settings(backend: str, folder: Path) -> dict[str, Any]:
        dtype = "bfloat16" if context.device == "cuda" else "float32"
        return {"backend": backend, "options": {"checkpoint": str(folder.resolve()), "dtype": dtype}}

    built = encoders.build_encoders(
        TrainConfig.model_validate(
            {
                "data": {"fps": 24, "buckets": [{"frames": 5, "height": 32, "width": 32, "batch": 1}]},
                "encoders": {
                    "text": settings("t5", weights.t5(context)),
                    "image": settings("dinov2", weights.dinov2(context, "large")),
                    "video": settings("cogvideox", weights.cogvideox(context)),
                },
            }
        ).encoders
    )
    built.setup(context.device)
    return built
