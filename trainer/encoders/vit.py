"""Reference images to the patch tokens of a vision transformer: DINOv2, the paper's choice, and CLIP, for its ablation.

In: images on white. Out: the tokens of the last block, one a patch, without the one of the whole image [paper §3.2]; DINOv2's
through its final normalisation, CLIP's, which has none for patches, through one without parameters, so that both are of about
unit scale.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from materia.base.weights.files import Missing, Weights
from trainer.encoders.base import ImageEncoder
from trainer.encoders.folders import Folder

OPTION = "encoders.image.options.checkpoint"
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and deviation of RGB in [0, 1] that DINOv2 and CLIP were trained with (their preprocessor_config.json)."""
DINOV2_SIDE = 224
"""Of its input [paper §3.2]: 256 tokens of 14 x 14 px. It was trained at others too and interpolates its positions."""


class PatchTokens(ImageEncoder):
    """The vision transformer of a folder, `side` px its input (None: what its configuration says)."""

    def __init__(self, folder: Folder, pixels: tuple[tuple[float, ...], tuple[float, ...]], side: int | None) -> None:
        self.folder = folder
        self.pixels = pixels
        self.fixed_side = side
        self.model: Any = None

    @property
    def width(self) -> int:  # type: ignore[override]  # known when the folder is
        """Channels of a token. Raises TrainError if the folder is not there."""
        return int(self.folder.config("hidden_size"))

    @property
    def tokens(self) -> int:  # type: ignore[override]
        """Patches of an image."""
        return int((self.side // self.folder.config("patch_size")) ** 2)

    @property
    def side(self) -> int:
        """Of what the model is given, px."""
        return self.fixed_side or int(self.folder.config("image_size"))

    def weights(self) -> list[Weights]:
        """The folder."""
        return [self.folder.weights]

    def missing(self) -> list[Missing]:
        """Packages, the folder, or what keeps it from being this model."""
        return self.folder.missing()

    def identity(self) -> dict[str, str]:
        """Architecture and input, hash of the weights, dtype."""
        return {"architecture": f"{self.folder.architecture} {self.side}", **self.folder.identity()}

    def setup(self, device: str) -> None:
        """Load the model. Raises TrainError for a folder that is not there or holds something else."""
        self.model = self.folder.load(device)
        self.mean, self.deviation = (torch.tensor(values, device=device)[:, None, None] * 255 for values in self.pixels)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(B, side, side, 3) uint8 RGB -> (B, tokens, width) float32, rows of patches one after the other."""
        if not len(images):
            return torch.zeros(0, self.tokens, self.width, device=self.model.device)
        pixels = images.to(self.model.device).permute(0, 3, 1, 2).float()  # (B, 3, side, side)
        if pixels.shape[-1] != self.side:
            pixels = F.interpolate(pixels, (self.side, self.side), mode="bicubic", antialias=True).clamp(0, 255)
        normalised = ((pixels - self.mean) / self.deviation).to(self.model.dtype)
        tokens: Tensor = self.model(pixel_values=normalised).last_hidden_state[:, 1:]
        return tokens.float()


class Dinov2(PatchTokens):
    """DINOv2 without registers. `checkpoint` (materia.base.weights): a folder like that of facebook/dinov2-large."""

    def __init__(self, checkpoint: str, dtype: str = "float32") -> None:
        super().__init__(Folder(OPTION, checkpoint, "transformers", "Dinov2Model", dtype=dtype), IMAGENET, DINOV2_SIDE)


class Clip(PatchTokens):
    """CLIP's vision tower. `checkpoint` (materia.base.weights): a folder like that of openai/clip-vit-large-patch14."""

    def __init__(self, checkpoint: str, dtype: str = "float32") -> None:
        super().__init__(Folder(OPTION, checkpoint, "transformers", "CLIPVisionModel", dtype=dtype), OPENAI, None)

    def encode(self, images: Tensor) -> Tensor:
        """As of the protocol, normalised."""
        tokens = super().encode(images)
        return F.layer_norm(tokens, tokens.shape[-1:])
