"""Where packaged weights lie on this machine, and how they are verified.

`tools/fetch_weights.py` makes the files once (download from a package registry, convert, hash); everything else asks here.
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import NamedTuple


class Missing(NamedTuple):
    """Something that a backend needs and that this machine has not, or not usable; `fix` is the command that helps."""

    what: str
    fix: str


class Weights(NamedTuple):
    """A file or folder of weights. `option` names the setting it comes from, e.g. "localise.options.checkpoint".

    `address`: a local path, `hf://OWNER/NAME[/FILE][@REVISION]` (a file of a hub repository, or all of it), or `https://...`.
    `sha256` (hex) of the file, None where it is not known or the address is a folder.
    """

    option: str
    address: str
    sha256: str | None = None


def cache_dir() -> Path:
    """Where converted weights are kept: $MATERIA_CACHE, else the user's cache folder."""
    if override := os.environ.get("MATERIA_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prima-materia"


def weights_path(name: str) -> Path:
    """Path of a weights file or folder below the cache; it may not exist yet."""
    return cache_dir() / "weights" / name


def local_path(address: str) -> Path:
    """Where the weights of an address lie on this machine, or would; asks no network."""
    return Path(address).expanduser()


def weights_missing(weights: Weights) -> list[Missing]:
    """Nothing if the weights are here and whole; otherwise what is wrong: not found, or another hash than stated."""
    path = local_path(weights.address)
    if not path.exists():
        return [
            Missing(f"{weights.option}: {path} is not there", "correct the path, or fetch it: materia models pull --config ...")
        ]
    if weights.sha256 and path.is_file() and (found := sha256_of(path)) != weights.sha256:
        return [Missing(f"{weights.option}: {path} has SHA-256 {found}, expected {weights.sha256}", "fetch it again")]
    return []


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hex; a file that did not change is read once a process."""
    stat = path.stat()
    return _sha256_of(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _sha256_of(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
