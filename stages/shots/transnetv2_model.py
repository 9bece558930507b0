"""The network TransNetV2 (Souček and Lokoč, arXiv 2008.04838), as far as finding transitions goes: pictures in, one score each.

- Three stages of two blocks; a block is four (2+1)-D convolutions side by side that look 1, 2, 4 and 8 pictures back and ahead.
- Beside what the blocks find, each picture is compared with the 50 before and after it, by learnt features and by colours.
- Written for the tensors of the published weights, not as modules: activations lie as (B, T, H, W, C), of which a convolution
  in space sees B * T pictures, one in time B pictures of T x (H * W), both without a copy. Batch norm is folded into these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

STAGES, BLOCKS = 3, 2
DILATIONS = (1, 2, 4, 8)
BATCH_NORM_EPS = 1e-3
NEIGHBOURS = 50
"""Pictures on each side that one is compared with; missing ones are 0."""
COLOURS = 8
"""Levels of red, green and blue in the histograms."""


class Convolution(NamedTuple):
    """Of a block's four, that with this `dilation`: weights `space` (2F, C, 3, 3) and `time` (F, 2F, 3, 1), `shift` (F,)."""

    dilation: int
    space: Tensor
    time: Tensor
    shift: Tensor


class Network:
    """TransNetV2 with the tensors of a state dict, on a device, in float32."""

    def __init__(self, state: Mapping[str, Tensor], device: str) -> None:
        self.state = {name: tensor.to(device) for name, tensor in state.items()}
        self.blocks = [self._block(f"SDDCNN.{stage}.DDCNN.{block}") for stage in range(STAGES) for block in range(BLOCKS)]
        self.device = device

    def __call__(self, pictures: Tensor) -> Tensor:
        """(B, T, 27, 48, 3) uint8 RGB -> (B, T) float32 in [0, 1]: that a transition has its middle after the picture."""
        x = pictures.float() / 255
        means = []
        for first, second in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            shortcut = functional.relu(_convolved(x, first))
            x = _halved(functional.relu(_convolved(shortcut, second)) + shortcut)
            means.append(x.mean((2, 3)))  # (B, T, C)
        features = functional.normalize(self._linear("frame_sim_layer.projection", torch.cat(means, 2)), dim=2)
        colours = functional.normalize(_histograms(pictures), dim=2)
        seen = [
            functional.relu(self._linear("color_hist_layer.fc", _likeness(colours))),
            functional.relu(self._linear("frame_sim_layer.fc", _likeness(features))),
            x.flatten(2),
        ]
        hidden = functional.relu(self._linear("fc1", torch.cat(seen, 2)))
        return torch.sigmoid(self._linear("cls_layer1", hidden))[..., 0]

    def _block(self, name: str) -> list[Convolution]:
        norm = {part: self.state[f"{name}.bn.{part}"] for part in ("weight", "bias", "running_mean", "running_var")}
        scale = norm["weight"] / torch.sqrt(norm["running_var"] + BATCH_NORM_EPS)
        shift = norm["bias"] - norm["running_mean"] * scale
        block = []
        for dilation, own_scale, own_shift in zip(DILATIONS, scale.chunk(4), shift.chunk(4), strict=True):
            space, time = (self.state[f"{name}.Conv3D_{dilation}.layers.{layer}.weight"] for layer in (0, 1))
            block.append(Convolution(dilation, space[:, :, 0], time[..., 0] * own_scale[:, None, None, None], own_shift))
        return block

    def _linear(self, layer: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.state[f"{layer}.weight"], self.state[f"{layer}.bias"])


def _convolved(x: Tensor, block: list[Convolution]) -> Tensor:
    """(B, T, H, W, C) -> (B, T, H, W, 4F)."""
    n, t, height, width, _ = x.shape
    pictures = x.flatten(0, 1).permute(0, 3, 1, 2)  # (B * T, C, H, W)
    found = []
    for dilation, space, time, shift in block:
        y = functional.conv2d(pictures, space, padding=1).permute(0, 2, 3, 1)  # (B * T, H, W, 2F)
        y = y.reshape(n, t, height * width, -1).permute(0, 3, 1, 2)  # (B, 2F, T, H * W)
        found.append(functional.conv2d(y, time, shift, padding=(dilation, 0), dilation=(dilation, 1)))
    return torch.cat(found, 1).permute(0, 2, 3, 1).reshape(n, t, height, width, -1)


def _halved(x: Tensor) -> Tensor:
    """(B, T, H, W, C) -> (B, T, H // 2, W // 2, C)."""
    small = functional.avg_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), 2)
    return small.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


def _histograms(pictures: Tensor) -> Tensor:
    """(B, T, H, W, 3) uint8 -> (B, T, COLOURS ** 3) float32: pixels of each colour."""
    red, green, blue = (pictures.long() * COLOURS // 256).flatten(2, 3).unbind(3)
    colour = (red * COLOURS + green) * COLOURS + blue  # (B, T, H * W)
    counts = torch.zeros(*pictures.shape[:2], COLOURS**3, device=pictures.device)
    return counts.scatter_add_(2, colour, torch.ones_like(colour, dtype=torch.float32))


def _likeness(x: Tensor) -> Tensor:
    """(B, T, D) of length 1 -> (B, T, 2 * NEIGHBOURS + 1): dot products with the neighbours in time."""
    products = functional.pad(x @ x.transpose(1, 2), (NEIGHBOURS, NEIGHBOURS))
    t = torch.arange(x.shape[1], device=x.device)
    around = t[:, None] + torch.arange(2 * NEIGHBOURS + 1, device=x.device)  # (T, 101)
    return products.gather(2, around.expand(len(x), -1, -1))
