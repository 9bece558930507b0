"""Versions of the libraries whose bytes end up in an output: they decode, resize and encode, and differ in the last bit."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Iterable

import numpy as np


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Name -> version: "pyav" with its FFmpeg, "x264", "opencv", "pillow"."""
    return {library: _VERSIONS[library]() for library in libraries}


def _pyav() -> str:
    import av

    parts = {name: ".".join(map(str, number)) for name, number in sorted(av.library_versions.items())}
    return f"{av.__version__} ({', '.join(f'{name} {number}' for name, number in parts.items())})"


@functools.cache
def _x264() -> str:
    """As x264 writes it into what it encodes, e.g. "164 r3108 31e19f9"; PyAV does not tell. "none" if FFmpeg is without it."""
    import av

    if "libx264" not in av.codecs_available:
        return "none"
    file = io.BytesIO()
    with av.open(file, "w", format="h264") as output:
        stream = output.add_stream("libx264", rate=1)
        stream.codec_context.width = stream.codec_context.height = 16
        stream.codec_context.pix_fmt = "yuv420p"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((24, 16), np.uint8), format="yuv420p")))
        output.mux(stream.encode(None))
    told = re.search(rb"x264 - core (.+?) - H\.264", file.getvalue())
    return told[1].decode() if told else "unknown"


def _opencv() -> str:
    import cv2

    return cv2.__version__


def _pillow() -> str:
    import PIL
    from PIL import features

    return f"{PIL.__version__} (libjpeg {features.version('jpg')}, zlib {features.version('zlib')})"


_VERSIONS: dict[str, Callable[[], str]] = {"pyav": _pyav, "x264": _x264, "opencv": _opencv, "pillow": _pillow}
