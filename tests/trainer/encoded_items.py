"""Encoded items of tests: the packaged encoders, with the image encoder cut short, and what it means to be equal."""

import torch

from trainer.data.batch import EncodedItem

ENCODERS = {"image": {"backend": "efficientnet", "options": {"blocks": [2], "grid": 2}}, "max_text_tokens": 12}


def same_encoding(one: EncodedItem, other: EncodedItem) -> bool:
    """Whether two encoded items are equal, to the last bit."""
    assert (one.std is None) == (other.std is None)
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("mean", "text", "offsets", "images", "spans")]
    if one.std is not None:
        pairs.append((one.std, other.std))
    return (one.key, one.slot) == (other.key, other.slot) and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)
