"""What a model must offer to serve a stage, and how a backend is found by name.

A backend is named in the configuration by a short name of ours ("nanodet") or by an import path ("package.module:Class"), so a
user's model needs no change here. It is built with the configuration's `options` as keyword arguments, asked what is `missing`
before a job starts, loaded once per process by `setup`, and then called. It never sees Ray, shards or the command line.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from stages.records import Box, EntityWord

BUILTIN: dict[str, dict[str, str]] = {
    "entities": {"transformers": "stages.entities.transformers_lm:TransformersLM"},
    "localise": {"nanodet": "stages.localise.nanodet:NanoDet"},
    "segment": {"grabcut": "stages.segment.grabcut:GrabCut"},
    "faces": {"blazeface": "stages.faces.blazeface:BlazeFace"},
    "background": {"opencv": "stages.background.opencv:OpenCVInpainter"},
}
"""stage -> short name -> import path."""


class Missing(NamedTuple):
    """Something that a backend needs and that this machine has not; `fix` is the command that installs it."""

    what: str
    fix: str


class Backend(Protocol):
    """The life of every backend. Subclass the protocol to inherit these defaults."""

    def missing(self) -> list[Missing]:
        """Packages or weights that are not here; quick, loads no model."""
        return []

    def identity(self) -> dict[str, str]:
        """What the results depend on besides the options: SHA-256 of weights and the like. Enters the fingerprint."""
        return {}

    def setup(self, device: str, threads: int) -> None:
        """Load the model on `device` ("cpu", "cuda"), with at most `threads` CPU threads. Called once per process."""

    def close(self) -> None:
        """Give back memory and processes."""


@dataclass(frozen=True)
class Generation:
    """One request to a language model: chat messages and the JSON schema that the answer must satisfy."""

    messages: list[dict[str, str]]
    json_schema: dict[str, Any]
    max_tokens: int


class LanguageModel(Backend, Protocol):
    """Entity words: answers prompts under a JSON-schema constraint."""

    def generate(self, requests: list[Generation]) -> list[str]:
        """Answer each request, in order, with JSON text that satisfies its schema (greedy decoding)."""
        ...


@dataclass(frozen=True)
class Detections:
    """Candidate boxes of one image. `boxes_xyxy_px` (N, 4) float32, clipped to the image; `scores` (N, W) float32 in [0, 1]:
    how well box n shows word w."""

    boxes_xyxy_px: np.ndarray
    scores: np.ndarray


class Detector(Backend, Protocol):
    """Boxes for words."""

    def detect(self, images: list[np.ndarray], words: list[list[EntityWord]]) -> list[Detections]:
        """Find the W words of each image, (H, W, 3) uint8 RGB; the word-to-box rule is the stage's, not the backend's."""
        ...


class Segmenter(Backend, Protocol):
    """Masks for boxes."""

    def segment(self, image: np.ndarray, boxes: list[Box]) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) uint8 RGB, its K boxes -> masks (K, H, W) bool, quality scores (K,) float32 in [0, 1]."""
        ...


class FaceDetector(Backend, Protocol):
    """The best face inside a human's box."""

    def detect_face(self, image: np.ndarray, box_xyxy_px: np.ndarray) -> tuple[np.ndarray, float] | None:
        """Image (H, W, 3) uint8 RGB, box (4,) -> face box (4,) float32 in image pixels and its score, or None."""
        ...


class Inpainter(Backend, Protocol):
    """Fills holes in pictures."""

    method: str

    def inpaint(self, image: np.ndarray, mask: np.ndarray, prompt: str | None) -> np.ndarray:
        """Image (H, W, 3) uint8 RGB, mask (H, W) bool, background word -> filled image, same shape and dtype."""
        ...


class BackendError(ValueError):
    """A backend that cannot be found or built from its options; the message names the stage, the value and the fix."""


def build_backend(stage: str, backend: str, options: dict[str, Any]) -> Any:
    """Import and construct the backend of a stage. Raises BackendError, naming the nearest known name or option."""
    known = BUILTIN[stage]
    path = known.get(backend, backend)
    if ":" not in path:
        raise BackendError(
            f"{stage}.backend: {backend!r} is not one of {sorted(known)} and not an import path like package.module:Class"
            + _nearest(backend, list(known))
        )
    module_name, _, class_name = path.partition(":")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise BackendError(f"{stage}.backend: cannot import {path!r}: {error}") from error
    accepted = list(inspect.signature(cls).parameters)
    for option in options:
        if option not in accepted:
            raise BackendError(f"{stage}.options: {backend!r} has no option {option!r}{_nearest(option, accepted)}")
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        raise BackendError(f"{stage}.options: {backend!r}: {error}") from error


def _nearest(name: str, known: list[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {match[0]!r}?" if match else f"; known: {', '.join(known) or 'none'}"
