"""A training item on its way: pixels -> encoded -> batch. The borders between data, encoders and the loop.

An `Item` is what a reader makes of a sample; `encode` (trainer/data/encode.py) or a cache makes it an `EncodedItem`; `collate`
puts those of a step together. `slot` is an item's place in the step's batch over all ranks: with (seed, step, slot) every draw
of the item is fixed, so it is the same whoever computes it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trainer.model.dit import Conditions, cut_words
from trainer.model.shapes import assert_shape

ITEM, NOISE = 0, 1
"""Streams of random numbers that must not meet: what is drawn for an item's content, and for its training."""


class ReferenceImage(NamedTuple):
    """A conditioning image: `pixels` (S, S, 3) uint8 RGB on white; `span` of its word in the caption, (0, 0) without a word."""

    word: str
    span: tuple[int, int]
    pixels: np.ndarray


@dataclass
class Item:
    """`video` (T, H, W, 3) uint8 RGB at the bucket's size and the configured fps."""

    key: str
    slot: int
    caption: str
    video: np.ndarray
    references: list[ReferenceImage]


@dataclass
class EncodedItem:
    """float16 tensors on any device: `mean` and `std` (C, T, H, W), `text` (L, width), `images` (N, P, width);
    int64 `offsets` (L, 2) of the text's tokens and `spans` (N, 2) of the images' words."""

    key: str
    slot: int
    mean: Tensor
    std: Tensor | None
    text: Tensor
    offsets: Tensor
    images: Tensor
    spans: Tensor

    def __post_init__(self) -> None:
        """Raises AssertionError for shapes that do not fit each other."""
        assert_shape("mean", self.mean, None, None, None, None)
        if self.std is not None:
            assert_shape("std", self.std, *self.mean.shape)
        assert_shape("text", self.text, len(self.offsets), None)
        assert_shape("offsets", self.offsets, None, 2)
        assert_shape("images", self.images, len(self.spans), None, None)
        assert_shape("spans", self.spans, None, 2)

    def __getstate__(self) -> dict[str, Any]:
        """From a loader's worker it goes as arrays, all in one message: PyTorch would open shared memory for every tensor."""
        return {name: value.numpy() if isinstance(value, Tensor) else value for name, value in self.__dict__.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in state.items()
        }


@dataclass
class Batch:
    """B items of one bucket, float32: `mean` and `std` (B, C, T, H, W), and what they are generated from."""

    keys: list[str]
    slots: list[int]
    mean: Tensor
    std: Tensor | None
    conditions: Conditions

    def __post_init__(self) -> None:
        """Raises AssertionError for shapes that do not fit each other."""
        b = len(self.keys)
        assert len(self.slots) == b, f"{len(self.slots)} slots of {b} keys"
        assert_shape("mean", self.mean, b, None, None, None, None)
        if self.std is not None:
            assert_shape("std", self.std, *self.mean.shape)
        assert_shape("text", self.conditions.text, b, None, None)

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device."""
        c = self.conditions
        moved = Conditions(*(getattr(c, name).to(device) for name in ("text", "text_mask", "images", "image_mask", "words")))
        return Batch(self.keys, self.slots, self.mean.to(device), None if self.std is None else self.std.to(device), moved)


def collate(items: list[EncodedItem], word_tokens: int) -> Batch:
    """Pad texts and images to the longest of the items and cut each image's word out of its caption."""
    text = pad_sequence([item.text.float() for item in items], batch_first=True)  # (B, L, C)
    offsets = pad_sequence([item.offsets for item in items], batch_first=True)
    images = pad_sequence([item.images.float() for item in items], batch_first=True)  # (B, N, P, C)
    spans = pad_sequence([item.spans for item in items], batch_first=True)
    stds = [item.std for item in items if item.std is not None]
    return Batch(
        keys=[item.key for item in items],
        slots=[item.slot for item in items],
        mean=torch.stack([item.mean.float() for item in items]),
        std=torch.stack(stds).float() if stds else None,
        conditions=Conditions(
            text=text,
            text_mask=_lengths_mask([len(item.text) for item in items], text.shape[1], text.device),
            images=images,
            image_mask=_lengths_mask([len(item.images) for item in items], images.shape[1], text.device),
            words=cut_words(text, offsets, spans, word_tokens),
        ),
    )


def numpy_rng(seed: int, step: int, slot: int) -> np.random.Generator:
    """Random numbers for an item's content: window, references, their variants."""
    return np.random.default_rng((seed, ITEM, step, slot))


def torch_rng(seed: int, step: int, slot: int) -> torch.Generator:
    """Random numbers (on the CPU) for an item's training: posterior, noise level, noise, drops."""
    digest = hashlib.sha256(f"{seed} {NOISE} {step} {slot}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def _lengths_mask(lengths: list[int], longest: int, device: torch.device) -> Tensor:
    return torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]
