"""A generator of the architecture and size of big-LaMa, as TorchScript with random weights.

Written from the papers: fast Fourier convolutions (Chi et al., NeurIPS 2020) in a residual network (Suvorov et al., arXiv
2109.07161, "Big LaMa": 18 blocks, 51 M parameters). 64 channels, three times halved in size and doubled in channels, 18 blocks
whose channels are a quarter local and three quarters global, and back. Annotations are no strings: TorchScript reads them.
"""

from pathlib import Path

import torch
from torch import Tensor, nn


def save(path: Path, tiny: bool) -> None:
    """Write the TorchScript file: forward(image, mask) as stages/background/lama.py wants it."""
    torch.manual_seed(0)
    generator = Generator(channels=8, blocks=2) if tiny else Generator(channels=64, blocks=18)
    torch.jit.script(generator.eval()).save(str(path))


class Spectral(nn.Module):
    """Global channels: 1x1 convolutions around one in the Fourier domain, which sees the whole picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.enter = nn.Sequential(nn.Conv2d(channels, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU())
        self.fourier = nn.Sequential(nn.Conv2d(2 * half, 2 * half, 1, bias=False), nn.BatchNorm2d(2 * half), nn.ReLU())
        self.leave = nn.Conv2d(half, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        x = self.enter(x)
        size = [x.size(-2), x.size(-1)]
        waves = torch.fft.rfftn(x, dim=[-2, -1], norm="ortho")
        real, imaginary = self.fourier(torch.cat([waves.real, waves.imag], dim=1)).chunk(2, dim=1)
        y = torch.fft.irfftn(torch.complex(real, imaginary), s=size, dim=[-2, -1], norm="ortho")
        return self.leave(x + y)


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    """3x3, reflected at the edge."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False, padding_mode="reflect")


class Fourier(nn.Module):
    """A fast Fourier convolution: local to local, local to global, global to local, and global to global through `Spectral`."""

    def __init__(self, local: int, far: int) -> None:
        super().__init__()
        self.local_to_local = convolution(local, local)
        self.local_to_far = convolution(local, far)
        self.far_to_local = convolution(far, local)
        self.far_to_far = Spectral(far)
        self.local_end = nn.Sequential(nn.BatchNorm2d(local), nn.ReLU())
        self.far_end = nn.Sequential(nn.BatchNorm2d(far), nn.ReLU())

    def forward(self, local: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
        """Local and global channels (B, C, H, W) -> the same shapes."""
        new = self.local_end(self.local_to_local(local) + self.far_to_local(far))
        return new, self.far_end(self.local_to_far(local) + self.far_to_far(far))


class Block(nn.Module):
    """Two of them, and a way around."""

    def __init__(self, local: int, far: int) -> None:
        super().__init__()
        self.first = Fourier(local, far)
        self.second = Fourier(local, far)

    def forward(self, local: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
        """As of `Fourier`."""
        new_local, new_far = self.first(local, far)
        new_local, new_far = self.second(new_local, new_far)
        return local + new_local, far + new_far


class Generator(nn.Module):
    """Picture and hole in, picture out; outside of the hole it is what it was."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(4, channels, 7, bias=False), nn.BatchNorm2d(channels), nn.ReLU(), *_down(channels)
        )
        wide = 8 * channels
        self.local = wide // 4
        self.to_local = convolution(wide // 2, self.local, stride=2)
        self.to_far = convolution(wide // 2, wide - self.local, stride=2)
        self.blocks = nn.ModuleList([Block(self.local, wide - self.local) for _ in range(blocks)])
        self.leave = nn.Sequential(*_up(wide), nn.ReflectionPad2d(3), nn.Conv2d(channels, 3, 7), nn.Sigmoid())

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Image (B, 3, H, W) in [0, 1] and mask (B, 1, H, W), 1: hole; H and W multiples of 8 -> the image, filled."""
        x = self.enter(torch.cat([image * (1 - mask), mask], dim=1))
        local, far = self.to_local(x), self.to_far(x)
        for block in self.blocks:
            local, far = block(local, far)
        return mask * self.leave(torch.cat([local, far], dim=1)) + (1 - mask) * image


def _down(channels: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for width in (channels, 2 * channels):
        layers += [convolution(width, 2 * width, stride=2), nn.BatchNorm2d(2 * width), nn.ReLU()]
    return layers


def _up(channels: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for width in (channels, channels // 2, channels // 4):
        up = nn.ConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1)
        layers += [up, nn.BatchNorm2d(width // 2), nn.ReLU()]
    return layers
