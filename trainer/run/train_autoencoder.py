"""Trains the small video autoencoder (trainer/encoders/small.py) on the clips of a job's shards: `materia train-autoencoder`.

In: the training configuration, of which the data, the seed and the device count, and shards. Out: one file that the encoder
`small` reads, and how good it is on held-out clips. The loss is the squared error of the pixels, taken on the coefficients of
an orthonormal transform, where it is the same. Clips are drawn, cut and held out as `materia train` does it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from materia.base.storage_settings import use_storage
from materia.base.terminal import plural
from materia.dataset.reader import Dataset
from trainer.config import TrainConfig
from trainer.data.items import PixelSource
from trainer.data.loader import buckets, indexed, long_enough, split
from trainer.data.order import Order
from trainer.data.samples import open_samples
from trainer.distributed import join
from trainer.encoders.patches import Patches
from trainer.encoders.small import Autoencoder, Sizes, save_autoencoder, transform_of
from trainer.errors import TrainError
from trainer.run.progress import tell

LEARNING_RATE, WARMUP_STEPS, CLIP = 2e-3, 50, 1.0
"""Of AdamW: peak of the learning rate, steps to it (from there half a cosine to zero), largest norm of the gradient [ours]."""
STATISTICS_STEPS = 20
"""Last steps over which mean and deviation of the latents are taken."""
MOST_MEASURED = 64
"""Clips that are measured."""
SAY_EVERY = 50
"""Steps between two lines."""


class TrainedAutoencoder(NamedTuple):
    """The file, and the peak signal-to-noise ratio (dB) of held-out clips: through it, and through the cosine transform cut to
    as many channels, which is where it began."""

    path: Path
    psnr_db: float
    psnr_cut_db: float


def train_autoencoder(
    config: TrainConfig, *, shards: str, output: str, steps: int, say: Callable[[str], None] = tell
) -> TrainedAutoencoder:
    """Train for `steps` steps of the configured batches and write the file `output`, atomically.

    Raises TrainError and OutputError for shards, buckets or a device that will not do, and for a loss that is not finite.
    """
    use_storage(config.storage)
    world = join(config.run)
    sizes = Sizes()
    transform = transform_of(sizes, str(world.device))
    _check_buckets(config, transform)
    samples, _ = open_samples(shards, config.data.where)
    source = PixelSource(samples, config.data, config.seed, images=False)
    order = Order(buckets(samples, config.data), config.seed)
    measured = [source.read(0, slot, int(index), 0) for slot, index in enumerate(_measured(samples, config))]
    torch.manual_seed(config.seed)
    model = Autoencoder(sizes, transform.channels).to(world.device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    say(f"{parameters:,} parameters; {sizes.channels} channels for {' x '.join(map(str, sizes.block))} pixels")
    with closing(indexed(source, order, samples, 0, steps, rank=0, ranks=1, workers=config.data.workers)) as read:
        _fit(model, transform, (_videos(step.items) for step in read), steps, say)
    save_autoencoder(model, Path(output))
    through, cut = _psnr(model, transform, _videos(measured))
    say(f"{output}: {through:.2f} dB on {plural(len(measured), 'clip')}; the transform alone: {cut:.2f} dB")
    return TrainedAutoencoder(Path(output), through, cut)


def _fit(model: Autoencoder, transform: Patches, batches: Iterable[Tensor], steps: int, say: Callable[[str], None]) -> None:
    """Train on batches (B, T, H, W, 3) uint8, then set the statistics of the latents."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    energy = transform.scale[:, None, None, None] ** 2  # coefficients are divided by their scale; pixels are not
    last: list[Tensor] = []
    for step, clips in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(step, steps)
        coefficients = transform.encode(clips).mean
        latents = model.encode(coefficients)
        loss = (energy * (model.decode(latents) - coefficients) ** 2).mean()
        if not loss.isfinite():
            raise TrainError(f"step {step}: the loss is {loss.item()}; give a lower number of steps or another seed")
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        if step % SAY_EVERY == 0 or step == steps - 1:
            say(f"step {step}: {_decibels(loss.item()):.2f} dB")
        last = [*last, latents.detach().transpose(0, 1).flatten(1)][-STATISTICS_STEPS:]  # (C, places of a batch) each
    latents = torch.cat(last, dim=1)
    model.mean = latents.mean(dim=1)[:, None, None, None]
    model.deviation = latents.std(dim=1)[:, None, None, None]


def _check_buckets(config: TrainConfig, transform: Patches) -> None:
    """Raises TrainError for clips that are no whole blocks."""
    for bucket in config.data.buckets:
        try:
            transform.latent_size(bucket.frames, bucket.height, bucket.width)
        except ValueError as error:
            raise TrainError(f"data.buckets: {error}") from error


def _measured(samples: Dataset, config: TrainConfig) -> np.ndarray:
    """Numbers of the samples that tell how good it is: those held out that are long enough; where there are none, others."""
    usable = long_enough(samples, config.data.buckets[0], config.data.fps)
    held_out = np.intersect1d(usable, split(samples, config.data.validation)[1])
    return (held_out if len(held_out) else usable)[:MOST_MEASURED]


@torch.no_grad()
def _psnr(model: Autoencoder, transform: Patches, clips: Tensor) -> tuple[float, float]:
    """Of clips (B, T, H, W, 3) uint8: through the autoencoder, and through the transform cut to as many channels; dB."""
    coefficients = transform.encode(clips).mean
    cut = coefficients.clone()
    cut[:, model.sizes.channels :] = 0
    through, cut_only = (
        ((transform.decode(kept).cpu().float() - clips.float()) / 127.5).square().mean().item()
        for kept in (model.decode(model.encode(coefficients)), cut)
    )
    return _decibels(through), _decibels(cut_only)


def _learning_rate(step: int, steps: int) -> float:
    """A linear rise, then half a cosine to zero."""
    return LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _decibels(error: float) -> float:
    """Peak signal-to-noise ratio of pixels in [-1, 1] by their mean squared error."""
    return 10 * math.log10(4 / max(error, 1e-12))


def _videos(items: Sequence[Any]) -> Tensor:
    """(B, T, H, W, 3) uint8 of items of one bucket."""
    return torch.from_numpy(np.stack([item.video for item in items]))
