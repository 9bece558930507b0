"""Encoding of items: float16, each item by itself whatever its neighbours are, with the packaged encoders."""

import numpy as np
import pytest
import torch
from encoded_items import ENCODERS, same_encoding

from trainer.config import EncodersSettings
from trainer.data.batch import Item, ReferenceImage
from trainer.data.encode import IMAGES_AT_ONCE, encode, encode_images, encode_videos
from trainer.encoders import Encoders, build_encoders

CAPTION = "A dog chases a red ball."


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    torch.set_num_threads(1)
    built = build_encoders(EncodersSettings.model_validate(ENCODERS))
    built.setup("cpu")
    return built


def item(slot: int, references: int) -> Item:
    rng = np.random.default_rng(slot)
    pixels = [rng.integers(0, 256, (48, 48, 3), np.uint8) for _ in range(references)]
    return Item(
        key=f"clip-{slot}",
        slot=slot,
        caption=CAPTION + " It wins." * slot,
        video=rng.integers(0, 256, (4, 16, 24, 3), np.uint8),
        references=[ReferenceImage("dog", (2, 5), picture) for picture in pixels],
    )


def test_items_are_encoded_as_float16_with_the_tokens_and_spans_of_their_words(encoders: Encoders) -> None:
    dog, none = encode([item(0, references=2), item(1, references=0)], encoders)
    for one in (dog, none):
        assert {one.mean.dtype, one.text.dtype, one.images.dtype} == {torch.float16}
        assert one.mean.shape == (encoders.video.channels, *encoders.video.latent_size(4, 16, 24))
        assert len(one.text) == len(one.offsets) <= 12
    assert dog.images.shape == (2, 4, encoders.image.width) and none.images.shape == (0, 4, encoders.image.width)
    assert dog.spans.tolist() == [[2, 5], [2, 5]] and none.spans.shape == (0, 2)
    assert [2, 5] in dog.offsets.tolist()


def test_an_item_is_the_same_to_the_last_bit_whatever_its_neighbours_are(encoders: Encoders) -> None:
    items = [item(slot, references) for slot, references in enumerate((3, 0, IMAGES_AT_ONCE, 1))]
    together = encode(items, encoders)
    for alone, one in zip(together, items, strict=True):
        assert same_encoding(alone, encode([one], encoders)[0])
    for one, other in zip(reversed(together), encode(items[::-1], encoders), strict=True):
        assert same_encoding(one, other)


def test_no_batch_is_larger_than_the_encoder_is_meant_to_hold(encoders: Encoders) -> None:
    sizes = []

    class Watched:
        def encode(self, inputs: torch.Tensor) -> torch.Tensor:
            sizes.append(len(inputs))
            return inputs.flatten(1)[:, None].float()

    watching = Encoders(encoders.text, Watched(), encoders.video, 8)
    pixels = np.arange(2 * IMAGES_AT_ONCE + 1, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    assert encode_images(pixels, watching)[:, 0, 0].tolist() == pixels[:, 0, 0, 0].tolist()
    assert sizes == [IMAGES_AT_ONCE] * 3
    assert len(encode_videos(np.zeros((3, 4, 16, 24, 3), np.uint8), encoders).mean) == 3
