"""What a run is trained on: samples, their order, and the source that reads them, put together from the configuration.

In: shards of one output or several, and perhaps a cache of each. Out: `Data`, whose steps a rank walks through; their items are
encoded already if they come from a cache.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from materia.base.terminal import plural
from materia.dataset.reader import Dataset
from trainer.config import TrainConfig
from trainer.data.batch import EncodedItem, Item
from trainer.data.cache import CacheSource
from trainer.data.encode import encode
from trainer.data.items import PixelSource, Source
from trainer.data.loader import StepItems, buckets, indexed, long_enough, split
from trainer.data.order import Bucket, Order
from trainer.data.samples import Addresses, JoinedSource, addresses, open_samples, parts_of, starts_of
from trainer.data.streaming import streamed
from trainer.distributed import World
from trainer.encoders import Encoders
from trainer.errors import TrainError

MOST_VALIDATED = 16
"""Clips of the validation loss where none are held out."""


class Selection(NamedTuple):
    """How many of all samples of the shards are trained on, and why not the others; the last is the number of clips of the
    validation loss, which are training samples where none are held out."""

    total: int
    trained_on: int
    filtered_out: int
    not_decodable: int  # when the cache was made
    held_out: int
    too_short: int  # for every bucket
    validated_on: int


@dataclass(frozen=True)
class Data:
    """`source` gives items of `samples` by number, in the `order` of the steps; `validation`: numbers, for bucket 0."""

    samples: Dataset
    source: Source
    order: Order
    validation: list[int]
    selection: Selection


def open_data(config: TrainConfig, shards: Addresses, cache: Addresses | None, encoders: Encoders, world: World) -> Data:
    """Several `shards` have a cache each, in their order, or none.

    Raises OutputError and TrainError for shards, a filter, a cache or buckets that give nothing or do not fit.
    """
    _check_buckets(config, encoders, world)
    samples, total = open_samples(shards, config.data.where)
    admitted = len(samples)
    found = buckets(samples, config.data)
    held_out = split(samples, config.data.validation)[1]
    source: Source
    if cache is None:
        source = PixelSource(samples, config.data, config.seed, config.stage.images)
    else:
        source, held = _cached(samples, _cache_of(shards, cache), config)
        found = [_those_of(held, bucket) for bucket in found]
        held_out, admitted = np.intersect1d(held_out, held), len(held)
    usable = long_enough(samples, config.data.buckets[0], config.data.fps)
    validation = np.intersect1d(usable, held_out) if len(held_out) else found[0].samples[:MOST_VALIDATED]
    trained_on = len(np.unique(np.concatenate([bucket.samples for bucket in found])))
    selection = Selection(
        total=total,
        trained_on=trained_on,
        filtered_out=total - len(samples),
        not_decodable=len(samples) - admitted,
        held_out=len(held_out),
        too_short=admitted - len(held_out) - trained_on,
        validated_on=len(validation),
    )
    return Data(samples, source, Order(found, config.seed), validation.tolist(), selection)


def told(data: Data, config: TrainConfig) -> list[str]:
    """Lines for the person who starts a run: what it is trained on, and what of that they may not have meant."""
    chosen, where = data.selection, config.data.where
    reasons = [
        f"{count:,} {why}"
        for count, why in (
            (chosen.filtered_out, f"left out by --where {where!r}"),
            (chosen.not_decodable, "left out of the cache, they cannot be decoded"),
            (chosen.held_out, "held out for the validation loss"),
            (chosen.too_short, "too short for data.buckets"),
        )
        if count
    ]
    lines = [
        f"training on {chosen.trained_on} of {plural(chosen.total, 'sample')}" + (f": {', '.join(reasons)}" if reasons else "")
    ]
    lines += [
        f"warning: a step of data.buckets[{place}] takes {bucket.batch} clips and there are {len(bucket.samples)}, so that it"
        " has some of them more than once; lower its batch, or admit more samples"
        for place, bucket in enumerate(data.order.buckets)
        if len(bucket.samples) < bucket.batch
    ]
    if not data.validation:
        lines.append(
            f"there will be no validation loss: of {plural(chosen.held_out, 'sample')} held out none is long enough for"
            " data.buckets[0]; raise data.validation"
        )
    return lines


def steps(data: Data, config: TrainConfig, start: int, world: World) -> Generator[StepItems, None, None]:
    """This rank's share of steps `start` to `stage.steps`, read ahead by `data.workers` processes until it is closed."""
    read = streamed if config.data.reader == "streaming" else indexed
    stop, workers = config.stage.steps, config.data.workers
    return read(data.source, data.order, data.samples, start, stop, world.rank, world.ranks, workers)


def encoded(items: Sequence[Item | EncodedItem], encoders: Encoders) -> list[EncodedItem]:
    """Items as the model needs them: those of a cache already are."""
    pixels = [item for item in items if isinstance(item, Item)]
    return encode(pixels, encoders) if pixels else [item for item in items if isinstance(item, EncodedItem)]


def _cache_of(shards: Addresses, caches: Addresses) -> dict[str, str]:
    """Output -> its cache. Raises TrainError where they are not equally many."""
    outs, given = addresses(shards), addresses(caches)
    if len(outs) != len(given):
        raise TrainError(f"--cache is given {len(given)} times for {len(outs)} --shards; give one for each, in their order")
    return dict(zip(outs, given, strict=True))


def _cached(samples: Dataset, cache_of: dict[str, str], config: TrainConfig) -> tuple[Source, np.ndarray]:
    """The caches as one source, and numbers of the samples in it, (n,) int64. Raises TrainError and OutputError."""
    parts = parts_of(samples)
    sources = [CacheSource(part, cache_of[part.out], config) for part in parts]
    held = np.concatenate([start + source.numbers() for start, source in zip(starts_of(parts), sources, strict=True)])
    return (sources[0] if len(sources) == 1 else JoinedSource(sources, parts)), held


def _those_of(held: np.ndarray, bucket: Bucket) -> Bucket:
    numbers = np.intersect1d(bucket.samples, held)
    if not len(numbers):
        raise TrainError(f"the cache has none of the {plural(len(bucket.samples), 'clip')} to train on; its rejects/ say why")
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
