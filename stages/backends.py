"""What a model must offer to serve a stage, and the backends that come along (materia/base/backends.py finds and builds them).

A backend is built with the configuration's `options` as keyword arguments, asked what is `missing` before a job starts, loaded
once per process by `setup`, and then called. It never sees Ray, shards or the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from materia.base import backends
from materia.base.weights.files import Missing, Weights
from stages.records import Box, EntityWord

BUILTIN: dict[str, dict[str, str]] = {
    "entities": {
        "transformers": "stages.entities.transformers_lm:TransformersLM",
        "vllm": "stages.entities.vllm_lm:VllmLM",
        "openai": "stages.entities.openai_lm:OpenAILM",
    },
    "frames": {
        "colours": "stages.shots.colours:Colours",
        "transnetv2": "stages.shots.transnetv2:TransNetV2",
    },
    "localise": {
        "nanodet": "stages.localise.nanodet:NanoDet",
        "groundingdino": "stages.localise.groundingdino:GroundingDino",
        "groundingdino_transformers": "stages.localise.groundingdino_port:GroundingDinoPort",
    },
    "link": {
        "efficientnet": "stages.link.efficientnet:EfficientNet",
        "colours": "stages.link.colours:Colours",
        "dinov2": "stages.link.dinov2:Dinov2",
        "none": "stages.link.published:Published",
    },
    "link.faces": {
        "mobilefacenet": "stages.link.mobilefacenet:MobileFaceNet",
        "arcface": "stages.link.arcface:ArcFace",
        "none": "stages.link.published:NoFaces",
    },
    "link.people": {
        "movenet": "stages.link.movenet:MoveNet",
        "none": "stages.link.published:NoPeople",
    },
    "segment": {
        "grabcut": "stages.segment.grabcut:GrabCut",
        "u2netp": "stages.segment.u2netp:U2Netp",
        "sam": "stages.segment.sam:Sam",
    },
    "faces": {
        "blazeface": "stages.faces.blazeface:BlazeFace",
        "yolo": "stages.faces.yolo:YoloFace",
    },
    "background": {
        "opencv": "stages.background.opencv:OpenCVInpainter",
        "patchmatch": "stages.background.patchmatch:PatchMatch",
        "lama": "stages.background.lama:Lama",
        "diffusers": "stages.background.diffusion:DiffusionInpainter",
    },
}
"""stage, or the part of one that has a backend of its own -> short name -> import path."""


class TransientError(RuntimeError):
    """What failed for reasons outside of this machine and after all retries: a server that is away or too busy."""


class Backend(Protocol):
    """The life of every backend. Subclass the protocol to inherit these defaults.

    `execution_options` names the constructor's arguments that cannot change results (where a server is, how many requests at a
    time): they enter no fingerprint and are not written to the output. `option_examples` has a value, as `--set` takes it, for
    each argument without a default: the message that one is missing shows it.
    """

    execution_options: ClassVar[frozenset[str]] = frozenset()
    option_examples: ClassVar[dict[str, str]] = {}

    def missing(self) -> list[Missing]:
        """Packages and weights that are not here or cannot be used: not found, truncated, with another hash, of another model.

        Asked on the driver before a job starts. Reads what it must of a checkpoint (hash, names and shapes), in seconds; loads
        nothing on a device.
        """
        return []

    def weights(self) -> list[Weights]:
        """Weights that `materia models pull` fetches ahead of a job."""
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

    def generate(self, requests: list[Generation]) -> Sequence[str | Exception]:
        """Answer each request, in order, with JSON text that satisfies its schema (greedy decoding).

        A request that fails for itself is answered with the exception: its caption is rejected, as `transient_exhausted` for a
        TransientError. When the whole call raises, the requests are asked again one by one.
        """
        ...


@dataclass(frozen=True)
class ShotChanges:
    """How sure a shot changes at each of N pictures, (N,) float32 in [0, 1]: `cuts`, that a hard cut is right before it;
    `dissolves`, that it is in the middle of a gradual change. Who does not tell them apart says all of it in `cuts`."""

    cuts: np.ndarray
    dissolves: np.ndarray


class CutSearcher(Backend, Protocol):
    """Scene cuts, in small pictures of a clip's frames.

    `picture_size`: (width, height) of the pictures. `every_frame`: whether each frame of the clip is wanted; else only those
    come that others refer to, a half or so, which saves a third of the decoding.
    """

    picture_size: tuple[int, int]
    every_frame: bool

    def search(self, times_s: np.ndarray, pictures: np.ndarray) -> ShotChanges:
        """Times (N,) float64, ascending, and pictures (N, h, w, 3) uint8 RGB of one clip, N >= 1 -> its changes."""
        ...


@dataclass(frozen=True)
class Detections:
    """Candidate boxes of one image. `boxes_xyxy_px` (N, 4) float32, clipped to the image; `scores` (N, W) float32 in [0, 1]:
    how well box n shows word w. A detector of closed classes, to which "man" and "woman" are one, shares boxes out to words in
    `scores`; then `unshared` (N, W) has them as they were."""

    boxes_xyxy_px: np.ndarray
    scores: np.ndarray
    unshared: np.ndarray | None = None


class Detector(Backend, Protocol):
    """Boxes for words."""

    def detect(self, images: list[np.ndarray], words: list[list[EntityWord]]) -> list[Detections]:
        """Find the W words of each image, (H, W, 3) uint8 RGB; the word-to-box rule is the stage's, not the backend's."""
        ...


class Recogniser(Backend, Protocol):
    """Tells individuals by their looks.

    `alike`: dot products of descriptions up to the first are of different individuals, from the second on of the same.
    """

    alike: tuple[float, float]

    def describe(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[np.ndarray]:
        """Images (H, W, 3) uint8 RGB, boxes (N, 4) float32 of each, N may be 0 -> descriptions (N, D) float32 of length 1."""
        ...


class FaceRecogniser(Backend, Protocol):
    """Tells people by their faces.

    `alike`: dot products of embeddings up to the first are of different people, from the second on of the same.
    """

    alike: tuple[float, float]

    def recognise(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> Sequence[Sequence[np.ndarray | None]]:
        """Images (H, W, 3) uint8 RGB, people's boxes (N, 4) float32 of each, N may be 0 -> for each box the embedding (D,)
        float32 of length 1 of the person's face, or None where none is seen well enough to tell."""
        ...


class PersonVerifier(Backend, Protocol):
    """Tells whether what a detector takes for a person is one."""

    def verify(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[np.ndarray]:
        """Images (H, W, 3) uint8 RGB, boxes (N, 4) float32 of each, N may be 0 -> how surely each shows a person, (N,) float32
        in [0, 1]."""
        ...


@dataclass(frozen=True)
class Masks:
    """Masks of one image's K boxes: `masks` (K, H, W) bool; `scores` (K,) float32 in [0, 1], their quality."""

    masks: np.ndarray
    scores: np.ndarray


class Segmenter(Backend, Protocol):
    """Masks for boxes."""

    def segment(self, images: list[np.ndarray], boxes: list[list[Box]]) -> list[Masks]:
        """Images (H, W, 3) uint8 RGB, which may differ in size, and the boxes of each (at least one) -> masks of each."""
        ...


class FaceDetector(Backend, Protocol):
    """The best face inside a human's box."""

    def detect_face(self, image: np.ndarray, box_xyxy_px: np.ndarray) -> tuple[np.ndarray, float] | None:
        """Image (H, W, 3) uint8 RGB, box (4,) -> face box (4,) float32 in image pixels, clipped to it, and its score in [0, 1],
        a float; or None."""
        ...


class Inpainter(Backend, Protocol):
    """Fills holes in pictures."""

    method: str

    def inpaint(self, images: list[np.ndarray], masks: list[np.ndarray], prompts: list[str | None]) -> list[np.ndarray]:
        """Images (H, W, 3) uint8 RGB, which may differ in size, masks (H, W) bool, background words -> filled images.

        Same shapes and dtypes; outside the mask anything may come back, the stage keeps the original there.
        """
        ...


PROTOCOLS: dict[str, type[Any]] = {
    "entities": LanguageModel,
    "frames": CutSearcher,
    "localise": Detector,
    "link": Recogniser,
    "link.faces": FaceRecogniser,
    "link.people": PersonVerifier,
    "segment": Segmenter,
    "faces": FaceDetector,
    "background": Inpainter,
}
"""As BUILTIN -> what its backend must offer."""


def backend_class(stage: str, backend: str) -> Any:
    """The class of a stage's backend. Raises BackendError."""
    return backends.find_backend(stage, backend, BUILTIN[stage])


def build_backend(stage: str, backend: str, options: dict[str, Any]) -> Any:
    """Import and construct the backend of a stage. Raises BackendError, also for one that lacks a method of its protocol."""
    built = backends.build_backend(stage, backend, options, BUILTIN[stage])
    backends.check_offers(stage, backend, built, PROTOCOLS[stage], see="docs/backends.md")
    return built
