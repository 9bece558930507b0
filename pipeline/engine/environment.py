"""Environment variables of a process in which models run; numeric libraries read them once, when they are imported."""

from __future__ import annotations

import os

_LIBRARIES = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB_MAXIMUM")


def for_models(threads: int) -> dict[str, str]:
    """Numeric libraries are held to so many threads.

    Weights are fetched before a job: a thousand workers must not ask a hub, unless the user says so.
    """
    pinned = {f"{library}_NUM_THREADS": str(threads) for library in _LIBRARIES}
    return {**pinned, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1")}
