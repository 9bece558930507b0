"""Throughput of the trainer's readers against plain `webdataset` with the same decode calls, in one run.

    python -m tools.bench_loader OUTPUT_OF_MATERIA_RUN [--epochs 4] [--repetitions 3]

In: an output of `materia run` with two shards or more. Out: items a second and CPU time of each reader with 0 and 2 workers,
and the ratios to webdataset's that shares the work among its workers in the same way: every worker has all shards, as in the
indexed reader, or its part of them, as in the streaming one. All make the same items by the same functions
(trainer.data.items): whole epochs, and of a sample the same item whoever reads it. Of repetitions in which the readers take
turns the best counts, as what else the machine does can only add; on a busy machine look at the CPU time.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, NamedTuple

import cv2
import torch
import webdataset as wds
from torch.utils.data import DataLoader

from materia.base import storage
from materia.dataset.reader import Dataset, parse_document
from trainer.config import BucketSettings, DataSettings
from trainer.data.batch import Item
from trainer.data.items import PixelSource
from trainer.data.loader import READ_AHEAD, buckets, indexed
from trainer.data.order import Bucket, Order
from trainer.data.streaming import streamed

WORKERS = (0, 2)
Read = Callable[[PixelSource, Bucket, int, int], Iterator[Any]]
"""(source, bucket, epochs, workers) -> item after item, each sample of the bucket once an epoch."""


class SameItems(PixelSource):
    """Of a sample always the same item, so that the readers have the same to do, whatever their order."""

    def read(self, step: int, slot: int, number: int, bucket: int) -> Item:
        """As of PixelSource, at step 0."""
        return super().read(0, number, number, bucket)

    def item(self, step: int, slot: int, members: Mapping[str, bytes], shard: str, bucket: int) -> Item:
        """As of PixelSource, at step 0."""
        return super().item(0, self.numbers[parse_document(members["json"], shard).key], members, shard, bucket)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Key -> number of a sample."""
        return {key: index for index, key in enumerate(self.samples.index["key"].to_pylist())}


def plain_webdataset(source: PixelSource, bucket: Bucket, epochs: int, workers: int, *, split: bool) -> Iterator[Any]:
    """Tars from front to back in PyTorch's loader, as it comes.

    `split`: each worker has its part of the shards in all epochs; else all of them, in its share of the epochs.
    """
    samples = source.samples
    keys = {samples.key(number) for number in bucket.samples.tolist()}
    shards = [storage.join(samples.out, shard) for shard in samples.index["shard"].unique().to_pylist()]
    dataset = (
        wds.WebDataset(shards, shardshuffle=False).repeat(epochs)
        if split
        else wds.WebDataset(shards, shardshuffle=False, workersplitter=None).repeat(epochs // max(1, workers))
    )
    dataset = dataset.select(lambda sample: sample["__key__"] in keys).map(partial(_item, source))
    loader = DataLoader(
        dataset,
        batch_size=None,
        collate_fn=lambda item: item,
        num_workers=workers,
        prefetch_factor=READ_AHEAD if workers else None,
    )
    return iter(loader)


def _item(source: PixelSource, sample: dict[str, Any]) -> Item:
    return source.item(0, 0, sample, sample["__url__"], 0)


def of_trainer(read: Callable[..., Iterator[Any]], source: PixelSource, bucket: Bucket, epochs: int, workers: int) -> Any:
    """One of the trainer's readers, steps of one item."""
    order = Order([bucket], source.seed)
    return read(source, order, source.samples, 0, epochs * len(bucket.samples), 0, 1, workers)


READERS: dict[str, Read] = {
    "webdataset, all": partial(plain_webdataset, split=False),
    "indexed": partial(of_trainer, indexed),
    "webdataset, split": partial(plain_webdataset, split=True),
    "streaming": partial(of_trainer, streamed),
}
LIKE = {"indexed": "webdataset, all", "streaming": "webdataset, split"}
"""Reader of the trainer -> the one that shares the work in the same way."""


class Cost(NamedTuple):
    """Of an item: wall time from the first item on (by then the workers have started), and CPU time of all processes."""

    wall_s: float
    cpu_s: float


def cost(items: Iterator[Any]) -> Cost:
    """Go through all items."""
    cpu_before = _cpu_s()
    next(items)
    start = time.perf_counter()
    count = sum(1 for _ in items)
    return Cost((time.perf_counter() - start) / count, (_cpu_s() - cpu_before) / (count + 1))


def _cpu_s() -> float:
    """Of this process and of the workers that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(out: str, epochs: int, repetitions: int) -> dict[tuple[str, int], list[Cost]]:
    """(reader, workers) -> what an item cost in each repetition."""
    size = BucketSettings(frames=9, height=144, width=256, batch=1)
    data = DataSettings(buckets=(size,), windows=1, validation=0, shuffle_buffer=1)  # 1: no sample comes before its epoch
    source = SameItems(Dataset(out), data, seed=0)
    (bucket,) = buckets(source.samples, data)
    shards = len(source.samples.index["shard"].unique())
    costs = defaultdict(list)
    for _ in range(repetitions):
        for workers, (name, read) in itertools.product(WORKERS, READERS.items()):
            if LIKE.get(name, name) != "webdataset, split" or workers <= shards:
                costs[name, workers].append(cost(read(source, bucket, epochs, workers)))
    return costs


def main() -> None:
    """Print a row for each reader and number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="of materia run")
    parser.add_argument("--epochs", type=int, default=4, help="of a measurement; even")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    costs = measure(options.output, options.epochs, options.repetitions)
    print(f"{'reader':18} {'workers':>7} {'items/s':>8} {'of webdataset':>14} {'CPU ms/item':>12} {'of webdataset':>14}")
    for (name, workers), found in costs.items():
        mine, plain = best(found), best(costs[LIKE.get(name, name), workers])
        throughput = f"{1 / mine.wall_s:8.1f} {plain.wall_s / mine.wall_s:14.3f}"
        print(f"{name:18} {workers:7} {throughput} {1000 * mine.cpu_s:12.1f} {mine.cpu_s / plain.cpu_s:14.3f}")


def best(costs: list[Cost]) -> Cost:
    """The least of each: what disturbs a measurement only adds to it."""
    return Cost(min(cost.wall_s for cost in costs), min(cost.cpu_s for cost in costs))


if __name__ == "__main__":
    main()
