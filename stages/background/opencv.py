"""Inpainting with OpenCV alone: the surroundings' colours flow smoothly into the hole.

In: an image and a mask. Out: the image with the mask filled. A pull-push pyramid (Gortler et al., The Lumigraph, 1996): known
pixels are averaged level by level until the hole is closed, then the coarse levels fill it from the inside out. On holes of a
tenth of the picture and more, cv2.inpaint draws star-shaped rays, which look like things; this draws soft gradients.
"""

from __future__ import annotations

import numpy as np

from stages.backends import Inpainter
from stages.images import mask_extent

MARGIN_PX = 48
"""Surroundings of the hole that are looked at."""


class OpenCVInpainter(Inpainter):
    """Pull-push on OpenCV's Gaussian pyramids."""

    method = "opencv-pull-push"

    def setup(self, device: str, threads: int) -> None:
        """Pin OpenCV's threads; it runs on the CPU whatever `device` says."""
        import cv2

        cv2.setNumThreads(threads)

    def inpaint(self, images: list[np.ndarray], masks: list[np.ndarray], prompts: list[str | None]) -> list[np.ndarray]:
        """Images (H, W, 3) uint8 RGB, masks (H, W) bool -> filled images; prompts are of no use to this method."""
        return [fill(image, mask) for image, mask in zip(images, masks, strict=True)]


def fill(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Image (H, W, 3) uint8 RGB, mask (H, W) bool -> filled image, same shape and dtype."""
    if not mask.any():
        return image.copy()
    x1, y1, x2, y2 = mask_extent(mask)
    around = np.s_[max(0, y1 - MARGIN_PX) : y2 + MARGIN_PX, max(0, x1 - MARGIN_PX) : x2 + MARGIN_PX]
    known = (~mask[around]).astype(np.float32)
    colours = pull_push(image[around].astype(np.float32) * known[..., None], known)
    filled = image.copy()
    filled[around][mask[around]] = colours[mask[around]].round().clip(0, 255).astype(np.uint8)
    return filled


def pull_push(weighted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Fill where weight is 0: `weighted` (h, w, 3) colour x weight, `weight` (h, w) in [0, 1] -> colours (h, w, 3) float32."""
    import cv2

    colour: np.ndarray = weighted / np.maximum(weight, 1e-6)[..., None]
    if weight.min() >= 1 or min(weight.shape) < 2:
        return colour
    # One known pixel in four below is enough to know a coarse pixel: without this, far colours would dilute the near ones.
    below, below_weight = cv2.pyrDown(weighted), cv2.pyrDown(weight)
    gain = np.minimum(1 / np.maximum(below_weight, 0.25), 4)
    coarse = pull_push(below * gain[..., None], np.minimum(below_weight * gain, 1))
    size = (weight.shape[1], weight.shape[0])
    share = weight[..., None]
    result: np.ndarray = colour * share + cv2.pyrUp(coarse, dstsize=size) * (1 - share)
    return result
