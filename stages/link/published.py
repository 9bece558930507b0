"""`link.backend: none`: nobody is told apart, and a word keeps its best box of each frame, as published; nor verified."""

from __future__ import annotations

import numpy as np

from stages.backends import FaceRecogniser, PersonVerifier, Recogniser


class Published(Recogniser):
    """Is not asked."""

    alike = (0.0, 1.0)

    def describe(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[np.ndarray]:
        """All boxes look the same."""
        return [np.ones((len(own), 1), np.float32) for own in boxes]


class NoFaces(FaceRecogniser):
    """`link.faces.backend: none`."""

    alike = (0.0, 1.0)

    def recognise(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[list[np.ndarray | None]]:
        """No face is seen."""
        return [[None] * len(own) for own in boxes]


class NoPeople(PersonVerifier):
    """`link.people.backend: none`: is not asked."""

    def verify(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[np.ndarray]:
        """All boxes show people."""
        return [np.ones(len(own), np.float32) for own in boxes]
