"""Batches: padding that masks tell of, words cut out of captions, and random numbers that depend on nothing but their place."""

import pickle

import numpy as np
import torch
from encoded_items import same_encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.batch import EncodedItem, collate, numpy_rng, torch_rng

TEXT_WIDTH, IMAGE_WIDTH, PATCHES = 5, 3, 2


def item(slot: int, tokens: int, images: int, std: bool = False) -> EncodedItem:
    """A caption of two letters a token; image n stands for token n."""
    draw = torch.Generator().manual_seed(slot)
    mean = torch.randn(4, 2, 3, 3, generator=draw).half()
    return EncodedItem(
        key=f"clip-{slot}",
        slot=slot,
        mean=mean,
        std=mean.abs() if std else None,
        text=torch.randn(tokens, TEXT_WIDTH, generator=draw).half(),
        offsets=torch.tensor([[2 * n, 2 * n + 2] for n in range(tokens)]),
        images=torch.randn(images, PATCHES, IMAGE_WIDTH, generator=draw).half(),
        spans=torch.tensor([[2 * n, 2 * n + 2] for n in range(images)], dtype=torch.int64).reshape(-1, 2),
    )


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 4)), min_size=1, max_size=4))
def test_what_masks_admit_is_what_the_items_hold_and_the_rest_is_zero(sizes: list[tuple[int, int]]) -> None:
    items = [item(slot, tokens, images) for slot, (tokens, images) in enumerate(sizes)]
    batch = collate(items, word_tokens=2)
    conditions = batch.conditions
    assert batch.keys == [one.key for one in items] and batch.slots == list(range(len(items)))
    for row, one in enumerate(items):
        assert torch.equal(batch.mean[row], one.mean.float())
        assert torch.equal(conditions.text[row][conditions.text_mask[row]], one.text.float())
        assert torch.equal(conditions.images[row][conditions.image_mask[row]], one.images.float())
        assert not conditions.text[row][~conditions.text_mask[row]].any()
        assert not conditions.images[row][~conditions.image_mask[row]].any()


def test_each_image_comes_with_the_tokens_of_its_word_and_padding_with_none() -> None:
    items = [item(0, tokens=4, images=3), item(1, tokens=2, images=0)]
    words = collate(items, word_tokens=2).conditions.words
    assert words.shape == (2, 3, 2, TEXT_WIDTH)
    assert torch.equal(words[0, :, 0], items[0].text[:3].float())
    assert not words[0, :, 1].any() and not words[1].any()


def test_a_batch_without_any_image_or_word_token_has_none() -> None:
    batch = collate([item(0, 3, 0), item(1, 2, 0)], word_tokens=8)
    assert batch.conditions.images.shape == (2, 0, PATCHES, IMAGE_WIDTH)
    assert collate([item(0, 3, 2)], word_tokens=0).conditions.words.shape == (1, 2, 0, TEXT_WIDTH)


def test_deviations_are_there_if_the_encoder_gave_them() -> None:
    items = [item(0, 2, 1, std=True), item(1, 2, 1, std=True)]
    batch = collate(items, word_tokens=1).to("cpu")
    assert batch.std is not None and torch.equal(batch.std[1], items[1].mean.abs().float())
    assert collate([item(0, 2, 1)], word_tokens=1).to("cpu").std is None


def test_an_item_comes_out_of_another_process_as_it_went_in() -> None:
    for one in (item(0, 3, 2, std=True), item(1, 2, 0)):
        data = pickle.dumps(one)
        assert b"torch" not in data  # not by PyTorch's way, which needs a shared memory for every tensor
        assert same_encoding(pickle.loads(data), one)


def test_random_numbers_follow_from_seed_step_and_slot_alone() -> None:
    places = [(seed, step, slot) for seed in (0, 1) for step in (0, 1, 10**6) for slot in (0, 1)]
    for make in (lambda *at: numpy_rng(*at).random(4), lambda *at: torch.rand(4, generator=torch_rng(*at)).numpy()):
        drawn = np.array([make(*at) for at in places])
        assert np.array_equal(drawn, [make(*at) for at in reversed(places)][::-1])
        assert len(np.unique(drawn)) == drawn.size
