"""One way to open an ONNX graph on the CPU, with pinned threads and without noise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime


def open_session(weights: Path, threads: int) -> onnxruntime.InferenceSession:
    """Load `weights` to run with `threads` threads in one operator, operators one after the other."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else importing it opens a database in the user's cache and looks for a host
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
