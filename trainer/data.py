"""What a run is trained on: samples, their order, and the source that reads them, put together from the configuration.

In: shards and perhaps a cache of them. Out: `Data`, whose steps a rank walks through, each with its items encoded or still to
be; and the held-out clips, encoded, for the validation loss. Encoders are loaded only where pixels are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainer.batch import EncodedItem, Item, TrainError
from trainer.cache import CacheSource
from trainer.config import TrainConfig
from trainer.distributed import World
from trainer.encode import encode
from trainer.encoders import Encoders
from trainer.items import PixelSource, Source
from trainer.loader import StepItems, buckets, indexed, long_enough, split
from trainer.order import Order
from trainer.shards import Samples

MOST_VALIDATED = 16
"""Clips of the validation loss where none are held out."""


@dataclass(frozen=True)
class Data:
    """`source` gives items of `samples` by number, in the `order` of the steps; `validation`: numbers, for bucket 0."""

    samples: Samples
    source: Source
    order: Order
    validation: list[int]


def open_data(config: TrainConfig, shards: str, cache: str | None, world: World) -> Data:
    """Raises OutputError and TrainError for shards, a filter, a cache or buckets that give nothing or do not fit."""
    samples = Samples(shards, config.data.where)
    found = buckets(samples, config.data)
    held_out = split(samples, config.data.validation)[1]
    source: Source
    if cache is None:
        source = PixelSource(samples, config.data, config.seed, config.stage.images)
    else:
        source = CacheSource(samples, cache, config)
        held = source.numbers()  # without what could not be decoded
        found = [replace(bucket, samples=np.intersect1d(bucket.samples, held)) for bucket in found]
        held_out = np.intersect1d(held_out, held)
    _check_shares(config, world)
    usable = long_enough(samples, config.data.buckets[0], config.data.fps)
    validation = np.intersect1d(usable, held_out) if len(held_out) else found[0].samples[:MOST_VALIDATED]
    return Data(samples, source, Order(found, config.seed), validation.tolist())


def steps(data: Data, config: TrainConfig, start: int, world: World) -> Iterator[StepItems]:
    """This rank's share of steps `start` to `stage.steps`, read ahead by `data.workers` processes."""
    stop, workers = config.stage.steps, config.data.workers
    return indexed(data.source, data.order, data.samples, start, stop, world.rank, world.ranks, workers)


def validation_items(data: Data, encoders: Encoders) -> list[EncodedItem]:
    """The clips of the validation loss, encoded, with the references that step 0 would draw for them."""
    items = [data.source.read(0, slot, number, 0) for slot, number in enumerate(data.validation)]
    return encoded(items, encoders)


def encoded(items: Sequence[Item | EncodedItem], encoders: Encoders) -> list[EncodedItem]:
    """Items as the model needs them: those of a cache already are."""
    pixels = [item for item in items if isinstance(item, Item)]
    return encode(pixels, encoders) if pixels else [item for item in items if isinstance(item, EncodedItem)]


def _check_shares(config: TrainConfig, world: World) -> None:
    """Raises TrainError where a batch cannot be cut into equal micro-batches on every rank."""
    parts = world.ranks * config.run.accumulate
    for bucket in config.data.buckets:
        if bucket.batch % parts:
            raise TrainError(
                f"a batch of {bucket.batch} cannot be cut evenly: {world.ranks} processes x run.accumulate"
                f" {config.run.accumulate} = {parts} parts; make data.buckets' batch a multiple of {parts}"
            )
