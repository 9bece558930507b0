"""Inpainting with PatchMatch (Barnes et al., SIGGRAPH 2009) through the package pypatchmatch: texture instead of a blur.

In: an image and a mask. Out: the image with the mask filled by patches of its surroundings, found by a random search that
starts from the same seed every time. It knows no things: it continues grass, walls and water, not half an apple. Time grows
with the pixels that are searched, so it is given the hole and its surroundings, in a smaller size if they are large.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from materia.base.weights.files import INSTALL, Missing, packages_missing
from stages.backends import Inpainter
from stages.background.opencv import fill
from stages.images import mask_extent

PATCH_PX = 3
"""Radius of the patches that are compared, as in the package's examples; 5 takes half as long again."""
SEED = 0
"""Of the random search."""

DARKEST = 64
"""What is searched is moved up until the brightest channel of no known pixel is below it, so that black tells itself. [ours]"""
BLACK = 0.02
"""Share of a hole that is darker than three quarters of the darkest that is known, from which on it was not reached. Of 412
holes of more than half of parts of real pictures, with strips of 8 to 60 px beside them, 6 had 0.32 to 0.59 (all of more than
three quarters), the others at most 0.003; of 559 smaller holes one had 0.044 (2 of 450 pixels), the others at most 0.0013.
[measured]"""


class PatchMatch(Inpainter):
    """PatchMatch on the CPU, in one thread; it has no use for prompts.

    Searched is the hole with `margin_px` around it; above `max_pixels`, it is shrunk to so many, and what is filled is less
    sharp than the picture.
    """

    method = "patchmatch"

    def __init__(self, max_pixels: int = 110_000, margin_px: int = 64) -> None:
        if max_pixels < 1024:
            raise ValueError(f"max_pixels must be at least 1024, not {max_pixels}")
        if margin_px < 8:
            raise ValueError(f"margin_px must be at least 8, not {margin_px}: patches come from there")
        self.max_pixels = max_pixels
        self.margin_px = margin_px

    def missing(self) -> list[Missing]:
        """The package, or the library in it: where there is no wheel and no compiler, it is installed without."""
        if absent := packages_missing("patchmatch", fix=INSTALL):
            return absent
        import patchmatch

        if patchmatch.patchmatch_available:
            return []
        return [Missing("the library of package patchmatch", "pip install --force-reinstall --no-cache-dir pypatchmatch")]

    def identity(self) -> dict[str, str]:
        """The package's version, on which the pixels depend."""
        return {"pypatchmatch": version("pypatchmatch")}

    def setup(self, device: str, threads: int) -> None:
        """Import the package; it runs on the CPU whatever `device` says, in one thread whatever `threads` says."""
        import patchmatch  # noqa: F401

    def inpaint(self, images: list[np.ndarray], masks: list[np.ndarray], prompts: list[str | None]) -> list[np.ndarray]:
        """Images (H, W, 3) uint8 RGB of any size, masks (H, W) bool -> filled images, same shapes and dtypes."""
        return [self._fill(image, mask) for image, mask in zip(images, masks, strict=True)]

    def _fill(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        filled = image.copy()
        if mask.any() and not mask.all():
            x1, y1, x2, y2 = mask_extent(mask)
            margin = self.margin_px
            around = np.s_[max(0, y1 - margin) : y2 + margin, max(0, x1 - margin) : x2 + margin]
            filled[around][mask[around]] = search(image[around], mask[around], self.max_pixels)[mask[around]]
        return filled


def _patches(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Image (h, w, 3) uint8 RGB, mask (h, w) bool -> filled image, same shape and dtype.

    What no whole patch reaches at its coarsest level the package leaves black, in a large hole beside a narrow strip. Such a
    hole is filled without texture.
    """
    import patchmatch

    known = image[~mask].astype(np.float32)
    lift = max(0.0, DARKEST - known.max(axis=1).min())
    scale = min(1.0, (255 - lift) / max(known.max(), 1.0))
    lifted = (image * np.float32(scale) + lift).round().clip(0, 255).astype(np.uint8)
    patchmatch.set_random_seed(SEED)  # of the whole process, so that somebody else may have set it
    drawn = np.asarray(patchmatch.inpaint(lifted, mask, patch_size=PATCH_PX))
    if (drawn[mask].max(axis=1) < lifted[~mask].max(axis=1).min() * 0.75).mean() > BLACK:
        return fill(image, mask)
    return ((drawn - np.float32(lift)) / np.float32(scale)).round().clip(0, 255).astype(np.uint8)


def search(image: np.ndarray, mask: np.ndarray, max_pixels: int) -> np.ndarray:
    """Image (h, w, 3) uint8 RGB, mask (h, w) bool with something known -> filled image; in `max_pixels`, and scaled back."""
    import cv2

    height, width = mask.shape
    scale = (max_pixels / (height * width)) ** 0.5
    if scale >= 1:
        return _patches(image, mask)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # Of the known pixels alone: what is masked must not show in the mean of a pixel beside it.
    known = (~mask).astype(np.float32)
    weight = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
    mean = cv2.resize(image * known[..., None], size, interpolation=cv2.INTER_AREA) / np.maximum(weight, 1e-3)[..., None]
    small = _patches(mean.round().clip(0, 255).astype(np.uint8), weight < 0.5)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))
