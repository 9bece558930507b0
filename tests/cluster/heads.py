"""A real Ray head that takes jobs, a process of its own; and outputs to compare."""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import requests

TOKEN = secrets.token_hex(16)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


METRICS_PORT = free_port()
"""Where the head tells Prometheus."""


@contextlib.contextmanager
def ray_head(folder: Path) -> Iterator[str]:
    """Address of its dashboard. It asks for TOKEN."""
    port, dashboard = free_port(), free_port()
    bin = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    ports = [f"--port={port}", f"--dashboard-port={dashboard}", f"--metrics-export-port={METRICS_PORT}"]
    command = [str(bin / "ray"), "start", "--head", *ports, "--block", "--num-cpus=4", "--object-store-memory=100000000"]
    command += [f"--temp-dir={folder}", "--disable-usage-stats"]
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        ends = time.monotonic() + 150
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{address}/api/version", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=5).ok:
                    break
            assert head.poll() is None and time.monotonic() < ends, (folder / "head.log").read_text()
            time.sleep(0.2)
        yield address
    finally:
        head.terminate()
        head.wait(60)
