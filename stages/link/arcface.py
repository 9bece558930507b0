"""ArcFace networks as ONNX graphs in ONNX Runtime: people told by their faces.

In: aligned faces. Out: embeddings, usually of 512 numbers. The weights are the user's own: those that are published allow
research only. Found are the faces by the packaged detector.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from materia.base.weights.files import Missing, Weights, check_address, local_path, packages_missing, sha256_of, weights_missing
from stages.faces.blazeface import BlazeFace
from stages.link.faces import ALIGNED_PX, OPTION, AlignedFaces
from stages.notices import notice

if TYPE_CHECKING:
    import onnxruntime

CHECKPOINT = "link.faces.options.checkpoint"


class ArcFace(AlignedFaces):
    """A face recogniser of the ArcFace family.

    `checkpoint`: address of the ONNX file (materia.base.weights), `sha256` (hex) of it. Its input must be (1, 3, 112, 112) RGB,
    (x - 127.5) / 127.5, its first output (1, D). `alike`: the middle is the threshold that deepface found for ArcFace on LFW, a
    cosine distance of 0.68.
    """

    alike = (0.12, 0.52)
    option_examples: ClassVar[dict[str, str]] = {"checkpoint": "/models/arcface_r50.onnx"}

    def __init__(self, checkpoint: str, sha256: str | None = None) -> None:
        check_address(checkpoint)
        self.detector = BlazeFace(OPTION)
        self.file = Weights(CHECKPOINT, checkpoint, sha256)
        self.graph: Graph | None = None

    def weights(self) -> list[Weights]:
        """The face detector's, and the ONNX file."""
        return [*super().weights(), self.file]

    def missing(self) -> list[Missing]:
        """What the face detector lacks; ONNX Runtime; the file, if it is not here, has another hash or is no such graph: it is
        run once, on black."""
        lacking = super().missing() + packages_missing("onnxruntime", fix="make gpu") + weights_missing(self.file)
        if lacking:
            return lacking
        path = local_path(self.file.address)
        try:
            open_graph(path, "cpu", 1).embed(np.zeros((ALIGNED_PX, ALIGNED_PX, 3), np.uint8))
        except Exception as error:  # ONNX Runtime tells of a bad graph in many ways
            reason = str(error).strip().partition("\n")[0][:200]
            expected = f"expected an ONNX graph of the ArcFace family: {reason}"
            return [Missing(f"{CHECKPOINT}: {path} cannot be used; {expected}", "give such a graph, or fetch it again")]
        return []

    def identity(self) -> dict[str, str]:
        """SHA-256 of both."""
        return {**super().identity(), "weights": sha256_of(local_path(self.file.address))}

    def setup(self, device: str, threads: int) -> None:
        """Load both, the network on `device`; where ONNX Runtime has no CUDA it runs on the CPU, which is said."""
        super().setup(device, threads)
        self.graph = open_graph(local_path(self.file.address), device, threads)
        if device != "cpu" and self.graph.session.get_providers()[0] == "CPUExecutionProvider":
            notice(f"link.device is {device}, but this ONNX Runtime has no CUDA: faces are told apart on the CPU")

    def close(self) -> None:
        """Drop both."""
        super().close()
        self.graph = None

    def embed(self, aligned: np.ndarray) -> np.ndarray:
        """(112, 112, 3) uint8 RGB -> (D,) float32."""
        if self.graph is None:
            raise RuntimeError("ArcFace.embed before setup")
        return self.graph.embed(aligned)


class Graph(NamedTuple):
    """An open graph and its input's name."""

    session: onnxruntime.InferenceSession
    name: str

    def embed(self, aligned: np.ndarray) -> np.ndarray:
        """(112, 112, 3) uint8 RGB -> (D,) float32. Raises ValueError for an output of another shape."""
        blob = (aligned.transpose(2, 0, 1)[None].astype(np.float32) - 127.5) / 127.5
        found: np.ndarray = self.session.run(None, {self.name: np.ascontiguousarray(blob)})[0]
        if found.ndim != 2 or len(found) != 1:
            raise ValueError(f"the first output is {found.shape}, expected (1, numbers)")
        embedding: np.ndarray = found[0]
        return embedding


def open_graph(path: Path, device: str, threads: int) -> Graph:
    """Load an ONNX file. Raises ValueError for another input than one face; ONNX Runtime's own errors."""
    from stages.onnx_session import open_session

    session = open_session(path, threads, device)
    inputs = session.get_inputs()
    wanted = (1, 3, ALIGNED_PX, ALIGNED_PX)
    shape, kind = inputs[0].shape, inputs[0].type
    fits = len(shape) == 4 and all(size == want or not isinstance(size, int) for size, want in zip(shape, wanted, strict=True))
    if len(inputs) != 1 or not fits or kind != "tensor(float)":
        found = ", ".join(f"{one.name!r} {one.shape} {one.type}" for one in inputs)
        raise ValueError(f"the input is {found}, expected one of {wanted} tensor(float)")
    return Graph(session, inputs[0].name)
