"""MobileFaceNet in ONNX Runtime: people told by their faces, on the CPU.

In: aligned faces. Out: embeddings of 192 numbers. Weights come with a package (materia/base/weights/packaged/mobilefacenet.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from materia.base.weights.files import Missing, Weights, identity_of, local_path, packaged, weights_missing
from stages.faces.blazeface import BlazeFace
from stages.link.faces import OPTION, AlignedFaces

if TYPE_CHECKING:
    import onnxruntime


class MobileFaceNet(AlignedFaces):
    """The packaged face recogniser; it runs on the CPU whatever the device. `alike`: at two moments of a clip a person's faces
    have 0.71 and more in 95 of 100 pairs, faces of different people 0.3 and less [ours]."""

    alike = (0.25, 0.6)

    def __init__(self) -> None:
        self.detector = BlazeFace(OPTION)
        self.file = packaged(OPTION, "mobilefacenet.onnx")
        self.session: onnxruntime.InferenceSession | None = None

    def weights(self) -> list[Weights]:
        """The face detector's, and the graph."""
        return [*super().weights(), self.file]

    def missing(self) -> list[Missing]:
        """What is wrong with either."""
        return super().missing() + weights_missing(self.file)

    def identity(self) -> dict[str, str]:
        """SHA-256 of both."""
        return {**super().identity(), "weights": identity_of(self.file.address)}

    def setup(self, device: str, threads: int) -> None:
        """Load both."""
        from stages.onnx_session import open_session

        super().setup(device, threads)
        self.session = open_session(local_path(self.file.address), threads)

    def close(self) -> None:
        """Drop both."""
        super().close()
        self.session = None

    def embed(self, aligned: np.ndarray) -> np.ndarray:
        """(112, 112, 3) uint8 RGB -> (192,) float32."""
        if self.session is None:
            raise RuntimeError("MobileFaceNet.embed before setup")
        [found] = self.session.run(None, {"input0": (aligned[None].astype(np.float32) - 127.5) / 128})
        embedding: np.ndarray = found[0]
        return embedding
