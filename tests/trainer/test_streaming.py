"""The streaming reader: the same items through the same functions, shards without overlap, filters, and clear errors."""

import uuid
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest
from real_clips import make_real_output, same_item

from materia.dataset.layout import OutputError
from materia.dataset.reader import Dataset
from trainer.config import BucketSettings, DataSettings
from trainer.data.items import PixelSource
from trainer.data.loader import StepItems, buckets, split
from trainer.data.order import Order
from trainer.data.streaming import streamed
from trainer.errors import TrainError

SECONDS = [1.0, 2.0, 3.0, 1.5, 2.5, 1.2, 1.1, 2.2]
SMALL = BucketSettings(frames=3, height=16, width=24, batch=4)
LONG = BucketSettings(frames=13, height=8, width=8, batch=4)
DATA = DataSettings(buckets=(SMALL, LONG), reference_px=32, validation=1, shuffle_buffer=4)
IN_ORDER = DATA.model_copy(update={"shuffle_buffer": 1, "buckets": (SMALL,), "validation": 0})


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_real_output(tmp_path_factory.mktemp("streaming"), SECONDS)


def read(
    samples: Dataset, data: DataSettings, stop: int, *, start: int = 0, rank: int = 0, ranks: int = 1, workers: int = 0
) -> list[StepItems]:
    order = Order(buckets(samples, data), seed=7)
    return list(streamed(PixelSource(samples, data, seed=7), order, samples, start, stop, rank, ranks, workers))


def number_of(samples: Dataset, key: str) -> int:
    return samples.index["key"].to_pylist().index(key)


@pytest.mark.parametrize("workers", [0, 2])
def test_items_are_those_that_the_indexed_reader_makes_of_the_same_samples(out: str, workers: int) -> None:
    samples = Dataset(out)
    order, source = Order(buckets(samples, DATA), seed=7), PixelSource(samples, DATA, seed=7)
    for step in read(samples, DATA, 5, rank=1, ranks=2, workers=workers):
        assert step.bucket == order.bucket(step.step) == order.step(step.step).bucket
        assert step.keys == [item.key for item in step.items]
        assert [item.slot for item in step.items] == [1, 3]
        for item in step.items:
            assert same_item(item, source.read(step.step, item.slot, number_of(samples, item.key), step.bucket))


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (2, 0), (2, 2), (4, 1)])
def test_an_epoch_is_dealt_to_ranks_and_workers_without_overlap(out: str, ranks: int, workers: int) -> None:
    samples = Dataset(out)
    steps = [step for rank in range(ranks) for step in read(samples, IN_ORDER, 2, rank=rank, ranks=ranks, workers=workers)]
    assert Counter(key for step in steps for key in step.keys) == Counter(samples.index["key"].to_pylist())


def test_only_wanted_samples_come(out: str) -> None:
    samples = Dataset(out, where="duration_s > 1.15 and key != 'clip-0004'")
    steps = read(samples, DATA, 12)
    held_out = {samples.key(number) for number in split(samples, 1)[1].tolist()}
    keys = {key for step in steps for key in step.keys}
    assert keys == set(samples.index["key"].to_pylist()) - held_out
    long = {f"clip-{number:04d}" for number, seconds in enumerate(SECONDS) if seconds >= 1.54}
    assert {key for step in steps if step.bucket == 1 for key in step.keys} <= long
    assert {step.bucket for step in steps} == {0, 1}


def test_a_run_that_goes_on_shuffles_anew_and_every_epoch_differs(out: str) -> None:
    samples = Dataset(out)
    first = [step.keys for step in read(samples, IN_ORDER, 6)]
    assert first == [step.keys for step in read(samples, IN_ORDER, 6)]
    assert first[2:] != [step.keys for step in read(samples, IN_ORDER, 6, start=2)]
    assert len({tuple(first[epoch] + first[epoch + 1]) for epoch in (0, 2, 4)}) == 3


def test_the_buffer_shuffles(out: str) -> None:
    samples = Dataset(out)
    shuffled = [step.keys for step in read(samples, IN_ORDER.model_copy(update={"shuffle_buffer": 8}), 6)]
    assert shuffled != [step.keys for step in read(samples, IN_ORDER, 6)]


def test_more_workers_than_shards_are_not_used_and_more_ranks_are_refused(out: str) -> None:
    one_shard = Dataset(out, where="key in ['clip-0000', 'clip-0001']")
    assert [step.step for step in read(one_shard, IN_ORDER, 3, workers=4)] == [0, 1, 2]
    with pytest.raises(TrainError, match=r"1 shards of .* cannot be shared out to 2 processes; set data.reader=indexed"):
        read(one_shard, IN_ORDER, 3, ranks=2)


def test_a_cache_and_uneven_shares_are_refused(out: str) -> None:
    samples = Dataset(out)
    order = Order(buckets(samples, DATA), seed=7)

    class Cache:
        def read(self, step: int, slot: int, number: int, bucket: int) -> None: ...

    with pytest.raises(TrainError, match=r"data.reader=indexed"):
        streamed(Cache(), order, samples, 0, 1, 0, 1, 0)
    with pytest.raises(TrainError, match="cannot be shared out to 3 processes"):
        read(samples, DATA, 1, ranks=3)


def test_an_object_store_is_read_without_a_shell(out: str) -> None:
    store, root = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}; touch hacked"
    for path in Path(out).rglob("*"):
        if path.is_file():
            store.pipe_file(f"{root}/{path.relative_to(out)}", path.read_bytes())
    local, remote = read(Dataset(out), DATA, 3), read(Dataset(f"memory:/{root}"), DATA, 3, workers=1)
    store.rm(root, recursive=True)
    assert [step.keys for step in remote] == [step.keys for step in local]
    assert not Path("hacked").exists()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda data: data[: len(data) // 2 + 700], r"000000\.tar (cannot be read as a tar|ends without all of sample)"),
        (lambda data: b"no tar at all" * 100, r"000000\.tar cannot be read as a tar \(ReadError"),
        (lambda data: data[:512].ljust(len(data), b"\0"), r"000000\.tar ends without all of sample clip-000[01]"),
    ],
)
def test_a_torn_shard_is_told_in_a_line(tmp_path: Path, spoil, told: str, workers: int) -> None:
    samples = Dataset(make_real_output(tmp_path, [1.5, 1.5]))
    shard = Path(samples.address(0))
    shard.write_bytes(spoil(shard.read_bytes()))
    with pytest.raises(OutputError, match=told) as caught:
        read(samples, IN_ORDER, 4, workers=workers)
    assert "\n" not in str(caught.value)
    assert "materia validate" in str(caught.value)


def test_the_global_random_state_decides_nothing(out: str) -> None:
    samples = Dataset(out)
    np.random.seed(0)
    one = read(samples, DATA, 2)
    np.random.seed(1)
    assert [step.keys for step in read(samples, DATA, 2)] == [step.keys for step in one]
