"""YOLO face detectors (YOLOv8-face, YOLOv9-face) as ONNX graphs in ONNX Runtime: the best face of a person.

In: an image and a person's box. Out: the face's box and score, or None. An ONNX export and not the `.pt` file, because that
is a pickle of its authors' classes. The network is shown the person with a margin, not the frame: it sees small faces larger.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from materia.base.weights.files import Missing, Weights, check_address, local_path, packages_missing, sha256_of, weights_missing
from stages.backends import FaceDetector
from stages.boxes import iou
from stages.notices import notice

if TYPE_CHECKING:
    import onnxruntime

OPTION = "faces.options.checkpoint"
CHANNELS = (5, 20)
"""Numbers of a candidate: centre x, y, width, height in pixels of the input, score in [0, 1]; with five landmarks of x, y and
visibility behind them, which are not used."""
USUAL_PX = 640
"""Side of the input where a graph leaves it open: what these detectors were trained at."""
GREY = 114
"""Of the letterbox's margins, as in training."""
MARGIN = 0.1
"""Surroundings shown of a person, as a share of the box's sides: a tight box cuts hair and chin."""
FLOOR = 0.05
"""Candidates below this score are noise whatever the threshold."""


class YoloFace(FaceDetector):
    """A face detector of the YOLO family.

    `checkpoint`: address of the ONNX file (materia.base.weights), `sha256` (hex) of it. Its input must be (1, 3, H, W) RGB in
    [0, 1], its first output (1, 5 or 20, N) or (1, N, 5 or 20), see CHANNELS. `input_px`: side of the square input, for a graph
    that leaves it open (None: 640). `iou`: candidates that overlap more show the same face (method: NMS IoU 0.4).
    """

    option_examples: ClassVar[dict[str, str]] = {"checkpoint": "/models/yolov8n-face.onnx"}

    def __init__(self, checkpoint: str, sha256: str | None = None, input_px: int | None = None, iou: float = 0.4) -> None:
        if input_px is not None and (not isinstance(input_px, int) or input_px < 32 or input_px % 32):
            raise ValueError(f"input_px {input_px!r} is no multiple of 32")
        if not 0 < iou <= 1:
            raise ValueError(f"iou {iou!r} is not in (0, 1]")
        check_address(checkpoint)
        self.checkpoint = Weights(OPTION, checkpoint, sha256)
        self.input_px = input_px
        self.iou = iou
        self.graph: Graph | None = None

    def weights(self) -> list[Weights]:
        """The ONNX file."""
        return [self.checkpoint]

    def missing(self) -> list[Missing]:
        """ONNX Runtime; the file, if it is not here, has another hash or is no such graph: it is run once, on black."""
        lacking = packages_missing("onnxruntime", fix="make gpu")
        lacking += weights_missing(self.checkpoint)
        if lacking:
            return lacking
        path = local_path(self.checkpoint.address)
        try:
            graph = open_graph(path, "cpu", 1, self.input_px)
            graph.candidates(np.zeros((*graph.size, 3), np.uint8))
        except Exception as error:  # ONNX Runtime tells of a bad graph in many ways
            reason = str(error).strip().partition("\n")[0][:200]
            expected = f"expected an ONNX export of a YOLOv8 or YOLOv9 face detector: {reason}"
            return [Missing(f"{OPTION}: {path} cannot be used; {expected}", "give such an export, or fetch it again")]
        return []

    def identity(self) -> dict[str, str]:
        """SHA-256 of the ONNX file."""
        return {"weights": sha256_of(local_path(self.checkpoint.address))}

    def setup(self, device: str, threads: int) -> None:
        """Load the graph on `device`; where ONNX Runtime has no CUDA it runs on the CPU, which is said."""
        self.graph = open_graph(local_path(self.checkpoint.address), device, threads, self.input_px)
        if device != "cpu" and self.graph.session.get_providers()[0] == "CPUExecutionProvider":
            notice(f"faces.device is {device}, but this ONNX Runtime has no CUDA: faces are detected on the CPU")

    def close(self) -> None:
        """Drop the graph."""
        self.graph = None

    def detect_face(self, image: np.ndarray, box_xyxy_px: np.ndarray) -> tuple[np.ndarray, float] | None:
        """Image (H, W, 3) uint8 RGB, person's box (4,) -> face box (4,) float32 in image pixels and its score, or None.

        A face whose centre lies outside the person's box is someone else's.
        """
        if self.graph is None:
            raise RuntimeError("YoloFace.detect_face before setup")
        height, width = image.shape[:2]
        x1, y1, x2, y2 = _with_margin(box_xyxy_px, height, width)
        if x2 <= x1 or y2 <= y1:
            return None
        picture, scale, corner = letterbox(image[y1:y2, x1:x2], self.graph.size)
        boxes, scores = self.graph.candidates(picture)
        boxes = (boxes - np.tile(corner, 2)) / np.tile(scale, 2) + np.array([x1, y1, x1, y1])
        best = best_inside(boxes, scores, box_xyxy_px, self.iou)
        if best is None:
            return None
        return boxes[best].clip(0, (width, height, width, height)).astype(np.float32), float(scores[best])


class Graph(NamedTuple):
    """An open graph, its input's name and number type, and the (height, width) of the pictures that it takes."""

    session: onnxruntime.InferenceSession
    name: str
    dtype: type[np.floating[Any]]
    size: tuple[int, int]

    def candidates(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Picture (h, w, 3) uint8 RGB of the input's size -> boxes (N, 4) xyxy in its pixels, scores (N,), above FLOOR."""
        blob = (picture.transpose(2, 0, 1)[None].astype(np.float32) / 255).astype(self.dtype)
        boxes, scores = decode(self.session.run(None, {self.name: np.ascontiguousarray(blob)})[0])
        usable = (scores > FLOOR) & np.isfinite(boxes).all(axis=1)
        return boxes[usable], scores[usable].clip(max=1)


def open_graph(path: Path, device: str, threads: int, input_px: int | None) -> Graph:
    """Load an ONNX file. Raises ValueError for an input that is no picture, or not of `input_px`; ONNX Runtime's own errors."""
    from stages.onnx_session import open_session

    session = open_session(path, threads, device)
    first = session.get_inputs()[0]
    shape = first.shape
    if len(shape) != 4 or shape[1] != 3:
        raise ValueError(f"the input {first.name!r} is {shape}, expected (1, 3, height, width)")
    fixed = [side for side in shape[2:] if isinstance(side, int)]
    if input_px is not None and any(side != input_px for side in fixed):
        raise ValueError(f"the input is {shape}, and faces.options.input_px {input_px}")
    height, width = (side if isinstance(side, int) else input_px or USUAL_PX for side in shape[2:])
    return Graph(session, first.name, np.float16 if first.type == "tensor(float16)" else np.float32, (height, width))


def decode(output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Output (1, C, N) or (1, N, C) with C of CHANNELS -> boxes (N, 4) float64 xyxy, scores (N,). ValueError for others."""
    if output.ndim != 3 or output.shape[0] != 1 or not set(output.shape[1:]) & set(CHANNELS):
        raise ValueError(f"the first output is {output.shape}, expected (1, {' or '.join(map(str, CHANNELS))}, candidates)")
    rows = (output[0].T if output.shape[1] in CHANNELS else output[0]).astype(np.float64)
    centre, half = rows[:, :2], rows[:, 2:4] / 2
    return np.concatenate([centre - half, centre + half], axis=1), rows[:, 4]


def letterbox(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (H, W, 3) uint8 -> the same in the middle of a grey (h, w, 3) of `size`; its scale and corner (x, y) there."""
    import cv2

    limits, sides = np.array(size[::-1]), np.array(image.shape[1::-1])
    ratio = (limits / sides).min()
    inner = np.maximum(1, np.round(sides * ratio)).astype(int)
    corner = (limits - inner) // 2
    canvas = np.full((*size, 3), GREY, np.uint8)
    small = cv2.resize(image, inner.tolist(), interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)
    canvas[corner[1] : corner[1] + inner[1], corner[0] : corner[0] + inner[0]] = small
    return canvas, inner / sides, corner


def best_inside(boxes: np.ndarray, scores: np.ndarray, person: np.ndarray, max_iou: float) -> int | None:
    """Index of the best face of those whose centre lies in the person's box (4,), after non-maximum suppression of all.

    All, because the weaker boxes of a neighbour's face may have their centre in this person's box.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    own = ((centres >= person[:2]) & (centres <= person[2:])).all(axis=1)
    left = np.argsort(-scores, kind="stable")
    while len(left):
        best = left[0]
        if own[best]:
            return int(best)
        left = left[1:][iou(boxes[best : best + 1], boxes[left[1:]])[0] <= max_iou]
    return None


def _with_margin(box: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """Box (4,) grown by MARGIN on each side, in whole pixels of the picture."""
    margin = MARGIN * np.tile(box[2:] - box[:2], 2) * (-1, -1, 1, 1)
    x1, y1, x2, y2 = (np.asarray(box, np.float64) + margin).clip(0, (width, height, width, height))
    return int(np.floor(x1)), int(np.floor(y1)), int(np.ceil(x2)), int(np.ceil(y2))
