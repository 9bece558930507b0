"""Backends whose answers a test gives, named by import path as a user's own are, and classes that are no backends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from stages.backends import (
    CutSearcher,
    Detector,
    FaceDetector,
    FaceRecogniser,
    Inpainter,
    LanguageModel,
    Masks,
    PersonVerifier,
    Recogniser,
    Segmenter,
)

if TYPE_CHECKING:
    from nowhere import Thing

ANSWER = {}
"""What the next calls give: a function of the call's arguments, or a value."""


def answer(*arguments):
    given = ANSWER["is"]
    return given(*arguments) if callable(given) else given


class Liar(
    LanguageModel, CutSearcher, Detector, Recogniser, FaceRecogniser, PersonVerifier, Segmenter, FaceDetector, Inpainter
):
    """Of every kind at once."""

    method = "lies"
    alike = (0.0, 1.0)
    picture_size = (64, 36)
    every_frame = False

    def generate(self, requests):
        return answer(requests)

    def search(self, times_s, pictures):
        return answer(times_s, pictures)

    def detect(self, images, words):
        return answer(images, words)

    def describe(self, images, boxes):
        return answer(images, boxes)

    def recognise(self, images, boxes):
        return answer(images, boxes)

    def verify(self, images, boxes):
        return answer(images, boxes)

    def segment(self, images, boxes):
        return answer(images, boxes)

    def detect_face(self, image, box_xyxy_px):
        return answer(image, box_xyxy_px)

    def inpaint(self, images, masks, prompts):
        return answer(images, masks, prompts)


class Boxes(Segmenter):
    """Masks all of each box's picture."""

    def segment(self, images, boxes):
        return [
            Masks(np.ones((len(wanted), *image.shape[:2]), bool), np.ones(len(wanted), np.float32))
            for image, wanted in zip(images, boxes, strict=True)
        ]


class WithoutDetect(Detector):
    """Declares it, as the protocol does, and no more."""


class NoSubclass:
    def detect(self, images, words):
        return []


class FewArguments(Detector):
    def detect(self, images):
        return []


class NoCall(Detector):
    detect = 3


class Nameless(Inpainter):
    def inpaint(self, images, masks, prompts):
        return images


class Numbered(Nameless):
    method = 3


class MoreArguments(Detector):
    def detect(self, images, words, again=False):
        return []


class AnyArguments(Detector):
    def detect(self, *arguments, **more):
        return []


class Options(AnyArguments):
    def __init__(
        self,
        folder: str,
        n: int,
        share: float = 0.5,
        size: tuple[int, int] = (1, 2),
        word: str | None = None,
        side: Annotated[int, Field(ge=32)] = 32,
        array: np.ndarray | None = None,
    ):
        self.given = (folder, n, share, size, word)


class Unresolved(AnyArguments):
    def __init__(self, thing: Thing = None, n: int = 1, **others):
        self.others = others


class Exemplary(AnyArguments):
    option_examples = {"folder": "/data/detector"}  # noqa: RUF012 - as a user would write it

    def __init__(self, folder: str):
        pass


def make(n: int = 1):
    return AnyArguments()


VALUE = 3
