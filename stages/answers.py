"""Asking backends, and whether what they answer is what their protocol promises (stages/backends.py).

In: a backend, its name for messages ("localise.backend nanodet"), and what its method takes. Out: what the method gives, or
`BadAnswer` with a sentence that says what it gave and what was wanted. The checks cost nothing beside a model: boxes and scores
are looked at, of masks and pictures the shape and dtype alone. A stage asks within `each_alone`, so that a bad answer costs the
clips that it was for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from materia.base.terminal import plural
from stages.backends import (
    CutSearcher,
    Detections,
    Detector,
    FaceDetector,
    FaceRecogniser,
    Generation,
    Inpainter,
    LanguageModel,
    Masks,
    PersonVerifier,
    Recogniser,
    Segmenter,
    ShotChanges,
)
from stages.records import Box, EntityWord, Row, Sample, StageName, reject

SCORE_ROUNDING = 1e-4
"""By how much a score may leave [0, 1] and a box the picture (in pixels): less than what records keep (stages/records.py)."""
BOX_ROUNDING_PX = 1e-2
LENGTH_ROUNDING = 1e-2
"""By how much a vector's length may differ from 1: half precision leaves so much."""


class BadAnswer(RuntimeError):
    """An answer that is not what the backend's protocol promises; the message names backend and method, and is the same in
    every run."""


def each_alone(stage: StageName, samples: list[Sample], process: Callable[[list[Sample]], list[Row]]) -> list[Row]:
    """`process(samples)`, one row each. After a BadAnswer each sample goes alone, and those that get one again are rejected as
    `internal_error`: which rows that are, and what they say, does not depend on what shared their batch."""
    try:
        return process(samples)
    except BadAnswer as bad:
        if len(samples) == 1:
            return [reject(samples[0], stage, "internal_error", str(bad))]
        return [row for sample in samples for row in each_alone(stage, [sample], process)]


def generate(model: LanguageModel, name: str, requests: list[Generation]) -> list[str | Exception]:
    """The model's answers, in order; one that is neither text nor an exception becomes a BadAnswer in its place.

    Raises BadAnswer unless there are as many as requests, and what the model raises.
    """
    gave = f"{name}: generate gave "
    answers = _as_many(model.generate(requests), len(requests), "requests", gave)
    return [
        answer if isinstance(answer, str | Exception) else BadAnswer(f"{gave}{_told(answer)}; want text or an exception")
        for answer in answers
    ]


def search(searcher: CutSearcher, name: str, times_s: np.ndarray, pictures: np.ndarray) -> ShotChanges:
    """The changes at each of N pictures (N, h, w, 3) uint8 RGB shown at `times_s` (N,): (N,) in [0, 1]. Raises BadAnswer."""
    gave = f"{name}: search gave "
    found = searcher.search(times_s, pictures)
    _is(found, ShotChanges, gave, "a clip")
    n = len(pictures)
    for what in ("cuts", "dissolves"):
        scores = getattr(found, what)
        _check_array(scores, what, np.floating, (n,), f"({n},) float for {plural(n, 'picture')}", gave)
        _check_scores(scores, gave)
    return found


def detect(detector: Detector, name: str, images: list[np.ndarray], words: list[list[EntityWord]]) -> list[Detections]:
    """Detections of each image (H, W, 3) uint8 RGB: boxes (N, 4) within it, scores (N, W) in [0, 1]. Raises BadAnswer."""
    gave = f"{name}: detect gave "
    answers = _as_many(detector.detect(images, words), len(images), "images", gave)
    for found, image, wanted in zip(answers, images, words, strict=True):
        _is(found, Detections, gave)
        _check_array(found.boxes_xyxy_px, "boxes_xyxy_px", np.floating, (None, 4), "(n, 4) float", gave)
        _check_boxes(found.boxes_xyxy_px, image, gave)
        n, w = len(found.boxes_xyxy_px), len(wanted)
        _check_array(
            found.scores,
            "scores",
            np.floating,
            (n, w),
            f"({n}, {w}) float for {plural(n, 'box', 'boxes')} and {plural(w, 'word')}",
            gave,
        )
        _check_scores(found.scores, gave)
        if found.unshared is not None:
            _check_array(found.unshared, "unshared scores", np.floating, (n, w), f"({n}, {w}) float as the scores", gave)
            _check_scores(found.unshared, gave)
    return answers


def describe(recogniser: Recogniser, name: str, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[np.ndarray]:
    """Descriptions (N, D) float32 of the N boxes of each image (H, W, 3) uint8 RGB, D the same for all. Raises BadAnswer."""
    gave = f"{name}: describe gave "
    answers = _as_many(recogniser.describe(images, boxes), len(images), "images", gave)
    for found, own in zip(answers, boxes, strict=True):
        n = len(own)
        _check_array(found, "descriptions", np.floating, (n, None), f"({n}, d) float for {plural(n, 'box', 'boxes')}", gave)
        if not np.isfinite(found).all():
            raise BadAnswer(f"{gave}descriptions with numbers that are not finite")
    lengths = sorted({found.shape[1] for found in answers if len(found)})
    if len(lengths) > 1:
        raise BadAnswer(f"{gave}descriptions of {' and '.join(map(str, lengths))} numbers; want as many for every box")
    return [found if len(found) else np.zeros((0, lengths[0] if lengths else 0), np.float32) for found in answers]


def recognise(recogniser: FaceRecogniser, name: str, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[np.ndarray]:
    """Embeddings (N, D) float32 of the faces in the N boxes of each image (H, W, 3) uint8 RGB, D the same for all and 1 at
    least; NaN where no face is seen. Raises BadAnswer."""
    gave = f"{name}: recognise gave "
    answers = _as_many(recogniser.recognise(images, boxes), len(images), "images", gave)
    answers = [_as_many(found, len(own), "boxes", gave) for found, own in zip(answers, boxes, strict=True)]
    for face in (face for found in answers for face in found if face is not None):
        _check_array(face, "a face", np.floating, (None,), "(d,) float or None", gave)
        if not abs(length := float(np.linalg.norm(face)) - 1) <= LENGTH_ROUNDING:
            raise BadAnswer(f"{gave}a face of length {length + 1:g}; want 1")
    lengths = sorted({len(face) for found in answers for face in found if face is not None})
    if len(lengths) > 1:
        raise BadAnswer(f"{gave}faces of {' and '.join(map(str, lengths))} numbers; want as many for every face")
    none = np.full(lengths[0] if lengths else 1, np.nan, np.float32)
    return [
        np.array([none if face is None else face for face in found], np.float32).reshape(-1, len(none)) for found in answers
    ]


def verify(verifier: PersonVerifier, name: str, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[np.ndarray]:
    """How surely the N boxes of each image (H, W, 3) uint8 RGB show a person, (N,) float in [0, 1]. Raises BadAnswer."""
    gave = f"{name}: verify gave "
    answers = _as_many(verifier.verify(images, boxes), len(images), "images", gave)
    for found, own in zip(answers, boxes, strict=True):
        n = len(own)
        _check_array(found, "scores", np.floating, (n,), f"({n},) float for {plural(n, 'box', 'boxes')}", gave)
        _check_scores(found, gave)
    return answers


def segment(segmenter: Segmenter, name: str, images: list[np.ndarray], boxes: list[list[Box]]) -> list[Masks]:
    """Masks (K, H, W) bool and scores (K,) in [0, 1] of the K boxes of each image (H, W, 3) uint8 RGB. Raises BadAnswer."""
    gave = f"{name}: segment gave "
    answers = _as_many(segmenter.segment(images, boxes), len(images), "images", gave)
    for found, image, wanted in zip(answers, images, boxes, strict=True):
        _is(found, Masks, gave)
        k, (height, width) = len(wanted), image.shape[:2]
        want = f"({k}, {height}, {width}) bool for {plural(k, 'box', 'boxes')} in a picture of {width}x{height}"
        _check_array(found.masks, "masks", np.bool_, (k, height, width), want, gave)
        _check_array(found.scores, "scores", np.floating, (k,), f"({k},) float for {plural(k, 'box', 'boxes')}", gave)
        _check_scores(found.scores, gave)
    return answers


def detect_face(
    detector: FaceDetector, name: str, image: np.ndarray, box_xyxy_px: np.ndarray
) -> tuple[np.ndarray, float] | None:
    """Face box (4,) within the image (H, W, 3) uint8 RGB and its score in [0, 1], or None. Raises BadAnswer."""
    gave = f"{name}: detect_face gave "
    found: Any = detector.detect_face(image, box_xyxy_px)
    if found is None:
        return None
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise BadAnswer(f"{gave}{_told(found)}; want (box, score) or None")
    box, score = found
    _check_array(box, "a box", np.floating, (4,), "(4,) float", gave)
    _check_boxes(box[None], image, gave)
    if not isinstance(score, float | np.floating):
        raise BadAnswer(f"{gave}{_told(score)} for a score; want a float")
    _check_scores(np.array([score]), gave)
    return box, float(score)


def inpaint(
    inpainter: Inpainter, name: str, images: list[np.ndarray], masks: list[np.ndarray], prompts: list[str | None]
) -> list[np.ndarray]:
    """The filled images, of the shapes (H, W, 3) and the dtype uint8 of the given ones. Raises BadAnswer."""
    gave = f"{name}: inpaint gave "
    answers = _as_many(inpainter.inpaint(images, masks, prompts), len(images), "images", gave)
    for picture, image in zip(answers, images, strict=True):
        _check_array(picture, "a picture", np.uint8, image.shape, f"{image.shape} uint8 as given", gave)
    return answers


def _as_many(answers: Any, count: int, asked: str, gave: str) -> list[Any]:
    if not isinstance(answers, Sequence) or isinstance(answers, str | bytes):
        raise BadAnswer(f"{gave}{_told(answers)}; want a list of one answer for each of the {asked}")
    if len(answers) != count:
        raise BadAnswer(f"{gave}{len(answers)} answers for {count} {asked}; want one for each")
    return list(answers)


def _is(answer: Any, kind: type[Any], gave: str, asked: str = "an image") -> None:
    if not isinstance(answer, kind):
        raise BadAnswer(f"{gave}{_told(answer)} for {asked}; want stages.backends.{kind.__name__}")


def _check_array(array: Any, what: str, dtype: Any, shape: tuple[int | None, ...], want: str, gave: str) -> None:
    """Raises BadAnswer unless it is an array of a dtype of the kind and of the shape; None: of any length there."""
    if not isinstance(array, np.ndarray):
        raise BadAnswer(f"{gave}{_told(array)} for {what}; want a numpy array {want}")
    if array.ndim != len(shape) or any(n is not None and n != side for n, side in zip(shape, array.shape, strict=True)):
        raise BadAnswer(f"{gave}{what} of shape {array.shape}; want {want}")
    if not np.issubdtype(array.dtype, dtype):
        raise BadAnswer(f"{gave}{what} of dtype {array.dtype}; want {want}")


def _check_boxes(boxes: np.ndarray, image: np.ndarray, gave: str) -> None:
    """Raises BadAnswer unless the boxes (N, 4) are finite xyxy, in this order and within the image."""
    height, width = image.shape[:2]
    low, high = boxes[:, :2], boxes[:, 2:]
    _check_each(np.isfinite(boxes), boxes, "finite numbers", gave)
    _check_each(low <= high, boxes, "x1, y1, x2, y2 with x1 <= x2 and y1 <= y2", gave)
    inside = (low >= -BOX_ROUNDING_PX) & (high <= np.array([width, height]) + BOX_ROUNDING_PX)
    _check_each(inside, boxes, f"boxes clipped to the picture of {width}x{height}", gave)


def _check_each(right: np.ndarray, boxes: np.ndarray, want: str, gave: str) -> None:
    """`right` (N, any) bool: what is as it should be of each box."""
    if not right.all():
        wrong = ", ".join(f"{value:g}" for value in boxes[int(right.all(axis=1).argmin())])
        raise BadAnswer(f"{gave}the box ({wrong}); want {want}")


def _check_scores(scores: np.ndarray, gave: str) -> None:
    """Raises BadAnswer unless all of them lie in [0, 1]; NaN does not."""
    right = (scores >= -SCORE_ROUNDING) & (scores <= 1 + SCORE_ROUNDING)
    if not right.all():
        raise BadAnswer(f"{gave}the score {scores.flat[int(right.argmin())]:g}; want scores in [0, 1]")


def _told(answer: Any) -> str:
    """What something is, without its content."""
    name = type(answer).__qualname__
    return "None" if answer is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
