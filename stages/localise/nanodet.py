"""NanoDet in ONNX Runtime: boxes of the 80 COCO classes, offered to the words that they show.

In: images and their words. Out: candidate boxes and, for each word, how well they show it: the score of the word's best class
(vocabulary.py). Words with a class in common ("man", "girl") would all claim one box; `share_out` gives them distinct ones.
The letterboxed picture is run once: a second, mirrored look found few words more (1-5 in 100) at twice the time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from materia.base.weights.files import sha256_of
from stages.backends import Detections, Detector
from stages.boxes import iou
from stages.localise.vocabulary import TABLE, classes_of
from stages.onnx_session import PackagedGraph
from stages.records import EntityWord

Look = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""An image -> boxes and class scores of all anchors."""
INPUT_PX = 416
STRIDES = (8, 16, 32)
BINS = 11
"""A box side's distance from its anchor is a distribution over 0..10 strides."""
BGR_MEAN = np.array([103.53, 116.28, 123.675], np.float32)
BGR_STD = np.array([57.375, 57.12, 58.395], np.float32)
OUTPUTS = ["Identity", "Identity_1", "Identity_2", "Identity_3", "Identity_4", "Identity_5"]
"""Scores (1, n, 80), already sigmoid, at the three strides; box bins (1, n, 44) at the three strides."""

FLOOR = 0.05
"""Boxes below this score are noise whatever the threshold."""
SAME_BOX_IOU = 0.5
"""Boxes that overlap more show the same thing."""
MAX_BOXES = 20
"""Most candidates for one set of classes."""


class NanoDet(PackagedGraph, Detector):
    """The packaged object detector, 416 x 416, on the CPU."""

    def __init__(self) -> None:
        super().__init__("localise.backend", "nanodet.onnx")

    def identity(self) -> dict[str, str]:
        """SHA-256 of the weights and of the word-to-class table."""
        return {**super().identity(), "words": sha256_of(TABLE)}

    def detect(self, images: list[np.ndarray], words: list[list[EntityWord]]) -> list[Detections]:
        """Find the words of each image (H, W, 3) uint8 RGB: all candidates, distinct per class set, scores (N, W).

        The network looks once at an image that comes again for other words, as the same object.
        """
        looks: dict[int, tuple[np.ndarray, np.ndarray]] = {}

        def look(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if id(image) not in looks:
                looks[id(image)] = self._run(image)
            return looks[id(image)]

        return [self._detect(image, wanted, look) for image, wanted in zip(images, words, strict=True)]

    def _detect(self, image: np.ndarray, words: list[EntityWord], look: Look) -> Detections:
        classes = [classes_of(word.word, word.category) for word in words]
        if not any(classes):
            return Detections(np.zeros((0, 4), np.float32), np.zeros((0, len(words)), np.float32))
        boxes, class_scores = look(image)
        candidates = [distinct(boxes, class_scores[:, group].max(axis=1)) for group in dict.fromkeys(c for c in classes if c)]
        anchors = np.concatenate([anchors for anchors, _ in candidates])
        scores = np.zeros((len(anchors), len(words)), np.float32)
        for column, group in enumerate(classes):
            if group:
                scores[:, column] = class_scores[anchors][:, group].max(axis=1)
        boxes = np.concatenate([fused for _, fused in candidates])
        return Detections(boxes, share_out(boxes, scores, classes), scores)

    def _run(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All 3549 anchors: boxes (3549, 4) float32 in pixels, clipped to the image, and class scores (3549, 80)."""
        if self.session is None:
            raise RuntimeError("NanoDet.detect before setup")
        blob, scale, left, top = letterbox(image)
        outputs = self.session.run(OUTPUTS, {"input_1": blob})
        boxes = np.concatenate([decode_boxes(bins[0], stride) for bins, stride in zip(outputs[3:], STRIDES, strict=True)])
        height, width = image.shape[:2]
        boxes = (boxes - np.array([left, top, left, top], np.float32)) / scale
        boxes = boxes.clip(0, np.array([width, height, width, height], np.float32))
        return boxes, np.concatenate([scores[0] for scores in outputs[:3]])


def letterbox(image: np.ndarray) -> tuple[np.ndarray, float, int, int]:
    """Image (H, W, 3) uint8 RGB -> network input (1, 3, 416, 416) float32, scale, left and top margin."""
    import cv2

    height, width = image.shape[:2]
    scale = INPUT_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    left, top = (INPUT_PX - size[0]) // 2, (INPUT_PX - size[1]) // 2
    canvas = np.zeros((INPUT_PX, INPUT_PX, 3), np.float32)  # grey: the mean colour after normalisation
    canvas[top : top + size[1], left : left + size[0]] = (small[..., ::-1] - BGR_MEAN) / BGR_STD
    return np.ascontiguousarray(canvas.transpose(2, 0, 1)[None]), scale, left, top


def decode_boxes(bins: np.ndarray, stride: int) -> np.ndarray:
    """Logits (n, 44) of one stride's n = side^2 anchors -> boxes (n, 4) float32 xyxy in pixels of the network's input.

    Each side's distance from the anchor's centre is the expectation over its bins (Generalized Focal Loss, arXiv 2006.04388).
    """
    logits = bins.reshape(-1, 4, BINS)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    distance = (weights @ np.arange(BINS, dtype=np.float32)) / weights.sum(axis=-1) * stride  # (n, 4): left, top, right, bottom
    rows, columns = np.divmod(np.arange(len(bins), dtype=np.float32), INPUT_PX // stride)
    x, y = (columns + 0.5) * stride, (rows + 0.5) * stride
    return np.stack([x - distance[:, 0], y - distance[:, 1], x + distance[:, 2], y + distance[:, 3]], axis=1).astype(np.float32)


def share_out(boxes: np.ndarray, scores: np.ndarray, classes: list[tuple[int, ...]]) -> np.ndarray:
    """Give distinct boxes to words that the same classes show [ours].

    Best pair of word and box first, ties to the earlier word: the word keeps the box, and for the words that share a class
    with it the box and all that overlap it are taken (their score becomes 0). `boxes` (N, 4), `scores` (N, W) -> scores (N, W).
    """
    scores = scores.copy()
    overlaps = (iou(boxes, boxes) > SAME_BOX_IOU) | np.eye(len(boxes), dtype=bool)
    open_words = [word for word, group in enumerate(classes) if group]
    while open_words and len(boxes):
        best = scores[:, open_words].max(axis=0)
        word = open_words.pop(int(best.argmax()))
        box = int(scores[:, word].argmax())
        if scores[box, word] > 0:
            for rival, group in enumerate(classes):
                if rival != word and set(group) & set(classes[word]):
                    scores[overlaps[box] if rival in open_words else box, rival] = 0
    return scores


def distinct(boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Non-maximum suppression with the survivors' boxes fused.

    `boxes` (N, 4), `scores` (N,) -> indices of the best boxes that do not overlap, best first (K,), ties by index; and their
    boxes (K, 4) float32, each the mean of itself and those that it suppressed, weighted by squared score (after weighted boxes
    fusion, arXiv 1910.13302).
    """
    order = np.flatnonzero(scores > FLOOR)
    order = order[np.argsort(-scores[order], kind="stable")]
    kept: list[int] = []
    fused: list[np.ndarray] = []
    while len(order) and len(kept) < MAX_BOXES:
        same = iou(boxes[order[:1]], boxes[order])[0] > SAME_BOX_IOU
        same[0] = True  # a box without area does not even overlap itself
        kept.append(int(order[0]))
        fused.append(np.average(boxes[order[same]], axis=0, weights=scores[order[same]] ** 2))
        order = order[~same]
    return np.array(kept, np.int64), np.array(fused, np.float32).reshape(-1, 4)
