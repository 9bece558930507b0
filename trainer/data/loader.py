"""The indexed reader: the items of each step, read ahead by worker processes, in the order that trainer/data/order.py computes.

In: a source of items (pixels or a cache), an order, and which share of each batch this rank reads. Out: the steps, in order. A
worker takes whole steps and knows nothing of the other workers, so neither their number nor where a run was stopped changes an
item, and every rank has the same number of steps.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from multiprocessing.synchronize import Semaphore
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import torch

from materia.dataset.reader import Dataset
from trainer.config import BucketSettings, DataSettings
from trainer.data.batch import EncodedItem, Item
from trainer.data.items import Source, latest_start_s
from trainer.data.order import Bucket, Order
from trainer.errors import TrainError

T = TypeVar("T")

HELD_OUT, HELD_OUT_SHARE = 16, 0.1
"""Samples of the validation loss where the configuration says nothing: so many, and at most this share of all."""
READ_AHEAD = 4
"""Steps that are ready or in the making for each worker, at most: so many hide that some take longer than others."""


START_S, START_TRIES = 60.0, 3
"""In which workers that were forked must have begun, and how often they are made."""


class StepItems(NamedTuple):
    """A step's data: `keys` of the whole batch in slot order, and the `items` that this rank reads, each with its slot."""

    step: int
    bucket: int
    keys: list[str]
    items: list[Item] | list[EncodedItem]


def split(samples: Dataset, validation: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the samples to train on and of those held out, each ascending.

    Held out are the clips of the videos (`source_id`) whose hashes are smallest, so that it does not depend on the order of the
    samples and hardly on what is added, and at most one video is on both sides. None: HELD_OUT samples, at most HELD_OUT_SHARE
    of them. Raises TrainError where nothing would be left.
    """
    if validation is None:
        validation = min(HELD_OUT, int(HELD_OUT_SHARE * len(samples)))
    if validation >= len(samples):
        raise TrainError(
            f"data.validation = {validation} holds out all {len(samples)} samples of {samples.out}; set a smaller number, or 0"
            " to measure the validation loss on training samples"
        )
    names = zip(samples.index["source_id"].to_pylist(), samples.index["key"].to_pylist(), strict=True)
    hashes = [(_hash(source), _hash(key)) for source, key in names]
    ranked = np.array(sorted(range(len(samples)), key=hashes.__getitem__), np.int64)
    return np.sort(ranked[validation:]), np.sort(ranked[:validation])


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def long_enough(samples: Dataset, bucket: BucketSettings, fps: float) -> np.ndarray:
    """Numbers of the samples, held out or not, whose clips last long enough for a bucket. Raises TrainError if none does."""
    latest_s = latest_start_s(samples.numbers("duration_s"), samples.numbers("fps"), bucket.frames, fps)
    numbers = np.flatnonzero(latest_s > -1e-6)
    if not len(numbers):
        raise TrainError(
            f"no clip of {samples.out} is long enough for {bucket.frames} frames at {fps:g} a second; the longest lasts "
            f"{samples.numbers('duration_s').max():.2f} s: lower data.buckets' frames or raise data.fps"
        )
    return numbers


def buckets(samples: Dataset, data: DataSettings) -> list[Bucket]:
    """What each of `data.buckets` is drawn from: the clips long enough for it that are not held out. Raises TrainError."""
    training, _ = split(samples, data.validation)
    found = []
    for bucket in data.buckets:
        numbers = np.intersect1d(long_enough(samples, bucket, data.fps), training)
        if not len(numbers):
            raise TrainError(
                f"every clip that is long enough for {bucket.frames} frames at {data.fps:g} a second is held out; lower "
                "data.validation"
            )
        found.append(Bucket(numbers, bucket.batch, bucket.weight))
    return found


def indexed(
    source: Source, order: Order, samples: Dataset, start: int, stop: int, rank: int, ranks: int, workers: int
) -> Generator[StepItems, None, None]:
    """Steps `start` to `stop`, this rank's share of each: slots rank, rank + ranks, ...

    Raises TrainError where the shares would be uneven, and what the source raises, also if a worker met it.
    """
    check_shares(order, ranks)
    return ahead(_Steps(source, order, samples, rank, ranks), range(start, stop), workers)


def check_shares(order: Order, ranks: int) -> None:
    """Raises TrainError for a batch that cannot be shared out evenly: a rank with less to do would let the others wait."""
    for bucket in order.buckets:
        if bucket.batch % ranks:
            raise TrainError(
                f"a batch of {bucket.batch} cannot be shared out to {ranks} processes; make data.buckets' batch a multiple of"
                f" {ranks}"
            )


def ahead(
    read: Callable[[int], T], numbers: Sequence[int], workers: int, *, in_turns: bool = False
) -> Generator[T, None, None]:
    """`read(number)` for each of `numbers`, in their order; `workers` processes read ahead, each the next that nobody has.

    `in_turns`: the first reads the first number, the second the second, and so on in a circle, for a `read` that depends on
    what it read before; they read twice as far ahead, to make up for slow ones. An error of a worker is raised here as it was.
    To be closed by who stops early: an exception on its way up keeps the processes, and they go on with what they have.
    """
    cv2.setNumThreads(1)  # before workers are forked: in them OpenCV would wait for the threads that its pool had here
    if not workers:
        yield from map(read, numbers)
        return
    pools = [_pool(read, 1) for _ in range(workers)] if in_turns else [_pool(read, workers)]
    most = READ_AHEAD * workers * (2 if in_turns else 1)
    try:
        waiting: deque[Future[T]] = deque()
        for turn, index in enumerate(numbers):
            if len(waiting) == most:
                yield waiting.popleft().result()
            waiting.append(pools[turn % len(pools)].submit(_in_worker, index))
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise TrainError("a process that reads ahead was killed; if memory ran out, set data.workers lower") from None
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def _pool(read: Callable[[int], Any], workers: int) -> ProcessPoolExecutor:
    """Forked, so that each has what `read` knows without a copy. Raises TrainError if they do not start.

    Now and then a forked process waits for ever for a lock that another thread held at that moment: in Python 3.11 for that of
    its thread states (PyOS_AfterFork_Child). Such a pool has read nothing yet and is made anew.
    """
    context = get_context("fork")
    for _ in range(START_TRIES):
        others, started = set(active_children()), context.Semaphore(0)
        pool = ProcessPoolExecutor(workers, context, _start_worker, (read, os.getpid(), started))
        pool.submit(os.getpid)  # with the first task all are forked
        if all(started.acquire(timeout=START_S) for _ in range(workers)):
            return pool
        for process in set(active_children()) - others:
            process.kill()
        pool.shutdown(cancel_futures=True)
    raise TrainError(f"processes that read ahead did not start, {START_TRIES} times; with data.workers = 0 none is needed")


_read_here: Callable[[int], Any]
"""In a worker: what it reads with."""


def _start_worker(read: Callable[[int], Any], parent: int, started: Semaphore) -> None:
    """One thread, as there are many workers. The parent decides when to end: a signal to the whole group is for it alone."""
    global _read_here  # noqa: PLW0603 - a worker is for one `read` only
    _read_here = read
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    started.release()


def _in_worker(number: int) -> Any:
    return _read_here(number)


def _end_with(parent: int) -> None:
    """End when the parent says so, or was killed: nobody else would take the last step."""
    while os.getppid() == parent:
        told = signal.sigtimedwait({signal.SIGTERM}, 0.5)
        if told is not None and told.si_pid == parent:
            break
    os._exit(1)


class _Steps:
    """Step number -> its items."""

    def __init__(self, source: Source, order: Order, samples: Dataset, rank: int, ranks: int) -> None:
        self.source = source
        self.order = order
        self.samples = samples
        self.rank = rank
        self.ranks = ranks

    def __call__(self, number: int) -> StepItems:
        step = self.order.step(number)
        slots = range(self.rank, len(step.samples), self.ranks)
        items: Any = [self.source.read(number, slot, int(step.samples[slot]), step.bucket) for slot in slots]
        return StepItems(number, step.bucket, [self.samples.key(int(sample)) for sample in step.samples], items)
