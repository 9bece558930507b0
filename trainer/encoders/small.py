"""Videos to latents with a small convolutional autoencoder, trained by `materia train-autoencoder` on the clips at hand.

In: uint8 RGB. Out: 16 channels for every 2 frames x 8 x 8 px. It works on the coefficients of trainer/encoders/patches.py and
starts as that transform cut to its first 16 channels: two small networks learn only what is to be added, the encoder's to
put more into the channels, the decoder's to guess the other coefficients. Weights, sizes and statistics are in one file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from materia.base import storage
from materia.base.weights.checkpoints import CheckpointError, load_state_dict, mismatch
from materia.base.weights.files import Missing, Weights, check_address, local_path, packages_missing, sha256_of
from trainer.encoders.base import Moments, VideoAutoencoder
from trainer.encoders.folders import require
from trainer.encoders.patches import Patches
from trainer.errors import TrainError

OPTION = "encoders.video.options.checkpoint"
FIX = "train one: materia train-autoencoder"
METADATA = "materia_autoencoder"
"""Key of the sizes in the file's metadata, JSON."""


@dataclass(frozen=True)
class Sizes:
    """Of the autoencoder. `block`: frames, rows, columns of pixels a latent; `channels` of latents; `width` and `depth` of both
    networks, in channels and residual blocks."""

    block: tuple[int, int, int] = (2, 8, 8)
    channels: int = 16
    width: int = 96
    depth: int = 2


class Autoencoder(nn.Module):
    """Cosine coefficients (B, N, T', H', W') to latents (B, C, T', H', W') and back."""

    def __init__(self, sizes: Sizes, coefficients: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.into = _network(coefficients, sizes.channels, sizes)
        self.back = _network(sizes.channels, coefficients, sizes)
        self.register_buffer("mean", torch.zeros(sizes.channels, 1, 1, 1))
        self.register_buffer("deviation", torch.ones(sizes.channels, 1, 1, 1))

    def encode(self, coefficients: Tensor) -> Tensor:
        """Latents, of about mean 0 and deviation 1 once the statistics are set."""
        return (coefficients[:, : self.sizes.channels] + self.into(coefficients) - self.mean) / self.deviation

    def decode(self, latents: Tensor) -> Tensor:
        """Coefficients."""
        unscaled = latents * self.deviation + self.mean
        guessed: Tensor = self.back(unscaled)
        rest = torch.zeros_like(guessed[:, self.sizes.channels :])
        return guessed + torch.cat([unscaled, rest], dim=1)


class Small(VideoAutoencoder):
    """`checkpoint` (materia.base.weights): the file that `materia train-autoencoder` wrote."""

    def __init__(self, checkpoint: str) -> None:
        check_address(checkpoint)
        self.checkpoint = Weights(OPTION, checkpoint)
        self.model: Any = None

    @property
    def channels(self) -> int:  # type: ignore[override]  # known when the file is
        """Of the latents. Raises TrainError if the file is not there."""
        return self._sizes().channels

    def weights(self) -> list[Weights]:
        """The file."""
        return [self.checkpoint]

    def missing(self) -> list[Missing]:
        """The file, or what keeps it from being such an autoencoder."""
        if lacking := packages_missing("safetensors", fix="make install"):
            return lacking
        if not self._path().is_file():
            return [Missing(f"{OPTION}: {self._path()} is not there", FIX)]
        try:
            load_autoencoder(self._path())
        except CheckpointError as error:
            return [Missing(f"{OPTION}: {error}", FIX)]
        return []

    def identity(self) -> dict[str, str]:
        """SHA-256 of the file."""
        return {"weights": sha256_of(self._path())}

    def setup(self, device: str) -> None:
        """Load the file. Raises TrainError if it is not there or holds something else."""
        require(self.missing())
        model = load_autoencoder(self._path())
        self.transform = transform_of(model.sizes, device)
        self.model = model.eval().requires_grad_(False).to(device)

    def latent_size(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Blocks in time, height and width."""
        return Patches(self._sizes().block, None).latent_size(frames, height, width)

    @torch.no_grad()
    def encode(self, videos: Tensor) -> Moments:
        """(B, T, H, W, 3) uint8 RGB -> (B, C, T', H', W') float32."""
        return Moments(self.model.encode(self.transform.encode(videos).mean), None)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, T', H', W') -> (B, T, H, W, 3) uint8 RGB."""
        return self.transform.decode(self.model.decode(latents.to(self.transform.device).float()))

    def _path(self) -> Path:
        return local_path(self.checkpoint.address)

    def _sizes(self) -> Sizes:
        if self.model is not None:
            return self.model.sizes  # type: ignore[no-any-return]
        try:
            return read_sizes(self._path())
        except CheckpointError as error:
            raise TrainError(f"{OPTION}: {error}; {FIX}") from error


def transform_of(sizes: Sizes, device: str) -> Patches:
    """The exact cosine transform whose coefficients an autoencoder works on."""
    transform = Patches(sizes.block, None)
    transform.setup(device)
    return transform


def save_autoencoder(model: Autoencoder, path: Path) -> None:
    """Write one file, atomically. Raises OSError."""
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    storage.atomic_write(str(path), save(state, metadata={METADATA: json.dumps(asdict(model.sizes))}))


def load_autoencoder(path: Path) -> Autoencoder:
    """Read what `save_autoencoder` wrote. Raises CheckpointError for a file that is missing, damaged or something else."""
    sizes = read_sizes(path)
    model = Autoencoder(sizes, Patches(sizes.block, None).channels)
    state = load_state_dict(path)
    if fault := mismatch(path, state, model.state_dict(), "small autoencoder"):
        raise CheckpointError(fault)
    model.load_state_dict(state)
    return model


def read_sizes(path: Path) -> Sizes:
    """The sizes out of a file's metadata. Raises CheckpointError as `load_autoencoder`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            fields = json.loads((file.metadata() or {})[METADATA])
        return Sizes(**{**fields, "block": tuple(fields["block"])})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} was not written by materia train-autoencoder") from error


def _network(inputs: int, outputs: int, sizes: Sizes) -> nn.Sequential:
    """Residual blocks between two projections; the last starts at zero, so that the whole starts as nothing."""
    last = nn.Conv3d(sizes.width, outputs, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    blocks = (_Residual(sizes.width) for _ in range(sizes.depth))
    return nn.Sequential(nn.Conv3d(inputs, sizes.width, 1), *blocks, nn.SiLU(), last)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.SiLU(), nn.Conv3d(width, width, 3, padding=1), nn.SiLU(), nn.Conv3d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out
