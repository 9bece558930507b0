"""Videos to latents by a fixed transform, without weights: the orthonormal cosine transform of blocks, colours included.

In: uint8 RGB. Out: for every block of t x h x w pixels its 3 t h w coefficients, those that photographs need most first. Along
the three colours the cosines are (1, 1, 1), (1, 0, -1), (1, -2, 1): nearly the principal axes of colours (Ohta et al. 1980).
With all coefficients decoding is the exact inverse; with the first `keep` it is the best picture (least squares) that these
allow. Each is divided by the root of the deviation that it is expected to have, which is half way to equal deviations: left as
they are the few lowest drown the others, made equal the many highest count as much as what one sees.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from materia.base.weights.files import Missing, Weights
from trainer.encoders.base import Moments, VideoAutoencoder

COLOUR_GAINS = (1.0, 0.3, 0.1)
TIME_GAIN = 0.2
LOWEST = 0.3
AMPLITUDE = 0.09
"""Of `expected_deviations`; read off the coefficients of everyday clips at 64x64 px and 8 frames a second [ours]."""


class Patches(VideoAutoencoder):
    """Cosine transform of blocks of `block` = (frames, rows, columns) pixels; clips must be whole blocks.

    `keep`: how many coefficients are kept, and so channels, at most; None keeps all, and only then is decoding exact.
    """

    def __init__(self, block: tuple[int, int, int] = (2, 8, 8), keep: int | None = 16) -> None:
        sizes = tuple(block)
        if len(sizes) != 3 or not all(isinstance(size, int) and size >= 1 for size in sizes):
            raise ValueError(f"block {block!r} must be three whole numbers: frames, rows and columns of pixels")
        volume = 3 * math.prod(sizes)
        if keep is not None and keep < 1:
            raise ValueError(f"keep {keep} must be at least 1, or null for all {volume} coefficients of a block")
        self.block = sizes
        self.channels = volume if keep is None else min(keep, volume)
        self.device = "cpu"

    def weights(self) -> list[Weights]:
        """None."""
        return []

    def missing(self) -> list[Missing]:
        """Nothing."""
        return []

    def identity(self) -> dict[str, str]:
        """Block, number of coefficients, and the constants."""
        constants = (COLOUR_GAINS, TIME_GAIN, LOWEST, AMPLITUDE)
        return {"transform": f"cosine {self.block} {self.channels}", "constants": str(constants)}

    def setup(self, device: str) -> None:
        """Compute the transform's matrix."""
        self.device = device
        expected = expected_deviations(self.block)  # (3 t h w,)
        kept = expected.argsort(descending=True, stable=True)[: self.channels]
        scale = (expected[kept] * expected[kept].mean()).sqrt()  # so that the mean variance is 1
        rows = kron_cosines((3, *self.block))[kept]  # (C, 3 t h w), float64
        self.scale = scale.float().to(device)  # (C,)
        self.forward = (rows / scale[:, None]).float().to(device)
        self.inverse = (rows * scale[:, None]).float().to(device)

    def latent_size(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Blocks in time, height and width."""
        sizes = (frames, height, width)
        if any(size % step or size < step for size, step in zip(sizes, self.block, strict=True)):
            fitting = [max(size // step, 1) * step for size, step in zip(sizes, self.block, strict=True)]
            raise ValueError(
                f"clips of {frames} frames, {height}x{width} px are no whole blocks of {self.block}; {fitting[0]} frames, "
                f"{fitting[1]}x{fitting[2]} px would do"
            )
        t, h, w = (size // step for size, step in zip(sizes, self.block, strict=True))
        return t, h, w

    def encode(self, videos: Tensor) -> Moments:
        """(B, T, H, W, 3) uint8 RGB -> (B, C, T / t, H / h, W / w) float32."""
        grid = self.latent_size(*videos.shape[1:4])
        (t, h, w), b = self.block, len(videos)
        pixels = videos.to(self.device).float() / 127.5 - 1
        blocks = pixels.reshape(b, grid[0], t, grid[1], h, grid[2], w, 3).permute(0, 1, 3, 5, 7, 2, 4, 6)
        return Moments((blocks.flatten(4) @ self.forward.T).permute(0, 4, 1, 2, 3).contiguous(), None)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, T', H', W') -> (B, T, H, W, 3) uint8 RGB."""
        (b, _, *grid), (t, h, w) = latents.shape, self.block
        blocks = latents.to(self.device).float().permute(0, 2, 3, 4, 1) @ self.inverse  # (B, T', H', W', 3 t h w)
        pixels = blocks.reshape(b, *grid, 3, t, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)  # (B, T', t, H', h, W', w, 3)
        pixels = pixels.reshape(b, grid[0] * t, grid[1] * h, grid[2] * w, 3)
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def cosines(size: int) -> Tensor:
    """The orthonormal discrete cosine transform (DCT-II) of `size` numbers: (size, size) float64, a row a frequency."""
    frequency, place = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    rows = torch.cos(math.pi / size * (place.double() + 0.5) * frequency) * math.sqrt(2 / size)
    rows[0] = math.sqrt(1 / size)
    return rows


def kron_cosines(sizes: tuple[int, ...]) -> Tensor:
    """The transform over several axes as one matrix, (n, n) float64 with n their product; the last axis runs fastest."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    for size in sizes:
        matrix = torch.kron(matrix, cosines(size))
    return matrix


def expected_deviations(block: tuple[int, int, int]) -> Tensor:
    """Standard deviation of every coefficient over pixels in [-1, 1] of natural video, (3 t h w,) float64, by a simple model.

    Amplitudes fall as 1 / frequency in space (Field 1987), with a floor at LOWEST of the block's lowest; what does not move has
    no energy at temporal frequencies, so these count TIME_GAIN / frequency; COLOUR_GAINS are those of the three colour axes.
    """
    t, h, w = block
    colour = torch.tensor(COLOUR_GAINS, dtype=torch.float64)
    time = torch.cat([torch.ones(1), TIME_GAIN / torch.arange(1, t)]).double() * math.sqrt(t)
    rows, columns = torch.arange(h).double() / (2 * h), torch.arange(w).double() / (2 * w)  # cycles per pixel
    floor = LOWEST / (2 * max(h, w))
    space = AMPLITUDE / (floor**2 + rows[:, None] ** 2 + columns**2).sqrt()
    return (colour[:, None, None, None] * time[:, None, None] * space).flatten()
