"""lama-cleaner's LaMa, made to run the forward passes of many pictures together. Imports torch and the package.

In: images and masks. Out: filled images. How a picture is cut into parts (HD strategy) and padded to multiples of 8 is the
package's; only the order is changed: first the parts of all pictures, then their forward passes in batches, then everything is
put together. The package's blending outside the hole is left to the stage, which does it exactly.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from loguru import logger

from materia.base.weights.checkpoints import CheckpointError
from stages.batching import Batches
from stages.notices import notice

with warnings.catch_warnings():  # the package uses what is deprecated, and silences all UserWarnings of the process
    warnings.simplefilter("ignore")
    from lama_cleaner.helper import boxes_from_mask, pad_img_to_modulo, resize_max_size
    from lama_cleaner.model.lama import LaMa
    from lama_cleaner.schema import Config, HDStrategy
logger.disable("lama_cleaner")  # a line for each part of a picture

Part = tuple[np.ndarray, np.ndarray]
"""What a forward pass is asked for: image (h, w, 3) uint8 RGB and mask (h, w, 1) uint8, 0 or more, sides multiples of 8."""

PROBE_PX = 64
"""Side of the noise on which a checkpoint is tried out."""
EXPECTED = "a TorchScript LaMa (forward(image, mask) gives the filled image)"


class BatchedLaMa(LaMa):  # type: ignore[misc]  # the package has no types
    """LaMa for many pictures at once; `batches` limits how many parts of one size share a forward pass."""

    def __init__(self, device: str, checkpoint: Path, batches: Batches) -> None:
        self.batches = batches
        super().__init__(device, checkpoint=checkpoint)

    def init_model(self, device: Any, **kwargs: Any) -> None:
        """Called by the package's constructor. Raises CheckpointError."""
        checkpoint: Path = kwargs["checkpoint"]
        self.model = load_generator(checkpoint, str(device))
        try_out(checkpoint, self.model, pictures=1, device=str(device))
        try:
            try_out(checkpoint, self.model, pictures=2, device=str(device))
        except CheckpointError:
            if self.batches.size > 1:
                notice(f"{self.batches.what}: {checkpoint.name} takes one picture at a time")
            self.batches.size = 1

    def fill(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], config: Config) -> list[np.ndarray]:
        """Images (H, W, 3) uint8 RGB, masks (H, W) bool, which may differ in size -> filled images uint8 RGB."""
        cut = [self._cut(image, mask.astype(np.uint8) * 255, config) for image, mask in zip(images, masks, strict=True)]
        drawn = iter(self._draw([(image, mask) for parts in cut for image, mask, _ in parts]))
        filled = [image.copy() for image in images]
        for canvas, parts in zip(filled, cut, strict=True):
            for _, _, (left, top, right, bottom) in parts:
                size = (int(right - left), int(bottom - top))
                canvas[top:bottom, left:right] = cv2.resize(next(drawn), size, interpolation=cv2.INTER_CUBIC)
        return filled

    def _cut(self, image: np.ndarray, mask: np.ndarray, config: Config) -> list[tuple[np.ndarray, np.ndarray, list[int]]]:
        """The parts of a picture that are drawn, as the package's `__call__` takes them: image, mask, and where they belong
        (left, top, right, bottom), which may be larger. `mask` (H, W) uint8, 0 or 255."""
        if config.hd_strategy == HDStrategy.CROP and max(image.shape) > config.hd_strategy_crop_trigger_size:
            return [self._crop_box(image, mask, box, config) for box in boxes_from_mask(mask)]
        everything = [0, 0, image.shape[1], image.shape[0]]
        if config.hd_strategy == HDStrategy.RESIZE:
            image, mask = (resize_max_size(pixels, size_limit=config.hd_strategy_resize_limit) for pixels in (image, mask))
        return [(image, mask, everything)]

    def _draw(self, parts: list[Part]) -> list[np.ndarray]:
        """Parts of any size -> (h, w, 3) uint8 RGB each; those of one size, when padded, share forward passes."""
        padded = [tuple(pad_img_to_modulo(pixels, mod=self.pad_mod) for pixels in part) for part in parts]
        results: dict[int, np.ndarray] = {}
        for size in dict.fromkeys(image.shape for image, _ in padded):
            alike = [index for index, (image, _) in enumerate(padded) if image.shape == size]
            results |= zip(alike, self.batches.run([padded[index] for index in alike], self._forward_batch), strict=True)
        return [results[index][: image.shape[0], : image.shape[1]] for index, (image, _) in enumerate(parts)]

    def _forward_batch(self, parts: Sequence[Part]) -> list[np.ndarray]:
        """Padded parts of one size -> (h, w, 3) uint8 RGB each; as in the package, levels are cut, not rounded."""
        image = torch.from_numpy(np.stack([image for image, _ in parts])).to(self.device)  # (B, h, w, 3)
        mask = torch.from_numpy(np.stack([mask for _, mask in parts])).to(self.device)  # (B, h, w, 1)
        filled = run(self.model, image.permute(0, 3, 1, 2).float() / 255, (mask > 0).permute(0, 3, 1, 2).float())
        levels = (filled * 255).clamp(0, 255).to(torch.uint8)  # (B, 3, h, w)
        return list(levels.permute(0, 2, 3, 1).contiguous().cpu().numpy())


def load_generator(path: Path, device: str) -> torch.jit.ScriptModule:
    """The TorchScript module of a file, on `device`. Raises CheckpointError for one that is truncated or something else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch would rather have another format
            generator = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).partition(". ")[0].partition("\n")[0]
        raise CheckpointError(f"{path} is not {EXPECTED}, or it is damaged: {reason}") from error
    taken = [(argument.name, str(argument.type)) for argument in generator.forward.schema.arguments[1:]]
    if [kind for _, kind in taken] != ["Tensor", "Tensor"]:
        found = ", ".join(f"{name}: {kind}" for name, kind in taken)
        raise CheckpointError(f"{path} is not {EXPECTED}: its forward takes ({found})")
    return generator


def try_out(path: Path, generator: torch.jit.ScriptModule, pictures: int, device: str = "cpu") -> None:
    """Fill a hole in noise. Raises CheckpointError if that fails, has another shape, or differs from picture by picture."""
    noise = torch.rand(pictures, 3, PROBE_PX, PROBE_PX, generator=torch.Generator().manual_seed(0)).to(device)
    mask = torch.zeros(pictures, 1, PROBE_PX, PROBE_PX, device=device)
    mask[:, :, PROBE_PX // 4 : -PROBE_PX // 4, PROBE_PX // 4 : -PROBE_PX // 4] = 1
    try:
        filled = run(generator, noise, mask)
        alone = torch.cat([run(generator, noise[k : k + 1], mask[k : k + 1]) for k in range(pictures)])
        fits = filled.shape == noise.shape and torch.allclose(filled.float(), alone.float(), atol=1 / 255, equal_nan=True)
    except Exception as error:  # it is somebody's program
        reason = str(error).strip().rpartition("\n")[2]
        raise CheckpointError(f"{path} is not {EXPECTED}: it fails on {tuple(noise.shape)}: {reason}") from error
    if not fits:
        found = f"{tuple(noise.shape)} gives {tuple(filled.shape)}"
        raise CheckpointError(f"{path} is not {EXPECTED}: {found}")


def run(generator: torch.jit.ScriptModule, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """One forward pass: image (B, 3, h, w) in [0, 1], mask (B, 1, h, w) 0 or 1, both float32 -> (B, 3, h, w).

    Without TorchScript's optimiser: it would compile anew for every size, and may change the last bits after the first passes.
    Raises torch.OutOfMemoryError as such; TorchScript's interpreter makes a plain RuntimeError of it.
    """
    try:
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            filled: torch.Tensor = generator(image, mask)
    except (RuntimeError, torch.jit.Error) as error:
        if "out of memory" in str(error):
            raise torch.OutOfMemoryError(str(error).strip().rpartition("\n")[2]) from error
        raise
    return filled
