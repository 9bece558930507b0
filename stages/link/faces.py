"""Faces of people's boxes, aligned for a network that tells people apart.

In: a picture and people's boxes. Out: 112 x 112 px crops in which eyes, nose and mouth lie where such networks are trained to
have them, and from them embeddings. A face says nothing where it is small, blurred, turned away, or not where the head of the
box's person is: of two people in one box a face would speak for both.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from materia.base.weights.files import Missing, Weights
from stages.backends import FaceRecogniser
from stages.faces.blazeface import EYES_NOSE_MOUTH, BlazeFace, Face

OPTION = "link.faces.backend"
ALIGNED_PX = 112
PLACES = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [56.1396, 92.2848]])
"""Where the eye that is left in the picture, the right one, the tip of the nose and the middle of the mouth belong in the crop
[insightface: the template of ArcFace; of its corners of the mouth the middle]."""
HEAD = (0.25, 0.0, 0.75, 0.6)
"""Where the middle of its person's face is in a box, as shares of its sides: x1, y1, x2, y2."""

# A face that is worse in any of these says nothing. [ours] Faces of clips were shrunk, blurred and smeared; those that pass are
# told from others in 97 of 100 pairs: see docs/data-quality.md.
MIN_SCORE = 0.75
"""How sure the detector is."""
MIN_EYES_PX = 10.0
"""Between the eyes."""
MAX_MISFIT_PX = 5.5
"""Root mean square distance of landmarks to their places in the crop: a head in profile cannot be brought to fit."""
MIN_DETAIL = 0.004
"""See `detail`."""


class AlignedFaces(FaceRecogniser, Protocol):
    """A recogniser that looks at aligned faces, one at a time: then its answers do not depend on what else is asked."""

    detector: BlazeFace

    def weights(self) -> list[Weights]:
        """The face detector's."""
        return self.detector.weights()

    def missing(self) -> list[Missing]:
        """What the face detector lacks."""
        return self.detector.missing()

    def identity(self) -> dict[str, str]:
        """SHA-256 of the face detector's weights."""
        return {"face_detector": self.detector.identity()["weights"]}

    def setup(self, device: str, threads: int) -> None:
        """Load the face detector."""
        self.detector.setup(device, threads)

    def close(self) -> None:
        """Drop the face detector."""
        self.detector.close()

    def embed(self, aligned: np.ndarray) -> np.ndarray:
        """Aligned face (112, 112, 3) uint8 RGB -> embedding (D,) float32 of any length but 0."""
        ...

    def recognise(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[list[np.ndarray | None]]:
        """See stages.backends.FaceRecogniser; a face that lies in several boxes is looked at once."""
        return [self._recognise(image, own) for image, own in zip(images, boxes, strict=True)]

    def _recognise(self, image: np.ndarray, boxes: np.ndarray) -> list[np.ndarray | None]:
        known: list[tuple[Face, np.ndarray]] = []
        answers: list[np.ndarray | None] = []
        for box in boxes:
            where = head_of(box)
            embedding = next((told for face, told in known if _lies_in(face, where)), None)
            if embedding is None and (found := self._look(image, box, where)) is not None:
                known.append(found)
                embedding = found[1]
            answers.append(embedding)
        return answers

    def _look(self, image: np.ndarray, box: np.ndarray, where: np.ndarray) -> tuple[Face, np.ndarray] | None:
        """The face of a box and its embedding; None where none is seen well enough."""
        if (box[2:] - box[:2]).min() < 2 * MIN_EYES_PX:  # the eyes are not half of a head apart
            return None
        face = self.detector.find(image, box, where)
        if face is None or face.score < MIN_SCORE or (aligned := align(image, face)) is None:
            return None
        vector = self.embed(aligned)
        return face, (vector / np.linalg.norm(vector)).astype(np.float32)


def head_of(box: np.ndarray) -> np.ndarray:
    """Person's box (4,) -> the rectangle (4,) in which the middle of the face is."""
    where: np.ndarray = box[[0, 1, 0, 1]] + np.array(HEAD, np.float32) * (box[2:] - box[:2])[[0, 1, 0, 1]]
    return where


def _lies_in(face: Face, where: np.ndarray) -> bool:
    middle = (face.box[:2] + face.box[2:]) / 2
    return bool((middle >= where[:2]).all() and (middle <= where[2:]).all())


def align(image: np.ndarray, face: Face) -> np.ndarray | None:
    """The face turned, scaled and moved to its places, (112, 112, 3) uint8 RGB; None for one that says nothing."""
    import cv2

    points = face.points[list(EYES_NOSE_MOUTH)].astype(np.float64)
    if np.linalg.norm(points[1] - points[0]) < MIN_EYES_PX:
        return None
    to_crop, misfit_px = similarity(points, PLACES)
    if misfit_px > MAX_MISFIT_PX:
        return None
    scale = float(np.hypot(*to_crop[:, 0]))
    if scale < 0.5:  # linear interpolation would skip pixels: shrink first
        image = cv2.resize(image, None, fx=2 * scale, fy=2 * scale, interpolation=cv2.INTER_AREA)
        to_crop[:, :2] /= 2 * scale
    aligned: np.ndarray = cv2.warpAffine(image, to_crop, (ALIGNED_PX, ALIGNED_PX), flags=cv2.INTER_LINEAR)
    return aligned if detail(aligned) >= MIN_DETAIL else None


def similarity(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, float]:
    """Turn, scale and shift (2, 3) that bring points (N, 2) nearest to others; and the distance left, root mean square."""
    x, y, one, none = start[:, 0], start[:, 1], np.ones(len(start)), np.zeros(len(start))
    equations = np.concatenate([np.stack([x, -y, one, none], axis=1), np.stack([y, x, none, one], axis=1)])  # (2 N, 4)
    (a, b, right, down), *_ = np.linalg.lstsq(equations, end.T.reshape(-1), rcond=None)
    matrix = np.array([[a, -b, right], [b, a, down]])
    left = start @ matrix[:, :2].T + matrix[:, 2] - end
    return matrix, float(np.sqrt((left**2).sum(axis=1).mean()))


def detail(aligned: np.ndarray) -> float:
    """How sharp a face (112, 112, 3) uint8 is: variance of second differences along the axis where it is less, so that a face
    smeared by motion has none, as a share of the variance of the face. Sharp ones have 0.02 and more."""
    import cv2

    inner = cv2.cvtColor(aligned, cv2.COLOR_RGB2GRAY)[8:-8, 8:-8].astype(np.float32)
    along = [np.diff(inner, 2, axis=axis).var() for axis in (0, 1)]
    return float(min(along) / max(inner.var(), 1.0))
