"""What a run is trained on: samples, their order, and the source that reads them, put together from the configuration.

In: shards and perhaps a cache of them. Out: `Data`, whose steps a rank walks through; their items are encoded already if they
come from a cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from materia.dataset.reader import Dataset
from trainer.config import TrainConfig
from trainer.data.batch import EncodedItem, Item
from trainer.data.cache import CacheSource
from trainer.data.encode import encode
from trainer.data.items import PixelSource, Source
from trainer.data.loader import StepItems, buckets, indexed, long_enough, split
from trainer.data.order import Bucket, Order
from trainer.data.streaming import streamed
from trainer.distributed import World
from trainer.encoders import Encoders
from trainer.errors import TrainError

MOST_VALIDATED = 16
"""Clips of the validation loss where none are held out."""


@dataclass(frozen=True)
class Data:
    """`source` gives items of `samples` by number, in the `order` of the steps; `validation`: numbers, for bucket 0."""

    samples: Dataset
    source: Source
    order: Order
    validation: list[int]


def open_data(config: TrainConfig, shards: str, cache: str | None, encoders: Encoders, world: World) -> Data:
    """Raises OutputError and TrainError for shards, a filter, a cache or buckets that give nothing or do not fit."""
    _check_buckets(config, encoders, world)
    samples = Dataset(shards, config.data.where)
    found = buckets(samples, config.data)
    held_out = split(samples, config.data.validation)[1]
    source: Source
    if cache is None:
        source = PixelSource(samples, config.data, config.seed, config.stage.images)
    else:
        source = CacheSource(samples, cache, config)
        held = source.numbers()  # without what could not be decoded
        found = [_those_of(held, bucket, cache) for bucket in found]
        held_out = np.intersect1d(held_out, held)
    usable = long_enough(samples, config.data.buckets[0], config.data.fps)
    validation = np.intersect1d(usable, held_out) if len(held_out) else found[0].samples[:MOST_VALIDATED]
    return Data(samples, source, Order(found, config.seed), validation.tolist())


def steps(data: Data, config: TrainConfig, start: int, world: World) -> Iterator[StepItems]:
    """This rank's share of steps `start` to `stage.steps`, read ahead by `data.workers` processes."""
    read = streamed if config.data.reader == "streaming" else indexed
    stop, workers = config.stage.steps, config.data.workers
    return read(data.source, data.order, data.samples, start, stop, world.rank, world.ranks, workers)


def encoded(items: Sequence[Item | EncodedItem], encoders: Encoders) -> list[EncodedItem]:
    """Items as the model needs them: those of a cache already are."""
    pixels = [item for item in items if isinstance(item, Item)]
    return encode(pixels, encoders) if pixels else [item for item in items if isinstance(item, EncodedItem)]


def _those_of(held: np.ndarray, bucket: Bucket, cache: str) -> Bucket:
    numbers = np.intersect1d(bucket.samples, held)
    if not len(numbers):
        raise TrainError(f"{cache} has none of the {len(bucket.samples)} clips to train on; its rejects/ say why")
    return replace(bucket, samples=numbers)


def _check_buckets(config: TrainConfig, encoders: Encoders, world: World) -> None:
    """Raises TrainError for clips that cannot become latents or tokens, and batches that cannot be cut into equal parts."""
    parts = world.ranks * config.run.accumulate
    for index, bucket in enumerate(config.data.buckets):
        name = f"data.buckets[{index}]"
        try:
            latents = encoders.video.latent_size(bucket.frames, bucket.height, bucket.width)
        except ValueError as error:
            raise TrainError(f"{name}: {error}") from None
        if any(side % cut for side, cut in zip(latents, config.model.patch, strict=True)):
            raise TrainError(
                f"{name}: latents of {latents} in time, height and width cannot be cut into model.patch {config.model.patch};"
                " make each a multiple"
            )
        if bucket.batch % parts:
            raise TrainError(
                f"{name}: a batch of {bucket.batch} cannot be cut evenly for {world.ranks} processes x run.accumulate"
                f" {config.run.accumulate}; make it a multiple of {parts}"
            )
