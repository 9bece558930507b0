"""Throughput of the trainer's readers against plain `webdataset` with the same decode calls, in one run.

    python -m tools.bench_loader OUTPUT_OF_MATERIA_RUN [--epochs 4] [--repetitions 5]

In: an output of `materia run`. Out: items a second of each reader with 0 and 2 workers, and its ratio to webdataset's: medians
over repetitions in which the readers take turns, so that what else the machine does meets all of them. All make the same items
by the same functions (trainer.items): whole epochs, with the same draws.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

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


def rate(items: Iterator[Any]) -> float:
    """Items a second, from the first item on: by then the workers have started."""
    next(items)
    start = time.perf_counter()
    count = sum(1 for _ in items)
    return count / (time.perf_counter() - start)


def measure(out: str, epochs: int, repetitions: int) -> dict[tuple[str, int], list[float]]:
    """(reader, workers) -> items a second in each repetition."""
    size = BucketSettings(frames=9, height=144, width=256, batch=1)
    data = DataSettings(buckets=(size,), windows=1, validation=0, shuffle_buffer=1)  # 1: no sample comes before its epoch
    source = PixelSource(Samples(out), data, seed=0)
    (bucket,) = buckets(source.samples, data)
    rates = defaultdict(list)
    for _ in range(repetitions):
        for workers, (name, read) in itertools.product(WORKERS, READERS.items()):
            rates[name, workers].append(rate(read(source, bucket, epochs, workers)))
    return rates


def main() -> None:
    """Print a row for each reader and number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="of materia run")
    parser.add_argument("--epochs", type=int, default=4, help="of a measurement; even")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rates = measure(options.output, options.epochs, options.repetitions)
    print(f"{'reader':12} {'workers':>7} {'items/s':>8} {'of webdataset':>14}   (least and most of {options.repetitions})")
    for (name, workers), found in rates.items():
        ratios = [a / b for a, b in zip(found, rates["webdataset", workers], strict=True)]
        spread = f"   ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:12} {workers:7} {statistics.median(found):8.1f} {statistics.median(ratios):14.3f}{spread}")


if __name__ == "__main__":
    main()
