"""MoveNet in ONNX Runtime: whether the head or a shoulder of a person is seen in a box.

In: pictures and boxes. Out: a score of each. A detector of boxes takes pillars and sheets for people, and what somebody holds
up for somebody; a network that was trained to find joints sees none there. Hips and knees are not asked for: of a reference one
wants to know whom it shows. The weights are MoveNet SinglePose Lightning (192 x 192), from the package that the detector comes
from. Measured in docs/data-quality.md.
"""

from __future__ import annotations

import numpy as np

from stages.backends import PersonVerifier
from stages.onnx_session import PackagedGraph

INPUT_PX = 192
STRIDE = 4
"""Pixels of the input from one cell of the heat maps to the next."""
UPPER_BODY = 7
"""The first of the 17 joints (order of COCO): nose, eyes, ears, shoulders."""
SURROUNDINGS = 0.25
"""Shown around a box, as a share of its longer side."""


class MoveNet(PackagedGraph, PersonVerifier):
    """The packaged pose network, on the CPU whatever the device."""

    def __init__(self) -> None:
        super().__init__("link.people.backend", "movenet.onnx")

    def verify(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[np.ndarray]:
        """See stages.backends.PersonVerifier; the surest of head and shoulders within the box."""
        return [
            np.array([self._upper_body(image, box) for box in own], np.float32)
            for image, own in zip(images, boxes, strict=True)
        ]

    def _upper_body(self, image: np.ndarray, box: np.ndarray) -> float:
        """Best score, in [0, 1], of the upper body's joints in a box (4,) of image (H, W, 3) uint8 RGB."""
        if self.session is None:
            raise RuntimeError("MoveNet.verify before setup")
        blob, inner = letterbox(image, box)
        [maps] = self.session.run(None, {self.session.get_inputs()[0].name: blob})  # (1, 48, 48, 17)
        first, last = np.floor(inner[:2] / STRIDE).astype(int), np.ceil(inner[2:] / STRIDE).astype(int)
        return float(maps[0, first[1] : last[1], first[0] : last[0], :UPPER_BODY].max(initial=0))


def letterbox(image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A box (4,) of image (H, W, 3) uint8 RGB with its surroundings -> network input (1, 192, 192, 3) float32 in [-1, 1], black
    where it is longer than the crop, and where the box is in it (4,), within it."""
    import cv2

    height, width = image.shape[:2]
    margin = SURROUNDINGS * float((box[2:] - box[:2]).max())
    left, top = np.floor(box[:2] - margin).clip(0, (width - 1, height - 1)).astype(int)
    right, bottom = np.ceil(box[2:] + margin).clip((left + 1, top + 1), (width, height)).astype(int)
    crop = image[top:bottom, left:right]
    scale = INPUT_PX / max(crop.shape[:2])
    size = max(1, round(crop.shape[1] * scale)), max(1, round(crop.shape[0] * scale))
    x, y = (INPUT_PX - size[0]) // 2, (INPUT_PX - size[1]) // 2
    canvas = np.full((INPUT_PX, INPUT_PX, 3), -1, np.float32)
    small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas[y : y + size[1], x : x + size[0]] = small / np.float32(127.5) - 1
    inner: np.ndarray = ((box - (left, top, left, top)) * scale + (x, y, x, y)).clip(0, INPUT_PX)
    return canvas[None], inner
