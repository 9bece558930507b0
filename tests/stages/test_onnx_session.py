"""Opening a graph keeps to itself: ONNX Runtime's telemetry is off."""

import os
import subprocess
import sys

from vision import needs_weights

from materia.base.weights.files import cache_dir

OPEN = """
from stages.onnx_session import open_session
from materia.base.weights.files import weights_path
open_session(weights_path("nanodet.onnx"), 1)
"""


@needs_weights
def test_opening_a_graph_writes_nothing_into_the_users_home(tmp_path):
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / ".cache"), "MATERIA_CACHE": str(cache_dir())}
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | home
    subprocess.run([sys.executable, "-c", OPEN], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []
