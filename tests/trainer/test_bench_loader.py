"""The loader benchmark compares like with like: every reader makes the same items of an epoch."""

from collections import Counter
from pathlib import Path

import pytest
from real_clips import make_real_output

from materia.dataset.reader import Dataset
from tools.bench_loader import READERS, SameItems, measure
from trainer.config import BucketSettings, DataSettings
from trainer.data.loader import buckets


@pytest.mark.parametrize("workers", [0, 2])
def test_all_readers_make_the_same_work(tmp_path: Path, workers: int) -> None:
    samples = Dataset(make_real_output(tmp_path, [1.5, 0.5, 2.0, 1.2], per_shard=2))
    data = DataSettings(
        buckets=(BucketSettings(frames=9, height=16, width=16, batch=1),), windows=1, validation=0, shuffle_buffer=1
    )
    source = SameItems(samples, data, seed=0)
    (bucket,) = buckets(samples, data)
    for name, read in READERS.items():
        items = [item for found in read(source, bucket, 2, workers) for item in getattr(found, "items", [found])]
        assert Counter(item.key for item in items) == {"clip-0000": 2, "clip-0002": 2, "clip-0003": 2}, name


def test_costs_are_measured_for_each_reader(tmp_path: Path) -> None:
    costs = measure(make_real_output(tmp_path, [1.5, 1.5], per_shard=1), epochs=2, repetitions=1)
    assert costs.keys() == {(name, workers) for name in READERS for workers in (0, 2)}
    assert all(cost.wall_s > 0 and cost.cpu_s > 0 for found in costs.values() for cost in found)
