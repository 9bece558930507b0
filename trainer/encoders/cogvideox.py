"""Videos to latents with CogVideoX's causal autoencoder through diffusers: 4 frames and 8 x 8 px a latent, 16 channels.

In: uint8 RGB clips of 4 k + 1 frames, the first of which is a latent frame alone. Out: mean and deviation of the posterior,
times the scaling factor of its configuration, which makes latents of about unit variance.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from materia.base.weights.files import Missing, Weights
from trainer.encoders.base import Moments, VideoAutoencoder
from trainer.encoders.folders import Folder

FRAMES, SIDE = 4, 8
"""Frames and pixels along a side of a latent."""


class CogVideoX(VideoAutoencoder):
    """The autoencoder of CogVideoX. `checkpoint` (materia.base.weights): a folder of it, or a whole pipeline with a `vae`,
    like that of THUDM/CogVideoX-5b. `slicing`: one clip at a time, for memory. `tiling`: overlapping parts of a clip, for large
    pictures; blended at the seams, so not quite the same latents.
    """

    def __init__(self, checkpoint: str, dtype: str = "float32", slicing: bool = True, tiling: bool = False) -> None:
        option = "encoders.video.options.checkpoint"
        self.folder = Folder(option, checkpoint, "diffusers", "AutoencoderKLCogVideoX", "vae", dtype)
        self.slicing = slicing
        self.tiling = tiling
        self.model: Any = None

    @property
    def channels(self) -> int:  # type: ignore[override]  # known when the folder is
        """Of the latents. Raises TrainError if the folder is not there."""
        return int(self.folder.config("latent_channels"))

    def weights(self) -> list[Weights]:
        """The folder."""
        return [self.folder.weights]

    def missing(self) -> list[Missing]:
        """Packages, the folder, or what keeps it from being this model."""
        return self.folder.missing()

    def identity(self) -> dict[str, str]:
        """Architecture, tiling, hash of the weights, dtype."""
        return {"architecture": self.folder.architecture, "tiling": str(self.tiling), **self.folder.identity()}

    def setup(self, device: str) -> None:
        """Load the model. Raises TrainError for a folder that is not there or holds something else."""
        self.model = self.folder.load(device)
        if self.slicing:
            self.model.enable_slicing()
        if self.tiling:
            self.model.enable_tiling()

    def latent_size(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a clip."""
        if frames % FRAMES != 1 or height % SIDE or width % SIDE or min(height, width) < SIDE:
            would_do = max(frames - 1, 0) // FRAMES * FRAMES + 1, *(max(side // SIDE, 1) * SIDE for side in (height, width))
            raise ValueError(
                f"clips of {frames} frames, {height}x{width} px do not fit CogVideoX's autoencoder: {FRAMES} k + 1 frames, "
                f"sides multiples of {SIDE}; {would_do[0]} frames, {would_do[1]}x{would_do[2]} px would do"
            )
        return frames // FRAMES + 1, height // SIDE, width // SIDE

    @torch.no_grad()
    def encode(self, videos: Tensor) -> Moments:
        """(B, T, H, W, 3) uint8 RGB -> mean and deviation (B, C, T', H', W') float32."""
        self.latent_size(*videos.shape[1:4])
        pixels = videos.to(self.model.device).permute(0, 4, 1, 2, 3).to(self.model.dtype) / 127.5 - 1  # (B, 3, T, H, W)
        posterior = self.model.encode(pixels).latent_dist
        factor = self.model.config.scaling_factor
        return Moments(posterior.mean.float() * factor, posterior.std.float() * factor)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, T', H', W') -> (B, T, H, W, 3) uint8 RGB."""
        unscaled = latents.to(self.model.device, self.model.dtype) / self.model.config.scaling_factor
        pixels = self.model.decode(unscaled).sample.float()  # (B, 3, T, H, W)
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1)
