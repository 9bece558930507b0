"""lama-cleaner's LaMa, made to run the forward passes of many pictures together. Imports torch and the package.

In: images and masks. Out: filled images. The package prepares one picture (HD strategy, padding to multiples of 8), asks for a
forward pass, and puts the result together. Here it does so twice: first what it asks for is only noted, then, when all that has
been computed in batches, it is told the answers. Preparing costs little; the package's blending outside the hole, which costs
more and which the stage does exactly, is left out.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger

from stages.batching import Batches
from stages.checkpoints import CheckpointError
from stages.notices import notice

with warnings.catch_warnings():  # the package uses what is deprecated, and silences all UserWarnings of the process
    warnings.simplefilter("ignore")
    from lama_cleaner.helper import pad_img_to_modulo
    from lama_cleaner.model.lama import LaMa
    from lama_cleaner.schema import Config
logger.disable("lama_cleaner")  # five lines for each picture

Part = tuple[np.ndarray, np.ndarray]
"""What one forward pass is asked for: image (h, w, 3) uint8 RGB and mask (h, w, 1) uint8, sides multiples of 8."""

PROBE_PX = 64
"""Side of the noise on which a checkpoint is tried out."""
EXPECTED = "a TorchScript LaMa (forward(image, mask) gives the filled image)"


class BatchedLaMa(LaMa):  # type: ignore[misc]  # the package has no types
    """LaMa for many pictures at once; `batches` limits how many parts of one size share a forward pass."""

    def __init__(self, device: str, checkpoint: Path, batches: Batches) -> None:
        self.batches = batches
        self.asked: list[Part] = []
        self.answers: Iterator[np.ndarray] | None = None
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
        self.asked, self.answers = [], None
        self._each(images, masks, config)
        self.answers = iter(self._compute(self.asked))
        self.asked = []
        return self._each(images, masks, config)

    def _each(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], config: Config) -> list[np.ndarray]:
        """The package's own way through every picture; it writes into the image that it is given and answers in BGR."""
        pairs = zip(images, masks, strict=True)
        return [self(image.copy(), mask.astype(np.uint8) * 255, config)[..., ::-1] for image, mask in pairs]

    def _pad_forward(self, image: np.ndarray, mask: np.ndarray, config: Config) -> np.ndarray:
        """Called by the package for each picture or part (h, w, 3) of one: padded forward pass -> (h, w, 3) uint8 BGR."""
        height, width = image.shape[:2]
        padded = pad_img_to_modulo(image, mod=self.pad_mod), pad_img_to_modulo(mask, mod=self.pad_mod)
        return self.forward(*padded, config)[:height, :width]

    def forward(self, image: np.ndarray, mask: np.ndarray, config: Config) -> np.ndarray:
        """What the package calls a forward pass: noted in the first round, answered, uint8 BGR, in the second."""
        if self.answers is None:
            self.asked.append((image, mask))
            return image
        return next(self.answers)

    def _compute(self, parts: list[Part]) -> list[np.ndarray]:
        """Forward passes over parts of one size together -> their results (h, w, 3) uint8 BGR, in the order of `parts`."""
        results: dict[int, np.ndarray] = {}
        for size in dict.fromkeys(image.shape for image, _ in parts):
            alike = [place for place, (image, _) in enumerate(parts) if image.shape == size]
            results |= zip(alike, self.batches.run([parts[place] for place in alike], self._forward_batch), strict=True)
        return [results[place] for place in range(len(parts))]

    def _forward_batch(self, parts: Sequence[Part]) -> list[np.ndarray]:
        """Parts of one size, on the device and back as bytes; as in the package, levels are cut, not rounded."""
        image = torch.from_numpy(np.stack([image for image, _ in parts])).to(self.device)  # (B, h, w, 3)
        mask = torch.from_numpy(np.stack([mask for _, mask in parts])).to(self.device)  # (B, h, w, 1)
        filled = run(self.model, image.permute(0, 3, 1, 2).float() / 255, (mask > 0).permute(0, 3, 1, 2).float())
        levels = (filled * 255).clamp(0, 255).to(torch.uint8)  # (B, 3, h, w)
        return list(levels.flip(1).permute(0, 2, 3, 1).cpu().numpy())


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
