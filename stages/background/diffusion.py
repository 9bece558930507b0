"""Inpainting with a diffusion model through the package diffusers, asked with the paper's prompts.

In: images, masks and background words. Out: repainted images. Off by default: it invents what could have been there, at times
a new figure (method: Known trouble), where LaMa goes on with what surrounds the hole. The noise of a picture is drawn from its
own content, so that it is repainted alike in any batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, ClassVar

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

PACKAGES = ("torch", "diffusers", "transformers", "safetensors")
OPTION = "background.options.model"
DTYPES = ("float32", "float16", "bfloat16")
NEGATIVE_PROMPT = "any human or any object, complex pattern and texture"
"""method: Background [paper A]."""
NO_WORD = "empty scene"
"""Prompt for captions without a background word [ours]."""
MULTIPLE = 16
"""Sides of what a model is given: 8 pixels a latent, and transformers take patches of 2 x 2 latents."""

Picture = tuple[np.ndarray, np.ndarray, str, int]
"""Image (h, w, 3) uint8 RGB, mask (h, w) bool, sides multiples of MULTIPLE; prompt; seed."""


class DiffusionInpainter(Inpainter):
    """Any model that diffusers can use for inpainting with a prompt and a negative prompt, e.g. Stable Diffusion 1.5, 2 or XL.

    `model` (see materia.base.weights): folder in diffusers' format, weights as safetensors. `dtype` of all its parts:
    float32, float16 or bfloat16. Up to `batch_size` pictures of one size are denoised together in `steps` steps with
    `guidance_scale`, starting from the picture with the share `strength` in (0, 1] of the noise. `seed` in [0, 2^32) gives
    other variants. Pictures whose longer side is above `max_side_px` are shrunk to it, as the model was trained on small ones,
    and their filling is enlarged again. `compile`: the denoiser runs through torch.compile, which compiles once for each size.
    """

    method = "diffusers"
    option_examples: ClassVar[dict[str, str]] = {"model": "/models/stable-diffusion-inpainting"}

    def __init__(
        self,
        model: str,
        dtype: str = "float16",
        batch_size: int = 4,
        steps: int = 50,
        guidance_scale: float = 7.5,
        strength: float = 1.0,
        seed: int = 0,
        max_side_px: int = 768,
        compile: bool = False,
    ) -> None:
        check_address(model)
        allowed = {
            f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}": dtype in DTYPES,
            f"batch_size must be at least 1, not {batch_size}": batch_size >= 1,
            f"guidance_scale must be above 1, not {guidance_scale}: the negative prompt has no effect else": guidance_scale > 1,
            f"strength must lie in (0, 1], not {strength}": 0 < strength <= 1,
            f"steps must be at least {1 / max(strength, 1e-9):.0f} at strength {strength:g}, not {steps}": steps * strength
            >= 1,
            f"seed must lie in [0, 2^32), not {seed}": 0 <= seed < 2**32,
            f"max_side_px must be at least 64, not {max_side_px}": max_side_px >= 64,
        }
        if wrong := [sentence for sentence, holds in allowed.items() if not holds]:
            raise ValueError("; ".join(wrong))
        self.folder = Weights(OPTION, model)
        self.dtype = dtype
        self.batches = Batches("background.options.batch_size", batch_size)
        self.how = {"num_inference_steps": steps, "guidance_scale": guidance_scale, "strength": strength}
        self.seed = seed
        self.max_side_px = max_side_px
        self.compile = compile
        self.pipeline: Any = None

    def weights(self) -> list[Weights]:
        """The model's folder."""
        return [self.folder]

    def missing(self) -> list[Missing]:
        """Packages, the folder, or what makes it no inpainting model; reads names and shapes of its weights."""
        absent = packages_missing(*PACKAGES, fix="make gpu")
        if absent := absent + weights_missing(self.folder):
            return absent
        from stages.background.diffusion_model import check_pipeline

        try:
            check_pipeline(local_path(self.folder.address))
        except CheckpointError as error:
            return [Missing(f"{OPTION}: {error}", "give the folder of an inpainting model in diffusers' format")]
        return []

    def identity(self) -> dict[str, str]:
        """Hash over the folder's files."""
        return {"weights": identity_of(self.folder.address)}

    def setup(self, device: str, threads: int) -> None:
        """Load the model on `device`."""
        import torch

        from stages.background.diffusion_model import load_pipeline

        torch.set_num_threads(threads)
        self.pipeline = load_pipeline(local_path(self.folder.address), self.dtype, device, self.compile)

    def close(self) -> None:
        """Drop the model."""
        self.pipeline = None

    def inpaint(self, images: list[np.ndarray], masks: list[np.ndarray], prompts: list[str | None]) -> list[np.ndarray]:
        """Images (H, W, 3) uint8 RGB of any size, masks (H, W) bool, background words -> repainted, same shapes and dtypes."""
        pictures = [self._picture(*given) for given in zip(images, masks, prompts, strict=True)]
        results: dict[int, np.ndarray] = {}
        for size in dict.fromkeys(picture[0].shape for picture in pictures):
            alike = [index for index, picture in enumerate(pictures) if picture[0].shape == size]
            painted = self.batches.run([pictures[index] for index in alike], self._paint)
            results |= zip(alike, painted, strict=True)
        return [self._as_large(results[index], image) for index, image in enumerate(images)]

    def _picture(self, image: np.ndarray, mask: np.ndarray, word: str | None) -> Picture:
        """What the model is given for a picture: shrunk to `max_side_px`, then padded at the right and below by repetition."""
        import cv2

        size = self._inner_size(image)
        seed = zlib.crc32(np.packbits(mask).tobytes(), zlib.crc32(image.tobytes(), self.seed))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        hole = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
        margins = (0, -size[1] % MULTIPLE), (0, -size[0] % MULTIPLE)
        padded = np.pad(small, (*margins, (0, 0)), mode="edge")
        return padded, np.pad(hole, margins, mode="edge"), word or NO_WORD, seed

    def _inner_size(self, image: np.ndarray) -> tuple[int, int]:
        """(width, height) at which a picture is repainted, before padding."""
        height, width = image.shape[:2]
        scale = min(1.0, self.max_side_px / max(height, width))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def _paint(self, pictures: Sequence[Picture]) -> list[np.ndarray]:
        """Pictures of one size -> (h, w, 3) uint8 RGB each."""
        import torch
        from PIL import Image

        if self.pipeline is None:
            raise RuntimeError("DiffusionInpainter.inpaint before setup")
        images, masks, prompts, seeds = zip(*pictures, strict=True)
        height, width = images[0].shape[:2]
        painted = self.pipeline(
            prompt=list(prompts),
            negative_prompt=[NEGATIVE_PROMPT] * len(pictures),
            image=[Image.fromarray(image) for image in images],
            mask_image=[Image.fromarray(mask.astype(np.uint8) * 255) for mask in masks],
            height=height,
            width=width,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="np",
            **self.how,
        ).images  # (B, h, w, 3) float32 in [0, 1]
        return list((painted * 255).round().astype(np.uint8))

    def _as_large(self, painted: np.ndarray, image: np.ndarray) -> np.ndarray:
        """The padding cut off, and as large as the image again."""
        import cv2

        width, height = self._inner_size(image)
        enlarged: np.ndarray = cv2.resize(painted[:height, :width], image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        return enlarged
