"""Generating clips by a trained model: two guidances, Euler steps by resolution, noise levels shifted as in training [paper B].

In: a model with its encoders, and items whose conditions are encoded. Out: frames. The noise of a clip follows from its seed,
whatever else is generated with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from materia.report.grid import GridRow
from trainer.config import TrainConfig
from trainer.data.batch import EncodedItem, Item, collate
from trainer.data.encode import encode
from trainer.distributed import attention_kernels
from trainer.encoders import Encoders
from trainer.errors import TrainError
from trainer.model import flow
from trainer.model.dit import ModelConfig

STEPS = ((144, 256), (288, 128))
FEWEST_STEPS = 64
"""Sampling steps up to a short side in px, and above [paper B: 256, 128, 64 at 144p, 288p, 576p]."""
Size = tuple[int, int, int]  # frames, height, width


@dataclass(frozen=True, kw_only=True)
class Options:
    """How clips are generated. None: the size of the bucket that the run was trained on most, and steps by resolution."""

    frames: int | None = None
    height: int | None = None
    width: int | None = None
    steps: int | None = None
    text_guidance: float = flow.TEXT_GUIDANCE
    image_guidance: float = flow.IMAGE_GUIDANCE
    batch: int = 1  # clips at once; under both guidances the model sees three times as many


@dataclass(frozen=True)
class Trained:
    """What generates: a model of `sizes` after `step` steps, and the encoders it was trained with, set up; all on `device`."""

    config: TrainConfig
    sizes: ModelConfig
    model: flow.Velocity
    step: int
    encoders: Encoders
    device: torch.device


def clip_size(trained: Trained, options: Options) -> Size:
    """The size asked for, or of the bucket of the largest weight. Raises TrainError for one that cannot be generated."""
    most = max(trained.config.data.buckets, key=lambda bucket: (bucket.weight, bucket.frames * bucket.height * bucket.width))
    size = (options.frames or most.frames, options.height or most.height, options.width or most.width)
    try:
        latents = trained.encoders.video.latent_size(*size)
    except ValueError as error:
        raise TrainError(f"no clip of {size[0]} frames, {size[2]} x {size[1]} px can be made: {error}") from None
    if any(side % patch for side, patch in zip(latents, trained.sizes.patch, strict=True)):
        raise TrainError(
            f"no clip of {size[0]} frames, {size[2]} x {size[1]} px can be made: its latents, {latents} in time, height and"
            f" width, cannot be cut into the model's patches of {trained.sizes.patch}; the run was trained on {most.frames}"
            f" frames, {most.width} x {most.height} px"
        )
    return size


def default_steps(height: int, width: int) -> int:
    """Sampling steps for a clip of that many pixels."""
    return next((steps for side, steps in STEPS if min(height, width) <= side), FEWEST_STEPS)


@torch.no_grad()
def generate(
    trained: Trained,
    items: Sequence[EncodedItem],
    seeds: Sequence[int],
    *,
    steps: int,
    text_guidance: float = flow.TEXT_GUIDANCE,
    image_guidance: float = flow.IMAGE_GUIDANCE,
    tick: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """A clip for the conditions of each item, all at once: (B, T, H, W, 3) uint8 RGB. `tick` is called after each step.

    Of the items' latents only the shape is used. Under FSDP2 every rank must call it alike.
    """
    batch = collate(list(items), trained.sizes.word_tokens).to(trained.device)
    shape = batch.mean.shape[1:]  # (C, T, H, W)
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    def velocity(x: torch.Tensor, t: torch.Tensor, estimate: torch.Tensor | None) -> torch.Tensor:
        v = flow.guided(
            trained.model,
            x,
            t,
            batch.conditions,
            text_guidance=text_guidance,
            image_guidance=image_guidance,
            estimate=estimate,
        )
        tick()
        return v

    with attention_kernels(trained.config.run):
        latents = flow.sample(
            velocity,
            noise.to(trained.device),
            steps=steps,
            shift=flow.shift_for(shape[1:], trained.sizes.patch, trained.config.objective.shift_tokens),
            self_conditioning=trained.sizes.self_conditioning,
        )
    videos: np.ndarray = trained.encoders.video.decode(latents).cpu().numpy()
    return videos


def sample_rows(trained: Trained, items: Sequence[Item], steps: int) -> list[GridRow]:
    """Rows of a sample grid: a clip generated for each of some held-out items, one by one, beside its truth."""
    rows = []
    for index, (item, encoded) in enumerate(zip(items, encode(items, trained.encoders), strict=True)):
        video = generate(trained, [encoded], [index], steps=steps)[0]
        references = [(reference.word, reference.pixels) for reference in item.references]
        rows.append(GridRow(item.caption, references, video, item.video))
    return rows
