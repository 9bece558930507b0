"""One way to open an ONNX graph, with pinned threads and without noise; what backends of a packaged graph have in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from materia.base.weights.files import Missing, Weights, identity_of, local_path, packaged, weights_missing

if TYPE_CHECKING:
    import onnxruntime


def open_session(weights: Path, threads: int, device: str = "cpu") -> onnxruntime.InferenceSession:
    """Load `weights` to run with `threads` threads in one operator, operators one after the other.

    `device`: "cpu", "cuda" or "cuda:N"; where this ONNX Runtime has no CUDA, the CPU, as the session's providers then tell.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else importing it opens a database in the user's cache and looks for a host
    import onnxruntime

    providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
    if device.startswith("cuda") and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        onnxruntime.preload_dlls()  # CUDA's libraries lie in packages, where the loader does not look
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.partition(":")[2] or "0"}))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(weights), options, providers=providers)


class PackagedGraph:
    """A backend's packaged network, on the CPU whatever the device. `option`: the setting that asks for it."""

    def __init__(self, option: str, name: str) -> None:
        self.file = packaged(option, name)
        self.session: onnxruntime.InferenceSession | None = None

    def weights(self) -> list[Weights]:
        """The graph."""
        return [self.file]

    def missing(self) -> list[Missing]:
        """What is wrong with the weights."""
        return weights_missing(self.file)

    def identity(self) -> dict[str, str]:
        """SHA-256 of the weights."""
        return {"weights": identity_of(self.file.address)}

    def setup(self, device: str, threads: int) -> None:
        """Load the graph."""
        self.session = open_session(local_path(self.file.address), threads)

    def close(self) -> None:
        """Drop the graph."""
        self.session = None
