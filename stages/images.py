"""Masks and pictures as bytes: run-length codes, crops with alpha, lossless PNG.

In and out: numpy arrays, (H, W, 3) uint8 RGB and (H, W) bool, and the encoded forms that records hold.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from stages.records import MaskRle

PNG_LEVEL = 1
"""zlib level: the next ones make crops a tenth smaller in several times the time."""

LAB_RANGES = ((0, 256), (58, 198), (58, 198))
"""OpenCV's 8 bit CIELAB; colours of pictures lie well within these."""


def encode_mask(mask: np.ndarray) -> MaskRle:
    """Mask (H, W) bool -> COCO's compressed run-length code."""
    from pycocotools import mask as coco

    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return MaskRle(size=(int(mask.shape[0]), int(mask.shape[1])), counts=rle["counts"].decode("ascii"))


def decode_mask(rle: MaskRle) -> np.ndarray:
    """Inverse of `encode_mask`: (H, W) bool."""
    from pycocotools import mask as coco

    mask: np.ndarray = coco.decode({"size": list(rle.size), "counts": rle.counts.encode("ascii")}).astype(bool)
    return mask


def mask_extent(mask: np.ndarray) -> np.ndarray:
    """Bounding box of a mask that is not empty: (4,) int xyxy, end exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Mask (H, W) bool -> with every background region that does not touch the picture's edge filled."""
    import cv2

    padded = np.pad(mask, 1).astype(np.uint8)
    cv2.floodFill(padded, None, (0, 0), 2)
    filled: np.ndarray = padded[1:-1, 1:-1] != 2
    return filled


def colour_numbers(rgb: np.ndarray, bins: tuple[int, int, int]) -> np.ndarray:
    """Pictures (H, W, 3) uint8 RGB -> (H, W) int64: the number of each pixel's colour, among the bins of lightness, green-red
    and blue-yellow [CIELAB].
    """
    import cv2

    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(int)
    numbers = np.zeros(lab.shape[:2], int)
    for channel, (n, (low, high)) in enumerate(zip(bins, LAB_RANGES, strict=True)):
        numbers = numbers * n + np.clip((lab[..., channel] - low) * n // (high - low), 0, n - 1)
    return numbers


def crop_png(image: np.ndarray, mask: np.ndarray, crop_xyxy_px: tuple[int, int, int, int]) -> bytes:
    """The crop of image (H, W, 3) uint8 RGB as RGBA PNG: alpha 255 where mask (H, W) bool, else 0."""
    x1, y1, x2, y2 = crop_xyxy_px
    alpha = np.where(mask[y1:y2, x1:x2], np.uint8(255), np.uint8(0))
    return encode_png(np.dstack([image[y1:y2, x1:x2], alpha]))


def encode_png(pixels: np.ndarray) -> bytes:
    """Pixels (H, W, 3 or 4) uint8 -> PNG, lossless; the same bytes for the same pixels."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=PNG_LEVEL)
    return out.getvalue()
