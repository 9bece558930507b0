"""GrabCut's masks, started at what a small U2-Net (U2-Netp, arXiv 2005.09007) sees, where that fits the box better.

In: an image and boxes. Out: masks in full resolution and a quality score. The network knows what stands out of a picture,
whatever it is, but not which box is meant: of two things in a crop it may take the other one, or both, or see nothing. So
GrabCut starts once without the network, and again at what it sees unless the first mask's extent fits the box already; the mask
stays that fits better, because the box comes from a detector, which knows the thing. Measured in docs/data-quality.md, "Masks".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from materia.base.weights.files import Missing, Weights, identity_of, local_path, packaged, weights_missing
from stages.backends import Masks, Segmenter
from stages.boxes import iou
from stages.images import mask_extent
from stages.records import Box
from stages.segment.grabcut import GrabCut, as_likely, cut_out

if TYPE_CHECKING:
    import onnxruntime

INPUT_PX = 224
"""Side of the square that the network is shown; at 320, for which it was trained, masks are as good and take twice the time."""
MEAN, STD = np.array((0.485, 0.456, 0.406), np.float32), np.array((0.229, 0.224, 0.225), np.float32)
"""Of ImageNet's colours: what the network's input is normalised by."""
MARGIN = 0.05
"""Surroundings shown to it, as a share of the box's longer side: with more of them it finds more that is not meant."""
WORK_PX = 256
"""Longer side of the crop on which GrabCut works, which has surroundings of its own."""
FITS = 0.9
"""IoU of a mask's extent and its box from which on the network is not asked: a quarter of masks, and it would change few."""


class U2Netp(Segmenter):
    """Box to mask, on the CPU; deterministic."""

    def __init__(self) -> None:
        self.grabcut = GrabCut()
        self.file = packaged("segment.backend", "u2netp.onnx")
        self.session: onnxruntime.InferenceSession | None = None

    def weights(self) -> list[Weights]:
        """The network's, and those of GrabCut's person network."""
        return [self.file, *self.grabcut.weights()]

    def missing(self) -> list[Missing]:
        """What is wrong with the weights."""
        return weights_missing(self.file) + self.grabcut.missing()

    def identity(self) -> dict[str, str]:
        """SHA-256 of the weights."""
        return {"weights": identity_of(self.file.address), **self.grabcut.identity()}

    def setup(self, device: str, threads: int) -> None:
        """Load the networks; they run on the CPU whatever `device` says."""
        from stages.onnx_session import open_session

        self.grabcut.setup(device, threads)
        self.session = open_session(local_path(self.file.address), threads)

    def close(self) -> None:
        """Drop the networks."""
        self.session = None
        self.grabcut.close()

    def segment(self, images: list[np.ndarray], boxes: list[list[Box]]) -> list[Masks]:
        """Images (H, W, 3) uint8 RGB and the boxes of each -> masks of each; score 0: no mask."""
        if self.session is None:
            raise RuntimeError("U2Netp.segment before setup")
        found = self.grabcut.segment(images, boxes)
        for image, wanted, masks in zip(images, boxes, found, strict=True):
            for k, box in enumerate(wanted):
                corners = np.array(box.box_xyxy_px, float)
                if (fit := _fit(masks.masks[k], corners)) >= FITS:
                    continue
                mask = np.zeros(image.shape[:2], bool)
                score = cut_out(image, corners, WORK_PX, self._as_seen, mask)
                if _fit(mask, corners) > fit:
                    masks.masks[k], masks.scores[k] = mask, score
        return found

    def _as_seen(self, small: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """GrabCut's answer from what the network sees in a box (4,) of a crop, and that itself, (h, w) bool; None: nothing."""
        height, width = small.shape[:2]
        margin = MARGIN * max(box[2] - box[0], box[3] - box[1])
        left, top = np.floor(np.maximum(box[:2] - margin, 0)).astype(int).tolist()
        right, bottom = np.ceil(np.minimum(box[2:] + margin, (width, height))).astype(int).tolist()
        seen = np.zeros((height, width), np.float32)
        seen[top:bottom, left:right] = self._map(small[top:bottom, left:right])
        return as_likely(small, box, seen)

    def _map(self, crop: np.ndarray) -> np.ndarray:
        """Crop (h, w, 3) uint8 RGB -> how much each pixel stands out, (h, w) float32 in [0, 1]; shown stretched to a square."""
        import cv2

        assert self.session is not None
        square = cv2.resize(crop, (INPUT_PX, INPUT_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
        normal = (square / max(1.0, float(square.max())) - MEAN) / STD  # by its own maximum, as in training
        [found] = self.session.run(None, {"input.1": normal.transpose(2, 0, 1)[None]})
        standing_out: np.ndarray = cv2.resize(found[0, 0], crop.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return standing_out


def _fit(mask: np.ndarray, box: np.ndarray) -> float:
    """IoU of a mask's extent and a box (4,); 0 for an empty mask."""
    return float(iou(mask_extent(mask)[None], box[None])[0, 0]) if mask.any() else 0.0
