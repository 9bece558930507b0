"""The streaming reader: tars from front to back, as object stores like it, through `webdataset`.

In: as of the indexed reader, but a source that makes items of whole samples. Out: the same steps of the same kind of items.
Each epoch deals the shuffled shards anew to the readers (workers of ranks), so none is read twice in it; a reader passes over
samples that are held out, filtered away or too short for the step's bucket, and never runs dry. There is no exact resume: a run
that goes on shuffles anew.
"""

from __future__ import annotations

import itertools
import math
import random
import tarfile
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from webdataset import filters
from webdataset.tariterators import group_by_keys, tar_file_expander

from materia.base import storage
from materia.base.errors import UserError
from materia.dataset.layout import OutputError
from materia.dataset.reader import Dataset
from trainer.data.items import PixelSource, Source
from trainer.data.loader import StepItems, ahead, check_shares
from trainer.data.order import Order
from trainer.errors import TrainError


class Streamed(NamedTuple):
    """A sample as it comes: its number in the index, the address of its shard, and its members."""

    number: int
    shard: str
    members: dict[str, bytes]


def streamed(
    source: Source, order: Order, samples: Dataset, start: int, stop: int, rank: int, ranks: int, workers: int
) -> Generator[StepItems, None, None]:
    """Steps `start` to `stop`, this rank's share of each, with this rank's keys only: it does not know the others'.

    Of the order only the buckets count. Where there are fewer shards than readers, less workers are used. Raises TrainError for
    fewer shards than ranks, uneven shares or a source that is a cache; OutputError for a shard that cannot be read.
    """
    if not isinstance(source, PixelSource):
        raise TrainError("a cache is read by number, not as a stream; set data.reader=indexed")
    check_shares(order, ranks)
    wanted = np.zeros((len(order.buckets), len(samples)), bool)
    for row, bucket in zip(wanted, order.buckets, strict=True):
        row[bucket.samples] = True
    shards = shards_of(samples, np.flatnonzero(wanted.any(axis=0)))
    if len(shards) < ranks:
        raise TrainError(
            f"{len(shards)} shards of {samples.out} cannot be shared out to {ranks} processes; set data.reader=indexed, or"
            " build smaller shards: engine.rows_per_chunk"
        )
    readers = min(max(1, workers), len(shards) // ranks)
    steps = _Steps(source, order, samples, wanted, shards, rank, ranks, readers, start)
    return ahead(steps, range(start, stop), min(workers, readers), in_turns=True)


class _Steps:
    """Step number -> its items, made of what comes next; each worker asks for its steps in ascending order.

    `wanted` (buckets, samples) bool; `readers` of each rank share its shards.
    """

    def __init__(
        self,
        source: PixelSource,
        order: Order,
        samples: Dataset,
        wanted: np.ndarray,
        shards: list[tuple[str, np.ndarray]],
        rank: int,
        ranks: int,
        readers: int,
        start: int,
    ) -> None:
        self.source = source
        self.order = order
        self.samples = samples
        self.wanted = wanted
        self.shards = shards
        self.rank = rank
        self.ranks = ranks
        self.readers = readers
        self.start = start
        self._coming: Iterator[Streamed] | None = None

    def __call__(self, number: int) -> StepItems:
        if self._coming is None:
            self._coming = self._shuffled(self.rank * self.readers + (number - self.start) % self.readers)
        bucket = self.order.bucket(number)
        coming = (sample for sample in self._coming if self.wanted[bucket, sample.number])
        slots = range(self.rank, self.order.buckets[bucket].batch, self.ranks)
        items: Any = [
            self.source.item(number, slot, sample.members, sample.shard, bucket)
            for slot, sample in zip(slots, coming, strict=False)
        ]
        return StepItems(number, bucket, [item.key for item in items], items)

    def _shuffled(self, reader: int) -> Iterator[Streamed]:
        """Samples for a reader, without end."""
        size = math.ceil(self.source.data.shuffle_buffer / self.readers)
        rng = random.Random(f"{self.source.seed} {self.start} {reader}")
        return iter(filters.shuffle(size, rng=rng)(self._dealt(reader)))

    def _dealt(self, reader: int) -> Iterator[Streamed]:
        """The shards that fall to a reader, epoch after epoch."""
        for epoch in itertools.count():
            places = np.random.default_rng((self.source.seed, self.start, epoch)).permutation(len(self.shards))
            for place in places[reader :: self.ranks * self.readers]:
                yield from read_shard(self.samples, self.shards[place][1])


def shards_of(samples: Dataset, numbers: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The shards that hold the samples `numbers` (n,), by what the index calls them, each with its own of them."""
    column = samples.index["shard"].take(pa.array(numbers)).combine_chunks().dictionary_encode()
    codes = column.indices.to_numpy()
    together = np.argsort(codes, kind="stable")
    parts = np.split(numbers[together], np.flatnonzero(np.diff(codes[together])) + 1)
    return list(zip(column.dictionary.to_pylist(), parts, strict=True))


def read_shard(samples: Dataset, numbers: np.ndarray) -> Iterator[Streamed]:
    """The samples `numbers` (n,), all of one shard, as they lie in it, without the frames of record.

    Raises OutputError where one of them is missing.
    """
    address = samples.address(int(numbers[0]))
    advice = f"run: materia validate {address.rpartition('/shards/')[0]}"
    awaited = {samples.key(number): int(number) for number in numbers.tolist()}
    try:
        with storage.open_read(address) as stream:
            files = tar_file_expander([{"url": address, "stream": stream}], select_files=_is_used)
            for sample in group_by_keys(files):
                number = awaited.get(sample["__key__"])
                if number is None:
                    continue
                members = {name: sample[name] for name in samples.members(number) if _is_used(name) and name in sample}
                if len(members) < sum(map(_is_used, samples.members(number))):
                    break  # tarfile takes a broken header for the end
                del awaited[sample["__key__"]]
                yield Streamed(number, address, members)
                if not awaited:
                    return
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        if isinstance(error, UserError):
            raise
        why = getattr(error, "strerror", None) or next(iter(error.args), "")  # webdataset adds the open stream to the arguments
        told = f"{address} cannot be read as a tar ({type(error).__name__}: {why}); {advice}"
        raise OutputError(told) from error
    raise OutputError(f"{address} ends without all of sample {next(iter(awaited))}; {advice}")


def _is_used(name: str) -> bool:
    return not name.endswith(".jpg")
