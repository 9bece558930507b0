"""The order of training: complete epochs, one bucket a step, and nothing but the step's number to resume from."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.order import Bucket, Order


def bucket(first: int, count: int, batch: int, weight: float = 1.0) -> Bucket:
    return Bucket(np.arange(first, first + count), batch, weight)


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32))
def test_every_epoch_has_each_sample_once_whatever_the_batch(samples: int, batch: int, seed: int) -> None:
    order = Order([bucket(100, samples, batch)], seed)
    walk = np.concatenate([order.step(number).samples for number in range(-(-3 * samples // batch))])
    for epoch in range(3):
        assert sorted(walk[epoch * samples : (epoch + 1) * samples]) == list(range(100, 100 + samples))


def test_epochs_and_seeds_differ() -> None:
    order = Order([bucket(0, 50, 50)], 1)
    assert order.step(0).samples.tolist() != order.step(1).samples.tolist()
    assert order.step(0).samples.tolist() != Order([bucket(0, 50, 50)], 2).step(0).samples.tolist()


@pytest.mark.parametrize("start", [0, 1, 4095, 4096, 9000])
def test_a_run_that_starts_anywhere_sees_what_an_undisturbed_one_sees(start: int) -> None:
    def order() -> Order:
        return Order([bucket(0, 7, 4), bucket(7, 100, 3, weight=2.5), bucket(107, 9, 1, weight=0.1)], 5)

    undisturbed = order()
    steps = [undisturbed.step(number) for number in range(start + 3)]
    again = order()
    for number in (start + 2, start, start + 1):
        assert again.bucket(number) == again.step(number).bucket == steps[number].bucket
        assert again.step(number).samples.tolist() == steps[number].samples.tolist()


def test_buckets_are_drawn_by_weight_and_never_mixed() -> None:
    order = Order([bucket(0, 10, 2, weight=1), bucket(10, 10, 4, weight=3)], 0)
    steps = [order.step(number) for number in range(4000)]
    assert Counter(step.bucket for step in steps)[1] / 4000 == pytest.approx(0.75, abs=0.02)
    assert all(((step.samples >= 10) == (step.bucket == 1)).all() for step in steps)
    assert {(step.bucket, len(step.samples)) for step in steps} == {(0, 2), (1, 4)}


def test_a_bucket_that_can_give_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs samples"):
        bucket(0, 0, 4)
