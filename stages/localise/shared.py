"""One detector a process: the background stage's residual check uses the one that localises, instead of loading it twice."""

from __future__ import annotations

import threading
from typing import cast

import numpy as np

from stages.backends import Detections, Detector, build_backend
from stages.records import EntityWord
from stages.settings import LocaliseSettings


class _Shared(Detector):
    """A loaded detector that stages at work side by side use in turns."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.users = 0
        self._turn = threading.Lock()

    def setup(self, device: str, threads: int) -> None:
        """As of the detector."""
        self.detector.setup(device, threads)

    def close(self) -> None:
        """As of the detector."""
        self.detector.close()

    def detect(self, images: list[np.ndarray], words: list[list[EntityWord]]) -> list[Detections]:
        """As of the detector."""
        with self._turn:
            return self.detector.detect(images, words)


_loaded: dict[str, _Shared] = {}
"""Settings as JSON -> detector."""


def make(settings: LocaliseSettings) -> Detector:
    """A detector that is not loaded yet. Raises BackendError."""
    return cast(Detector, build_backend("localise", settings.backend, settings.options))


def acquire(settings: LocaliseSettings) -> Detector:
    """The loaded detector of these settings; every `acquire` wants one `release`."""
    key = settings.model_dump_json()
    if key not in _loaded:
        detector = _Shared(make(settings))
        detector.setup(settings.device, settings.threads)
        _loaded[key] = detector
    _loaded[key].users += 1
    return _loaded[key]


def release(settings: LocaliseSettings) -> None:
    """Close the detector when its last user gives it back; without effect if it is not loaded."""
    key = settings.model_dump_json()
    if key not in _loaded:
        return
    shared = _loaded[key]
    shared.users -= 1
    if not shared.users:
        del _loaded[key]
        shared.close()
