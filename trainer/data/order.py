"""Which samples make which step: a pure function of (seed, step), so that resuming needs no state but the step's number.

In: for each bucket its samples, batch size and weight. Out: for a step its bucket and the batch's samples, in order; a rank
takes its share of that list, a loader worker takes whole steps. Hence the same keys at every step, for any number of ranks and
workers, and no rank runs dry before the others. A bucket walks through endless epochs, each a permutation(seed, bucket, epoch).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_BUCKET_OF_STEP, _EPOCH = 0, 1  # streams of random numbers that must not meet
_BLOCK = 4096  # steps whose buckets are drawn together


@dataclass(frozen=True)
class Bucket:
    """Samples that can be decoded to one size. `samples` (n,) int64 numbers of index rows; `batch` of them a step, over all
    ranks; drawn with probability in proportion to `weight`."""

    samples: np.ndarray
    batch: int
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError for a bucket that can give nothing."""
        if not len(self.samples) or self.batch < 1 or self.weight <= 0:
            raise ValueError(
                f"a bucket needs samples, batch >= 1, weight > 0: {len(self.samples)}, {self.batch}, {self.weight}"
            )


class Step(NamedTuple):
    """A batch: its bucket's number, and (batch,) int64 numbers of index rows."""

    bucket: int
    samples: np.ndarray


class Order:
    """The steps of a training run. It remembers only what it would compute again."""

    def __init__(self, buckets: list[Bucket], seed: int) -> None:
        self.buckets = buckets
        self.seed = seed
        self._drawn = np.zeros((0, len(buckets)), np.int64)  # (blocks, buckets): draws of each bucket up to a block's end
        self._epoch: dict[int, tuple[int, np.ndarray]] = {}  # bucket -> its last used epoch, permuted

    def bucket(self, number: int) -> int:
        """The bucket of step `number`."""
        block, place = divmod(number, _BLOCK)
        return int(self._buckets_of(block)[place])

    def step(self, number: int) -> Step:
        """The batch of step `number`, counted from 0."""
        block, place = divmod(number, _BLOCK)
        buckets = self._buckets_of(block)
        bucket = int(buckets[place])
        before = int(self._draws_before(block)[bucket] + (buckets[:place] == bucket).sum())
        size = self.buckets[bucket].batch
        return Step(bucket, self._take(bucket, before * size, size))

    def _buckets_of(self, block: int) -> np.ndarray:
        weights = np.array([bucket.weight for bucket in self.buckets])
        rng = np.random.default_rng((self.seed, _BUCKET_OF_STEP, block))
        return rng.choice(len(weights), _BLOCK, p=weights / weights.sum())

    def _draws_before(self, block: int) -> np.ndarray:
        """How often each bucket is drawn before a block, (buckets,) int64."""
        while len(self._drawn) < block:
            last = self._drawn[-1] if len(self._drawn) else np.zeros(len(self.buckets), np.int64)
            count = np.bincount(self._buckets_of(len(self._drawn)), minlength=len(self.buckets))
            self._drawn = np.vstack([self._drawn, last + count])
        drawn: np.ndarray = self._drawn[block - 1] if block else np.zeros(len(self.buckets), np.int64)
        return drawn

    def _take(self, bucket: int, first: int, count: int) -> np.ndarray:
        """Samples `first` to `first + count` of a bucket's endless walk; a batch may reach over several epochs."""
        n = len(self.buckets[bucket].samples)
        places = np.arange(first, first + count)
        parts = [
            self._permuted(bucket, epoch)[places[places // n == epoch] % n] for epoch in range(first // n, places[-1] // n + 1)
        ]
        return np.concatenate(parts)

    def _permuted(self, bucket: int, epoch: int) -> np.ndarray:
        kept = self._epoch.get(bucket)
        if kept is None or kept[0] != epoch:
            rng = np.random.default_rng((self.seed, _EPOCH, bucket, epoch))
            kept = epoch, rng.permutation(self.buckets[bucket].samples)
            self._epoch[bucket] = kept
        return kept[1]
