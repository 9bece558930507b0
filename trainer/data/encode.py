"""Items to encoded items: what training from pixels does with a step's items, and `materia precompute` with whole shards.

In: captions, reference images and clips. Out: float16 tensors, the precision of the cache. Kernels may sum in another order for
another batch, so an encoder always sees the same number of inputs: one caption, one clip, eight images, filled up with black
ones. Hence an item's numbers do not depend on its neighbours, and are the same from a cache as from pixels, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trainer.data.batch import EncodedItem, Item
from trainer.encoders import Encoders
from trainer.encoders.base import EncodedText, Moments

IMAGES_AT_ONCE = 8
"""In one call of the image encoder: enough to keep a card busy, few enough that filling up costs little."""


def encode(items: Sequence[Item], encoders: Encoders) -> list[EncodedItem]:
    """Items of one bucket -> the same, encoded, on the encoders' device. `encoders` are set up."""
    texts = encode_texts([item.caption for item in items], encoders)
    pixels = [reference.pixels for item in items for reference in item.references]
    images = encode_images(np.stack(pixels), encoders) if pixels else _no_images(encoders, texts[0].tokens.device)
    videos = encode_videos(np.stack([item.video for item in items]), encoders)
    encoded, first = [], 0
    for index, (item, text) in enumerate(zip(items, texts, strict=True)):
        last = first + len(item.references)
        encoded.append(
            EncodedItem(
                key=item.key,
                slot=item.slot,
                mean=videos.mean[index],
                std=None if videos.std is None else videos.std[index],
                text=text.tokens,
                offsets=text.offsets,
                images=images[first:last],
                spans=spans_tensor([reference.span for reference in item.references]).to(images.device),
            )
        )
        first = last
    return encoded


def encode_texts(captions: Sequence[str], encoders: Encoders) -> list[EncodedText]:
    """Captions -> float16 `tokens` (L, width) and `offsets` (L, 2) of each."""
    texts = encoders.text.encode(captions, encoders.max_text_tokens)
    return [EncodedText(text.tokens.half(), text.offsets) for text in texts]


def encode_images(pixels: np.ndarray, encoders: Encoders) -> Tensor:
    """(N, S, S, 3) uint8 RGB, N >= 1 -> (N, P, width) float16."""
    filled = np.concatenate([pixels, np.zeros((-len(pixels) % IMAGES_AT_ONCE, *pixels.shape[1:]), np.uint8)])
    parts = torch.from_numpy(filled).split(IMAGES_AT_ONCE)
    return torch.cat([encoders.image.encode(part).half() for part in parts])[: len(pixels)]


def encode_videos(videos: np.ndarray, encoders: Encoders) -> Moments:
    """(N, T, H, W, 3) uint8 RGB, N >= 1 -> latents (N, C, T', H', W') float16."""
    moments = [encoders.video.encode(clip) for clip in torch.from_numpy(videos).split(1)]
    stds = [clip.std for clip in moments if clip.std is not None]
    return Moments(torch.cat([clip.mean for clip in moments]).half(), torch.cat(stds).half() if stds else None)


def spans_tensor(spans: Sequence[tuple[int, int]]) -> Tensor:
    """Characters of words -> (N, 2) int64; N may be 0."""
    return torch.tensor(spans, dtype=torch.int64).reshape(-1, 2)


def _no_images(encoders: Encoders, device: torch.device) -> Tensor:
    return torch.zeros(0, encoders.image.tokens, encoders.image.width, dtype=torch.float16, device=device)
