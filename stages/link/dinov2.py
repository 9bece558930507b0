"""The look of a box by DINOv2 (arXiv 2304.07193), through transformers: its token of the whole image, of each crop.

In: pictures and boxes. Out: a description of each, of length 1. Crops of all pictures of a call share batches.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
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
from stages.backends import Recogniser
from stages.batching import Batches
from stages.link.crops import crop
from stages.precision import autocast, check_dtype

OPTION = "link.options.checkpoint"
SIDE_PX = 224
"""Of the square that a box is stretched to, 16 patches of 14 px: what its authors evaluate at."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB in [0, 1] that it was trained with (its preprocessor_config.json)."""


class Dinov2(Recogniser):
    """DINOv2 without registers.

    `checkpoint` (materia.base.weights): a folder like that of facebook/dinov2-base. `dtype`: see stages.precision.
    `batch_size`: crops in one pass. `alike` [ours, an estimate: the weights were not at hand].
    """

    alike = (0.3, 0.75)
    option_examples: ClassVar[dict[str, str]] = {"checkpoint": "hf://facebook/dinov2-base"}

    def __init__(self, checkpoint: str, dtype: str = "auto", batch_size: int = 32) -> None:
        check_dtype(dtype)
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size!r} is no whole number of at least 1")
        check_address(checkpoint)
        self.folder = Weights(OPTION, checkpoint)
        self.dtype = dtype
        self.batches = Batches("link.options.batch_size", batch_size)
        self.model: Any = None

    def weights(self) -> list[Weights]:
        """The folder."""
        return [self.folder]

    def missing(self) -> list[Missing]:
        """Packages, the folder, or what keeps it from being a DINOv2."""
        lacking = packages_missing("torch", "transformers", fix="make gpu") + weights_missing(self.folder)
        if lacking:
            return lacking
        try:
            _check(local_path(self.folder.address), identity_of(self.folder.address))
        except CheckpointError as error:
            return [Missing(f"{OPTION}: {error}", "give a folder like facebook/dinov2-base")]
        return []

    def identity(self) -> dict[str, str]:
        """Hash of the folder."""
        return {"weights": identity_of(self.folder.address)}

    def setup(self, device: str, threads: int) -> None:
        """Load the folder on `device`. Raises CheckpointError if it is no DINOv2."""
        import torch

        torch.set_num_threads(threads)
        self.device = device
        self.model = _load(local_path(self.folder.address)).to(device)
        self.mean, self.std = (torch.tensor(values, device=device)[:, None, None] * 255 for values in (MEAN, STD))

    def close(self) -> None:
        """Give the memory back."""
        self.model = None

    def describe(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[np.ndarray]:
        """See stages.backends.Recogniser; D: channels of the model."""
        if self.model is None:
            raise RuntimeError("Dinov2.describe before setup")
        every = [(image, box) for image, own in zip(images, boxes, strict=True) for box in own]
        found = iter(self.batches.run(every, self._run))
        width = int(self.model.config.hidden_size)
        return [np.array([next(found) for _ in own], np.float32).reshape(-1, width) for own in boxes]

    def _run(self, batch: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
        import torch

        crops = np.stack([crop(image, box, (SIDE_PX, SIDE_PX)) for image, box in batch])
        with torch.inference_mode(), autocast(self.dtype, self.device):
            pixels = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2)  # (B, 3, SIDE_PX, SIDE_PX)
            tokens = self.model(pixel_values=(pixels.float() - self.mean) / self.std).pooler_output.float()  # (B, D)
            return list(torch.nn.functional.normalize(tokens, dim=1).cpu().numpy())


@functools.lru_cache(maxsize=4)
def _check(folder: Path, _identity: str) -> None:
    """Raises CheckpointError unless the folder holds a DINOv2; looked at once a process."""
    _load(folder)


def _load(folder: Path) -> Any:
    """The network of a folder, frozen. Raises CheckpointError if it is none, or not all there."""
    from transformers import AutoConfig, Dinov2Model

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type != "dinov2":
            raise CheckpointError(f"{folder} holds a {config.model_type}; expected a dinov2")
        model, info = Dinov2Model.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except CheckpointError:
        raise
    except Exception as error:  # a broken folder shows itself in many ways: OSError, ValueError, SafetensorError
        raise CheckpointError(f"{folder} holds no DINOv2 that can be loaded: {str(error).partition(chr(10))[0]}") from error
    if faults := sorted([*info["missing_keys"], *(fault[0] for fault in info["mismatched_keys"])]):
        what = f"{folder} is no DINOv2 of its configuration"
        raise CheckpointError(f"{what}: {len(faults)} tensors are missing or of another shape, e.g. {faults[0]}")
    return model.eval().requires_grad_(False)
