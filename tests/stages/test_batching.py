"""Batches that shrink when the device is full, and what is said of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.batching import Batches, OutOfMemoryError, is_out_of_memory
from stages.notices import drain, notice


class CardError(RuntimeError):
    """As torch's: known by the name of its base."""


Full = type("OutOfMemoryError", (RuntimeError,), {})
FullCard = type("FullCard", (Full,), {})


def card(holds, seen=None):
    """A model that doubles numbers, on a card that holds so many of them."""

    def call(batch):
        if seen is not None:
            seen.append(len(batch))
        if len(batch) > holds:
            raise FullCard("process 4711 has 23 GiB in use")
        return [2 * item for item in batch]

    return call


@pytest.fixture(autouse=True)
def silence():
    drain()


@given(st.lists(st.integers(), max_size=40), st.integers(1, 16), st.integers(1, 16))
def test_results_do_not_depend_on_the_batch_size_or_the_card(items, size, holds):
    assert Batches("what", size).run(items, card(holds)) == [2 * item for item in items]


def test_a_full_card_halves_the_batch_for_good_and_says_so():
    seen, batches = [], Batches("localise.options.batch_size", 8)
    batches.run(range(12), card(3, seen))
    assert seen == [8, 4, 2, 2, 2, 2, 2, 2]
    assert drain() == [
        "localise.options.batch_size: 8 items do not fit the device's memory; going on with 4",
        "localise.options.batch_size: 4 items do not fit the device's memory; going on with 2",
    ]
    batches.run(range(4), card(3, seen))
    assert seen[8:] == [2, 2]
    assert drain() == []


def test_one_item_too_large_names_the_option_in_words_that_do_not_change():
    with pytest.raises(
        OutOfMemoryError, match=r"^segment\.options\.points: out of memory on the device with a single item"
    ) as error:
        Batches("segment.options.points", 4).run(range(4), card(0))
    assert "4711" not in str(error.value)
    assert isinstance(error.value.__cause__, Full)
    assert is_out_of_memory(error.value)


def test_other_errors_are_not_mistaken_for_a_full_card():
    def broken(_batch):
        raise CardError("illegal memory access")

    batches = Batches("what", 8)
    with pytest.raises(CardError):
        batches.run(range(8), broken)
    assert batches.size == 8
    assert drain() == []


def test_a_notice_is_told_once_until_it_was_heard():
    for text in ("slow", "full", "slow"):
        notice(text)
    assert drain() == ["slow", "full"]
    notice("slow")
    assert drain() == ["slow"]
