"""BlazeFace (back camera, 256 x 256) in ONNX Runtime: the best face of a person.

In: an image and a person's box. Out: the face's box, score and landmarks, or None. The detector was trained on pictures in
which a face is not small, so it is shown a square around the upper part of the person, where a head can be, instead of the
whole frame.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stages.backends import FaceDetector
from stages.boxes import iou
from stages.onnx_session import PackagedGraph

INPUT_PX = 256
ANCHORS = ((16, 2), (8, 6))
"""(cells a side, anchors a cell) of the two heads."""
OUTPUTS = ["Identity", "Identity_1", "Identity_2", "Identity_3"]
"""Score logits (1, 512, 1) and (1, 384, 1), regressions (1, 512, 16) and (1, 384, 16) in pixels of the input: a box and six
landmarks."""
EYES_NOSE_MOUTH = (0, 1, 2, 3)
"""Of the landmarks: eye that is left in the picture, right eye, tip of the nose, middle of the mouth; 4 and 5 are the ears."""
SAME_FACE_IOU = 0.4
"""Boxes that overlap more show the same face (method: NMS IoU); their mean is the face."""


class Face(NamedTuple):
    """`box` (4,) xyxy and `points` (6, 2) float32 in pixels of the image, not clipped to it; `score` in [0, 1]."""

    box: np.ndarray
    points: np.ndarray
    score: float


class BlazeFace(PackagedGraph, FaceDetector):
    """The packaged face detector, on the CPU. `option`: the setting that asks for it."""

    def __init__(self, option: str = "faces.backend") -> None:
        super().__init__(option, "blazeface.onnx")

    def detect_face(self, image: np.ndarray, box_xyxy_px: np.ndarray) -> tuple[np.ndarray, float] | None:
        """Image (H, W, 3) uint8 RGB, person's box (4,) -> face box (4,) float32 in image pixels and its score, or None.

        A face whose centre lies outside the person's box is someone else's.
        """
        face = self.find(image, box_xyxy_px, box_xyxy_px)
        if face is None:
            return None
        height, width = image.shape[:2]
        return face.box.clip(0, (width, height, width, height)), face.score

    def find(self, image: np.ndarray, box_xyxy_px: np.ndarray, where: np.ndarray) -> Face | None:
        """The best face of a person's box (4,) whose centre lies in the rectangle `where` (4,), however low its score."""
        if self.session is None:
            raise RuntimeError("BlazeFace.find before setup")
        blob, corner, scale = _square(image, box_xyxy_px)
        boxes, scores, points = decode(self.session.run(OUTPUTS, {"input": blob}))
        boxes = boxes / scale + np.tile(corner, 2)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        own = ((centres >= where[:2]) & (centres <= where[2:])).all(axis=1)
        scores = np.where(own, scores, 0)
        best = int(scores.argmax())
        if scores[best] <= 0:
            return None
        same = (scores > 0.5 * scores[best]) & (iou(boxes[best : best + 1], boxes)[0] > SAME_FACE_IOU)
        box = np.average(boxes[same], axis=0, weights=scores[same])
        landmarks = np.average(points[same], axis=0, weights=scores[same]) / scale + corner
        return Face(box.astype(np.float32), landmarks.astype(np.float32), float(scores[best]))


def _square(image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Network input (1, 256, 256, 3) float32 in [-1, 1]: the square below the person's top, as wide as the box and a margin.

    Also its corner (2,) in image pixels and the scale. What lies outside the image is black.
    """
    import cv2

    width, height = box[2] - box[0], box[3] - box[1]
    side = 1.2 * min(max(width, height * 0.4), max(width, height))
    corner = np.array([(box[0] + box[2] - side) / 2, box[1] - 0.1 * side])
    scale = INPUT_PX / side
    to_input = np.array([[scale, 0, -corner[0] * scale], [0, scale, -corner[1] * scale]], np.float64)
    if scale < 0.5:  # linear interpolation would skip pixels: shrink first
        shrink = 2 * scale
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        to_input[:, :2] /= shrink
    patch = cv2.warpAffine(image, to_input, (INPUT_PX, INPUT_PX), flags=cv2.INTER_LINEAR)
    return (patch.astype(np.float32) / 127.5 - 1)[None], corner, scale


def decode(outputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heads of the network -> boxes (896, 4) xyxy in pixels of the input, scores (896,) in [0, 1], landmarks (896, 6, 2).

    An anchor is the centre of its cell; a regression is the box's centre relative to it, the box's size, and the landmarks
    relative to the anchor, in input pixels.
    """
    centres = []
    for cells, per_cell in ANCHORS:
        y, x = np.divmod(np.repeat(np.arange(cells * cells), per_cell), cells)
        centres.append((np.stack([x, y], axis=1) + 0.5) * (INPUT_PX / cells))
    anchors = np.concatenate(centres)
    regressions = np.concatenate([outputs[2][0], outputs[3][0]])
    middle, half = anchors + regressions[:, :2], regressions[:, 2:4] / 2
    points = anchors[:, None] + regressions[:, 4:].reshape(-1, 6, 2)
    logits = np.concatenate([outputs[0][0], outputs[1][0]])[:, 0].clip(-80, 80)
    return np.concatenate([middle - half, middle + half], axis=1), 1 / (1 + np.exp(-logits)), points
