"""The indexed reader: the same items for any workers, ranks and restarts; errors of workers as they were; no process left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import warm
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import living
from real_clips import make_real_output, same_item

from materia.dataset.layout import OutputError
from materia.dataset.reader import Dataset
from trainer.config import BucketSettings, DataSettings
from trainer.data.batch import Item
from trainer.data.items import PixelSource
from trainer.data.loader import StepItems, ahead, buckets, indexed, long_enough, split
from trainer.data.order import Order
from trainer.errors import TrainError

SECONDS = [1.0, 2.0, 3.0, 1.5, 2.5, 1.2]
DATA = DataSettings(
    buckets=(
        BucketSettings(frames=3, height=16, width=24, batch=4),
        BucketSettings(frames=13, height=8, width=8, batch=8, weight=0.5),  # 12 / 8 s and a frame
    ),
    reference_px=32,
    validation=1,
)
STEPS = 6


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset(make_real_output(tmp_path_factory.mktemp("loader"), SECONDS))


@pytest.fixture(scope="module")
def undisturbed(samples: Dataset) -> list[StepItems]:
    return list(read(samples))


def read(samples: Dataset, start: int = 0, stop: int = STEPS, rank: int = 0, ranks: int = 1, workers: int = 0):
    order = Order(buckets(samples, DATA), seed=7)
    return indexed(PixelSource(samples, DATA, seed=7), order, samples, start, stop, rank, ranks, workers)


def assert_same(found: list[StepItems], expected: list[StepItems], rank: int = 0, ranks: int = 1) -> None:
    assert [step[:3] for step in found] == [step[:3] for step in expected]
    for one, other in zip(found, expected, strict=True):
        share = [item for item in other.items if item.slot % ranks == rank]
        assert [item.key for item in share] == one.keys[rank::ranks]
        assert all(same_item(a, b) for a, b in zip(one.items, share, strict=True))


@settings(max_examples=8)
@given(st.integers(0, STEPS - 1), st.sampled_from([(rank, ranks) for ranks in (1, 2, 4) for rank in range(ranks)]))
def test_a_restart_on_any_rank_reads_what_an_undisturbed_run_does(
    samples: Dataset, undisturbed: list[StepItems], start: int, place: tuple[int, int]
) -> None:
    rank, ranks = place
    assert_same(list(read(samples, start, STEPS, rank, ranks)), undisturbed[start:], rank, ranks)


@pytest.mark.parametrize(("workers", "start", "rank", "ranks"), [(2, 0, 0, 1), (2, 1, 1, 2), (1, 2, 3, 4)])
def test_the_number_of_workers_changes_nothing(
    samples: Dataset, undisturbed: list[StepItems], workers: int, start: int, rank: int, ranks: int
) -> None:
    samples.read(0, ["json"])  # the parent has files open when the workers are forked
    assert_same(list(read(samples, start, STEPS, rank, ranks, workers)), undisturbed[start:], rank, ranks)


def test_steps_are_of_one_bucket_with_clips_long_enough(samples: Dataset, undisturbed: list[StepItems]) -> None:
    assert {step.bucket for step in undisturbed} == {0, 1}
    duration = dict(zip(samples.index["key"].to_pylist(), SECONDS, strict=True))
    for step in undisturbed:
        bucket = DATA.buckets[step.bucket]
        assert len(step.items) == bucket.batch
        assert all(isinstance(item, Item) for item in step.items)
        assert {item.video.shape for item in step.items} == {(bucket.frames, bucket.height, bucket.width, 3)}
        assert min(duration[key] for key in step.keys) >= (bucket.frames - 1) / DATA.fps


def test_held_out_samples_are_never_trained_on_and_stay_the_same(samples: Dataset, undisturbed: list[StepItems]) -> None:
    training, held_out = split(samples, 2)
    assert sorted([*training, *held_out]) == list(range(len(SECONDS)))
    one = {samples.key(number) for number in split(samples, 1)[1].tolist()}
    two = {samples.key(number) for number in held_out.tolist()}
    assert len(one) == 1
    assert one < two
    fewer = Dataset(samples.out, where=f"key != '{samples.key(int(training[0]))}'")
    assert {fewer.key(number) for number in split(fewer, 2)[1].tolist()} == two
    assert not one & {key for step in undisturbed for key in step.keys}
    assert split(samples, 0)[1].size == 0


def test_where_nothing_is_said_at_most_a_tenth_is_held_out(samples: Dataset, tmp_path: Path) -> None:
    assert split(samples, None)[1].size == 0
    assert split(Dataset(make_real_output(tmp_path, [0.5] * 23)), None)[1].size == 2


def test_buckets_and_splits_without_samples_are_refused(samples: Dataset) -> None:
    with pytest.raises(TrainError, match=r"holds out all 6 samples"):
        split(samples, 6)
    with pytest.raises(TrainError, match=r"no clip of .* is long enough for 25 frames at 8 a second; the longest lasts 3.00 s"):
        long_enough(samples, BucketSettings(frames=25, height=8, width=8, batch=1), 8)
    shorter = Dataset(samples.out, where="duration_s < 2.9")
    longest = BucketSettings(frames=19, height=8, width=8, batch=1)  # one of them is long enough
    (only,) = long_enough(shorter, longest, 8).tolist()
    held = next(n for n in range(1, len(shorter)) if only in split(shorter, n)[1])
    with pytest.raises(TrainError, match=r"every clip that is long enough for 19 frames .* is held out"):
        buckets(shorter, DATA.model_copy(update={"buckets": (longest,), "validation": held}))


def test_a_batch_that_ranks_cannot_share_evenly_is_refused(samples: Dataset) -> None:
    with pytest.raises(TrainError, match=r"batch of 4 cannot be shared out to 3 processes.*multiple of 3"):
        read(samples, ranks=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_out_of_a_worker_as_it_was(tmp_path: Path, workers: int) -> None:
    samples = Dataset(make_real_output(tmp_path, [1.5, 1.5, 2.0]))
    shard = Path(samples.address(0))
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(OutputError) as caught:
        list(read(samples, workers=workers))
    assert str(caught.value).startswith(f"{shard} ends before byte")
    assert "\n" not in str(caught.value)


def probed(number: int) -> tuple[int, int, int]:
    """What a worker is like: its process, its threads, and the number it was asked for; every seventh takes its time."""
    time.sleep(0.05 if number % 7 == 0 else 0.002)
    return os.getpid(), torch.get_num_threads(), number


@pytest.mark.parametrize("in_turns", [False, True])
def test_workers_have_one_thread_keep_the_order_and_outlive_a_signal_to_all(in_turns: bool) -> None:
    found = ahead(probed, range(50, 110), workers=2, in_turns=in_turns)
    first = [next(found) for _ in range(20)]
    workers = {pid for pid, _, _ in first}
    assert len(workers - {os.getpid()}) == 2
    assert {threads for _, threads, _ in first} == {1}
    for name in ("TERM", "INT"):
        subprocess.run(["kill", f"-{name}", *map(str, workers)], check=True)
    both = [*first, *found]
    assert [number for _, _, number in both] == list(range(50, 110))
    assert {pid for pid, _, _ in both} == workers
    if in_turns:
        assert [pid for pid, _, _ in both] == [both[0][0], both[1][0]] * 30


def test_stopping_early_leaves_no_process() -> None:
    found = ahead(probed, range(10_000), workers=2)
    workers = {next(found)[0] for _ in range(20)}
    found.close()
    assert_gone(workers)


def test_a_worker_that_is_killed_is_told_of() -> None:
    found = ahead(probed, range(10_000), workers=2)
    os.kill(next(found)[0], signal.SIGKILL)
    with pytest.raises(TrainError, match=r"was killed; if memory ran out, set data.workers lower"):
        list(found)


HANGING = """
import os, sys, time
from pathlib import Path
from trainer.data import loader
from trainer.errors import TrainError
folder, hanging, in_turns = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True"
def hang():
    for n in range(hanging):
        try:
            (folder / str(n)).touch(exist_ok=False)
        except FileExistsError:
            continue
        time.sleep(600)
os.register_at_fork(after_in_child=hang)
loader.START_S = 1.5
try:
    print(*loader.ahead(abs, range(20), workers=2, in_turns=in_turns))
except TrainError as error:
    print(error)
"""
"""The first so many processes that it forks hang before they do anything, as they do when another thread held a lock."""


@pytest.mark.parametrize("in_turns", [False, True])
@pytest.mark.parametrize("hanging", [1, 100])
def test_workers_that_hang_when_they_are_forked_are_replaced(tmp_path: Path, hanging: int, in_turns: bool) -> None:
    command = [sys.executable, "-c", HANGING, str(tmp_path), str(hanging), str(in_turns)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = warm.run(command, "heavy", env=environment, timeout=60)
    wanted = " ".join(map(str, range(20))) if hanging == 1 else "processes that read ahead did not start, 3 times"
    assert ended.stdout.startswith(wanted), ended.stderr


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = """
import os, sys
from test_loader import probed
from trainer.data.loader import ahead
found = ahead(probed, range(10**6), workers=2)
print(*{next(found)[0] for _ in range(20)}, flush=True)
os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script]
    ended = warm.run(command, "heavy", env=environment, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert_gone({int(pid) for pid in ended.stdout.split()})


def test_decoding_in_the_parent_first_does_not_hang_the_workers(samples: Dataset) -> None:
    cv2.setNumThreads(4)
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.float32), (31, 31), 0)  # starts OpenCV's pool
    assert len(list(read(samples, 0, 2, workers=1))) == 2


def assert_gone(pids: set[int]) -> None:
    deadline = time.monotonic() + 10
    while alive := living(pids):
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)
