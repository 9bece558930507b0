"""Pictures as GroundingDINO takes them, and its boxes back in pixels.

In: images of any size. Out: images of the network's size, uint8 (normalised on the device, which takes a quarter of the bytes),
grouped so that only pictures of one size share a batch: padding would change what is found in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)
"""ImageNet's [groundingdino/util/inference.py]."""
N_QUERIES = 900
"""Boxes of a forward pass; a picture needs as many feature cells [groundingdino/config: num_queries]."""


def network_size(size: tuple[int, int], short_side_px: int, long_side_px: int) -> tuple[int, int]:
    """Height and width of a picture -> those in the network, in pixels; never below 1.

    The short side as wished, unless the long one would pass its limit (method; rounding of
    groundingdino/datasets/transforms.py: resize).
    """
    short, long = min(size), max(size)
    if long / short * short_side_px > long_side_px:
        short_side_px = max(1, round(long_side_px * short / long))
    scaled = int(short_side_px * long / short)
    return (short_side_px, scaled) if size[0] <= size[1] else (scaled, short_side_px)


def has_enough_cells(size: tuple[int, int]) -> bool:
    """Whether the features of a picture of this height and width, at strides 8 to 64, are as many as the queries to pick."""
    return sum(-(-size[0] // stride) * -(-size[1] // stride) for stride in (8, 16, 32, 64)) >= N_QUERIES


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Image (H, W, 3) uint8 RGB -> (h, w, 3) uint8, Pillow's bilinear filter, as torchvision resizes a PIL image."""
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def normalise(pictures: list[np.ndarray], device: str) -> torch.Tensor:
    """Pictures (h, w, 3) uint8 of one size -> (B, 3, h, w) float32 on the device, ImageNet's mean 0 and deviation 1."""
    import torch

    batch = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).contiguous().float().div_(255)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (RGB_MEAN, RGB_STD))
    return batch.sub_(mean).div_(std)


def to_pixels(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes (N, 4), centre and size as shares of the picture -> (N, 4) float32 xyxy in pixels of a picture of this height and
    width, clipped to it."""
    height, width = size
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    xyxy = np.concatenate([centre - half, centre + half], axis=1) * np.array([width, height, width, height], np.float32)
    return xyxy.clip(0, np.array([width, height, width, height])).astype(np.float32)
