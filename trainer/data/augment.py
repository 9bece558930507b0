"""Augmentation of reference images [paper A.3, method table] against copying: the model must learn who is shown, not pixels.

In: RGBA crops and a random generator. Out: changed crops, and references on white squares. What the paper leaves open is ours:
the operations run in the table's order, each range is that of the picture as the operation finds it, jitter is of the hue,
kernels are odd, empty corners are transparent (white in the end). Every reference is augmented independently.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

MIN_SIDE_PX = 112
"""The downscaled reference's longer side is at least this."""
BLUR_SHARE = 1 / 50
"""Largest blur kernel, as a share of the longer side."""
HUE, BRIGHTNESS, SHEAR, ROTATION_DEG, CROP = 0.05, 0.1, 0.05, 20.0, 0.67
"""Hue: share of the circle; brightness: 1 +- this; shear: share of the side; least crop: share of each side."""


@dataclass(frozen=True)
class Augmentation:
    """What is done to one reference, in this order."""

    scale: float  # downscaling of both sides, in (0, 1]
    blur_px: int  # odd kernel of a Gaussian; 1: none
    hue: float  # turn of the hue, share of the circle
    brightness: float  # factor
    flip: bool  # mirrored left to right
    shear_x_px: float  # the bottom moves right by this
    shear_y_px: float  # the right side moves down by this
    rotation_deg: float  # counter-clockwise, about the middle
    crop: float  # side of the crop, share of each side
    crop_at: tuple[float, float]  # its place: share of the free space to the left and above


def draw(rng: np.random.Generator, height: int, width: int) -> Augmentation:
    """An augmentation for a reference of `height` x `width` pixels, by the method's table."""
    scale = rng.uniform(min(1.0, MIN_SIDE_PX / max(height, width)), 1.0)
    h, w = _scaled(height, width, scale)
    return Augmentation(
        scale=scale,
        blur_px=_odd(rng.uniform(1, max(1.0, max(h, w) * BLUR_SHARE))),
        hue=rng.uniform(-HUE, HUE),
        brightness=rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS),
        flip=bool(rng.random() < 0.5),
        shear_x_px=rng.uniform(-SHEAR, SHEAR) * w,
        shear_y_px=rng.uniform(-SHEAR, SHEAR) * h,
        rotation_deg=rng.uniform(-ROTATION_DEG, ROTATION_DEG),
        crop=rng.uniform(CROP, 1.0),
        crop_at=(rng.random(), rng.random()),
    )


def apply(rgba: np.ndarray, change: Augmentation) -> np.ndarray:
    """Reference (H, W, 4) uint8 RGBA -> changed reference (h, w, 4) uint8 RGBA."""
    h, w = _scaled(rgba.shape[0], rgba.shape[1], change.scale)
    colour = _recolour(rgba[..., :3], change.hue, change.brightness)
    alpha = rgba[..., 3:].astype(np.float32) / 255
    picture = np.concatenate([colour * alpha, alpha], axis=2)  # premultiplied, so that nothing outside the mask bleeds in
    if (h, w) != rgba.shape[:2]:
        picture = cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA)
    if change.blur_px > 1:
        picture = cv2.GaussianBlur(picture, (change.blur_px, change.blur_px), 0, borderType=cv2.BORDER_REPLICATE)
    if change.flip:
        picture = picture[:, ::-1]
    picture = cv2.warpAffine(np.ascontiguousarray(picture), _affine(change, h, w), (w, h), flags=cv2.INTER_LINEAR)
    picture = _crop(picture, change.crop, change.crop_at)
    alpha = picture[..., 3:]
    colour = np.divide(picture[..., :3], alpha, out=np.zeros_like(picture[..., :3]), where=alpha > 0)
    changed: np.ndarray = np.concatenate([colour, alpha * 255], axis=2).round().clip(0, 255).astype(np.uint8)
    return changed


def on_white_square(rgba: np.ndarray, side_px: int) -> np.ndarray:
    """Reference (H, W, 4) uint8 RGBA -> (side_px, side_px, 3) uint8 RGB: on white, padded to a square, resized."""
    h, w = rgba.shape[:2]
    side = max(h, w)
    alpha = rgba[..., 3:].astype(np.float32) / 255
    square: np.ndarray = np.full((side, side, 3), 255, np.float32)
    top, left = (side - h) // 2, (side - w) // 2
    square[top : top + h, left : left + w] = rgba[..., :3] * alpha + 255 * (1 - alpha)
    resized: np.ndarray = cv2.resize(
        square, (side_px, side_px), interpolation=cv2.INTER_AREA if side > side_px else cv2.INTER_LINEAR
    )
    return resized.round().clip(0, 255).astype(np.uint8)


def _scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    return max(1, round(height * scale)), max(1, round(width * scale))


def _odd(value: float) -> int:
    """The largest odd number that is not above `value` >= 1."""
    return 2 * int((value + 1) // 2) - 1


def _recolour(rgb: np.ndarray, hue: float, brightness: float) -> np.ndarray:
    """Colours (H, W, 3) uint8 -> float32 in [0, 255], with the hue turned and the brightness scaled."""
    hsv = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)  # hue in degrees
    hsv[..., 0] = (hsv[..., 0] + 360 * hue) % 360
    turned: np.ndarray = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * (255 * brightness)
    return turned.clip(0, 255)


def _affine(change: Augmentation, height: int, width: int) -> np.ndarray:
    """Shear in x, then in y, then rotation, about the middle of the picture: (2, 3), as cv2.warpAffine takes it."""
    x, y = (width - 1) / 2, (height - 1) / 2
    shear_x = np.array([[1, change.shear_x_px / height, 0], [0, 1, 0], [0, 0, 1]])
    shear_y = np.array([[1, 0, 0], [change.shear_y_px / width, 1, 0], [0, 0, 1]])
    centre, back = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]]), np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])
    turn = np.vstack([cv2.getRotationMatrix2D((0, 0), change.rotation_deg, 1.0), [0, 0, 1]])
    matrix: np.ndarray = back @ turn @ shear_y @ shear_x @ centre
    return matrix[:2]


def _crop(picture: np.ndarray, share: float, at: tuple[float, float]) -> np.ndarray:
    h, w = _scaled(picture.shape[0], picture.shape[1], share)
    left, top = round(at[0] * (picture.shape[1] - w)), round(at[1] * (picture.shape[0] - h))
    return picture[top : top + h, left : left + w]
