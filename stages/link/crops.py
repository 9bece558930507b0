"""Cutting boxes out of pictures for networks that look at them."""

from __future__ import annotations

import numpy as np


def crop(image: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What a box (4,) xyxy holds of an image (H, W, 3) uint8, stretched to `size` (width, height): (height, width, 3) uint8.

    A box that is empty, or outside of the picture, holds the pixel that is nearest to it.
    """
    import cv2

    height, width = image.shape[:2]
    x1, y1 = np.floor(np.clip(box[:2], 0, (width - 1, height - 1))).astype(int)
    x2, y2 = np.maximum(np.ceil(np.clip(box[2:], 0, (width, height))).astype(int), (x1 + 1, y1 + 1))
    smaller = x2 - x1 >= size[0] and y2 - y1 >= size[1]
    found: np.ndarray = cv2.resize(image[y1:y2, x1:x2], size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return found
