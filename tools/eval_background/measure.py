"""How near a picture is to the truth, within a mask.

In: pictures (H, W, 3) uint8 RGB and masks (H, W) bool. Out: numbers.
"""

from __future__ import annotations

import cv2
import numpy as np

SSIM_SIGMA = 1.5
"""Of the Gaussian window of SSIM, 11 x 11 pixels (Wang et al., Image Quality Assessment, 2004)."""
SEAM_PX = 4
"""So near to a hole's edge, within and without, sharpness is not looked at: the edge itself is sharp."""
RING_PX = 32
"""Surroundings of a hole with which its sharpness is compared."""
MAX_PSNR_DB = 99.0
"""Of pictures that do not differ."""


def psnr(picture: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Peak signal-to-noise ratio within the mask, dB, at most MAX_PSNR_DB; NaN for an empty mask."""
    if not mask.any():
        return float("nan")
    error = float(np.mean((picture[mask].astype(float) - truth[mask]) ** 2))
    return min(MAX_PSNR_DB, 10 * float(np.log10(255**2 / max(error, 1e-9))))


def ssim(picture: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Structural similarity of the luminance, mean over windows whose middle lies within the mask; 1: the same."""
    from skimage.metrics import structural_similarity

    grey = [cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) for pixels in (picture, truth)]
    _, each = structural_similarity(
        *grey, full=True, gaussian_weights=True, sigma=SSIM_SIGMA, use_sample_covariance=False, data_range=255
    )
    return float(each[mask].mean())


def relative_sharpness(picture: np.ndarray, hole: np.ndarray, filled: np.ndarray) -> float | None:
    """Variance of the Laplacian within `hole` / in a ring around `filled`; None where one of them is too small to tell.

    Both are (H, W) bool; `filled` is what is not the camera's own picture, and may be more than the hole.
    """
    laplacian = cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_64F)
    inside = ~_grown(~hole, SEAM_PX)
    near = hole | filled
    ring = _grown(near, RING_PX) & ~_grown(near, SEAM_PX)
    if min(inside.sum(), ring.sum()) < 100 or not (around := float(laplacian[ring].var())):
        return None
    return float(laplacian[inside].var()) / around


def _grown(mask: np.ndarray, by_px: int) -> np.ndarray:
    side = 2 * by_px + 1
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0)
