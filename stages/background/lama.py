"""Inpainting with LaMa (Suvorov et al., arXiv 2109.07161) through the package lama-cleaner.

In: images and masks. Out: filled images. The checkpoint is a TorchScript file that we hash and try out before a job starts, and
open ourselves: the package would delete a file whose MD5 it does not know, and end the process (lama_cleaner/helper.py).
TorchScript runs no Python, yet it is a program: state the `sha256` of a file that you did not make.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from materia.base.weights.checkpoints import CheckpointError
from materia.base.weights.files import (
    Missing,
    Weights,
    check_address,
    identity_of,
    local_path,
    packages_missing,
    weights_missing,
)
from stages.backends import Inpainter
from stages.batching import Batches

if TYPE_CHECKING:
    from lama_cleaner.schema import Config

    from stages.background.lama_model import BatchedLaMa

PACKAGES = ("torch", "lama_cleaner", "loguru", "imghdr")
"""lama-cleaner is installed without its dependencies; imghdr, which it imports, left the standard library with Python 3.13."""
OPTION = "background.options.checkpoint"
STRATEGIES = ("Original", "Resize", "Crop")
"""The package's HDStrategy (lama_cleaner/schema.py)."""
LEAST_PX = {"hd_strategy_resize_limit": 256, "hd_strategy_crop_margin": 16, "hd_strategy_crop_trigger_size": 1}
"""Below, a part of a picture may have fewer pixels than the generator's convolutions reflect at its edge."""


class Lama(Inpainter):
    """LaMa; it has no use for prompts.

    `checkpoint` (see materia.base.weights): TorchScript whose forward takes image (B, 3, H, W) float32 in [0, 1], RGB, and
    mask (B, 1, H, W) float32, 1 where to fill, H and W multiples of 8, and gives the filled image. `hd_strategy` and its sizes
    in pixels are the package's: Original takes pictures as they are; Resize shrinks those whose longer side is above
    `hd_strategy_resize_limit`; Crop cuts a part around each hole, `hd_strategy_crop_margin` wider on every side, from those
    whose longer side is above `hd_strategy_crop_trigger_size`. Up to `batch_size` pictures or parts of one size make one
    forward pass. `dtype` can only be float32: cuFFT has half precision for powers of two alone, and no bfloat16.
    """

    method = "lama"
    option_examples: ClassVar[dict[str, str]] = {
        "checkpoint": "https://github.com/Sanster/models/releases/download/add_big_lama/big-lama.pt"
    }

    def __init__(
        self,
        checkpoint: str,
        sha256: str | None = None,
        batch_size: int = 4,
        hd_strategy: str = "Resize",
        hd_strategy_resize_limit: int = 1280,
        hd_strategy_crop_margin: int = 128,
        hd_strategy_crop_trigger_size: int = 1280,
        dtype: str = "float32",
    ) -> None:
        check_address(checkpoint)
        if dtype != "float32":
            raise ValueError(f"dtype must be float32, not {dtype!r}: LaMa's Fourier transforms have no half precision")
        if hd_strategy.capitalize() not in STRATEGIES:
            raise ValueError(f"hd_strategy must be one of {', '.join(STRATEGIES)}, not {hd_strategy!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.hd = {
            "hd_strategy_resize_limit": hd_strategy_resize_limit,
            "hd_strategy_crop_margin": hd_strategy_crop_margin,
            "hd_strategy_crop_trigger_size": hd_strategy_crop_trigger_size,
        }
        for name, least in LEAST_PX.items():
            if self.hd[name] < least:
                raise ValueError(f"{name} must be at least {least} px, not {self.hd[name]}")
        self.hd_strategy = hd_strategy.capitalize()
        self.file = Weights(OPTION, checkpoint, sha256)
        self.batches = Batches("background.options.batch_size", batch_size)
        self.model: BatchedLaMa | None = None
        self.config: Config | None = None

    def weights(self) -> list[Weights]:
        """The checkpoint."""
        return [self.file]

    def missing(self) -> list[Missing]:
        """Packages, the checkpoint, or what makes it no LaMa: it is loaded on the CPU and fills a hole of 64 x 64 noise."""
        absent = packages_missing(*PACKAGES, fix="make gpu")
        if absent := absent + weights_missing(self.file):
            return absent
        from stages.background.lama_model import load_generator, try_out

        path = local_path(self.file.address)
        try:
            try_out(path, load_generator(path, "cpu"), pictures=1)
        except CheckpointError as error:
            return [Missing(f"{OPTION}: {error}", "give the TorchScript file of LaMa, e.g. big-lama.pt")]
        return []

    def identity(self) -> dict[str, str]:
        """SHA-256 of the checkpoint."""
        return {"weights": identity_of(self.file.address)}

    def setup(self, device: str, threads: int) -> None:
        """Load the checkpoint on `device`. Raises CheckpointError if it cannot be used."""
        import torch
        from lama_cleaner.schema import Config

        from stages.background.lama_model import BatchedLaMa

        torch.set_num_threads(threads)
        self.model = BatchedLaMa(device, checkpoint=local_path(self.file.address), batches=self.batches)
        self.config = Config(ldm_steps=1, hd_strategy=self.hd_strategy, **self.hd)  # no default; LaMa takes no steps

    def close(self) -> None:
        """Drop the model."""
        self.model = None

    def inpaint(self, images: list[np.ndarray], masks: list[np.ndarray], prompts: list[str | None]) -> list[np.ndarray]:
        """Images (H, W, 3) uint8 RGB of any size, masks (H, W) bool -> filled images, same shapes and dtypes."""
        if self.model is None:
            raise RuntimeError("Lama.inpaint before setup")
        filled: list[np.ndarray] = self.model.fill(images, masks, self.config)
        return filled
