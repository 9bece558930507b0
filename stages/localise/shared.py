"""One detector a process: the background stage's residual check uses the one that localises, instead of loading it twice."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from stages.backends import Detector, build_backend
from stages.settings import LocaliseSettings

P = ParamSpec("P")
R = TypeVar("R")

_loaded: dict[str, tuple[Detector, int]] = {}
"""Settings as JSON -> detector and number of its users."""


def make(settings: LocaliseSettings) -> Detector:
    """A detector that is not loaded yet. Raises BackendError."""
    return cast(Detector, build_backend("localise", settings.backend, settings.options))


def acquire(settings: LocaliseSettings) -> Detector:
    """The loaded detector of these settings; every `acquire` wants one `release`."""
    key = settings.model_dump_json()
    if key in _loaded:
        detector, users = _loaded[key]
    else:
        detector, users = make(settings), 0
        detector.setup(settings.device, settings.threads)
        detector.detect = _in_turns(detector.detect)  # type: ignore[method-assign]  # its stages may work side by side
    _loaded[key] = detector, users + 1
    return detector


def release(settings: LocaliseSettings) -> None:
    """Close the detector when its last user gives it back; without effect if it is not loaded."""
    key = settings.model_dump_json()
    if key not in _loaded:
        return
    detector, users = _loaded.pop(key)
    if users > 1:
        _loaded[key] = detector, users - 1
    else:
        detector.close()


def _in_turns(call: Callable[P, R]) -> Callable[P, R]:
    """The same for several threads, of which one at a time goes in."""
    turn = threading.Lock()

    @functools.wraps(call)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        with turn:
            return call(*args, **kwargs)

    return alone
