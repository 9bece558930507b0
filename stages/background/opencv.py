"""Inpainting with OpenCV alone: smooth surroundings drawn into the hole.

In: an image and a mask. Out: the image with the mask filled. Classical inpainting smears over large holes, slowly; so it works on a
small copy of the hole's surroundings, where a large hole is small, and the result is scaled up and given the grain of the picture.
"""

from __future__ import annotations

import numpy as np

from stages.backends import Inpainter

WORK_PX = 192
"""Longer side of the copy on which OpenCV inpaints."""
MARGIN_PX = 32
"""Surroundings of the hole that are looked at, in image pixels."""
RADIUS_PX = 4
"""Neighbourhood of a filled pixel, in pixels of the copy."""


class OpenCVInpainter(Inpainter):
    """Telea's fast marching (An Image Inpainting Technique Based on the Fast Marching Method, 2004)."""

    method = "opencv-telea"

    def setup(self, device: str, threads: int) -> None:
        """Pin OpenCV's threads; it runs on the CPU whatever `device` says."""
        import cv2

        cv2.setNumThreads(threads)

    def inpaint(self, image: np.ndarray, mask: np.ndarray, prompt: str | None) -> np.ndarray:
        """Image (H, W, 3) uint8 RGB, mask (H, W) bool -> filled image, same shape; the prompt is of no use to this method."""
        import cv2

        if not mask.any():
            return image.copy()
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        top, bottom = max(0, rows[0] - MARGIN_PX), rows[-1] + 1 + MARGIN_PX
        left, right = max(0, columns[0] - MARGIN_PX), columns[-1] + 1 + MARGIN_PX
        crop, hole = image[top:bottom, left:right], mask[top:bottom, left:right]
        scale = min(1.0, WORK_PX / max(hole.shape))
        size = (max(1, round(hole.shape[1] * scale)), max(1, round(hole.shape[0] * scale)))
        # A small pixel is hole if any of its large ones is: nothing of the subject may bleed into the surroundings.
        small_hole = (cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
        small = cv2.inpaint(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), small_hole, RADIUS_PX, cv2.INPAINT_TELEA)
        filled = image.copy()
        smooth = cv2.resize(small, (hole.shape[1], hole.shape[0]), interpolation=cv2.INTER_CUBIC)
        filled[top:bottom, left:right][hole] = smooth[hole]
        return filled
