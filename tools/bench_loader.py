"""Throughput of the trainer's readers against plain `webdataset` with the same decode calls, in one run.

    python -m tools.bench_loader OUTPUT_OF_MATERIA_RUN [--epochs 2] [--repetitions 12]

In: an output of `materia run`. Out: items a second and CPU time of each reader with 0 and 2 workers, and the ratios to
webdataset's: the best of repetitions in which the readers take turns, as what else the machine does can only add. On a busy
machine look at the CPU time, and take more repetitions for the other. All make the same items
by the same functions (trainer.items): whole epochs, with the same draws. Streaming uses as many workers as there are shards.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import cv2
import torch
import webdataset as wds
from torch.utils.data import DataLoader, get_worker_info

from pipeline import storage
from trainer.config import BucketSettings, DataSettings
from trainer.items import PixelSource
from trainer.loader import READ_AHEAD, buckets, indexed
from trainer.order import Bucket, Order
from trainer.shards import Samples
from trainer.streaming import streamed

WORKERS = (0, 2)
Read = Callable[[PixelSource, Bucket, int, int], Iterator[Any]]
"""(source, bucket, epochs, workers) -> item after item, each sample of the bucket once an epoch."""


def plain_webdataset(source: PixelSource, bucket: Bucket, epochs: int, workers: int) -> Iterator[Any]:
    """Tars from front to back in PyTorch's loader; each worker goes through all of them, in its share of the epochs."""
    samples = source.samples
    keys = {samples.key(number) for number in bucket.samples.tolist()}
    shards = [storage.join(samples.out, shard) for shard in samples.index["shard"].unique().to_pylist()]
    dataset = wds.WebDataset(shards, shardshuffle=False, workersplitter=None).repeat(epochs // max(1, workers))
    dataset = dataset.select(lambda sample: sample["__key__"] in keys).compose(partial(_items, source))
    loader = DataLoader(
        dataset,
        batch_size=None,
        collate_fn=lambda item: item,
        num_workers=workers,
        prefetch_factor=READ_AHEAD if workers else None,
    )
    return iter(loader)


def _items(source: PixelSource, members: Iterator[dict[str, Any]]) -> Iterator[Any]:
    worker = get_worker_info()
    steps = itertools.count() if worker is None else itertools.count(worker.id, worker.num_workers)
    for step, sample in zip(steps, members, strict=False):
        yield source.item(step, 0, sample, sample["__url__"], 0)


def of_trainer(read: Callable[..., Iterator[Any]], source: PixelSource, bucket: Bucket, epochs: int, workers: int) -> Any:
    """One of the trainer's readers, steps of one item."""
    order = Order([bucket], source.seed)
    return read(source, order, source.samples, 0, epochs * len(bucket.samples), 0, 1, workers)


READERS: dict[str, Read] = {
    "webdataset": plain_webdataset,
    "indexed": partial(of_trainer, indexed),
    "streaming": partial(of_trainer, streamed),
}


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
    source = PixelSource(Samples(out), data, seed=0)
    (bucket,) = buckets(source.samples, data)
    shards = len(source.samples.index["shard"].unique())
    costs = defaultdict(list)
    for _ in range(repetitions):
        for workers, (name, read) in itertools.product(WORKERS, READERS.items()):
            if name != "streaming" or workers <= shards:  # it uses no more
                costs[name, workers].append(cost(read(source, bucket, epochs, workers)))
    return costs


def main() -> None:
    """Print a row for each reader and number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="of materia run")
    parser.add_argument("--epochs", type=int, default=2, help="of a measurement; even")
    parser.add_argument("--repetitions", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    costs = measure(options.output, options.epochs, options.repetitions)
    print(f"{'reader':12} {'workers':>7} {'items/s':>8} {'of webdataset':>14} {'CPU ms/item':>12} {'of webdataset':>14}")
    for (name, workers), found in costs.items():
        mine, plain = best(found), best(costs["webdataset", workers])
        throughput = f"{1 / mine.wall_s:8.1f} {plain.wall_s / mine.wall_s:14.3f}"
        print(f"{name:12} {workers:7} {throughput} {1000 * mine.cpu_s:12.1f} {mine.cpu_s / plain.cpu_s:14.3f}")


def best(costs: list[Cost]) -> Cost:
    """The least of each: what disturbs a measurement only adds to it."""
    return Cost(min(cost.wall_s for cost in costs), min(cost.cpu_s for cost in costs))


if __name__ == "__main__":
    main()
