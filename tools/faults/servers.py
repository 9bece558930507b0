"""S3 servers to test against, each in a process of its own: moto, and ministack, which shares no code with it.

Both check If-None-Match and If-Match of PutObject; CompleteMultipartUpload's If-Match only ministack does. Neither checks
signatures. What they hold is in memory.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

BUCKET = "bucket"
_START_S = 60.0
_COMMANDS = {"moto": ["-m", "moto.server", "-H", "127.0.0.1", "-p", "{port}"], "ministack": ["-m", "ministack"]}
SERVERS = tuple(_COMMANDS)


@contextmanager
def running(name: str) -> Iterator[str]:
    """The address of a new server, which has one bucket, `BUCKET`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    ours = {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "LOG_LEVEL": "ERROR", "SERVICES": "s3"}
    command = [sys.executable, *(part.format(port=port) for part in _COMMANDS[name])]
    quiet = subprocess.DEVNULL
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, **ours, "TMPDIR": scratch}
        server = subprocess.Popen(command, env=environment, stdin=quiet, stdout=quiet, stderr=quiet)
        try:
            _make_bucket(server, address)
            yield address
        finally:
            server.kill()
            server.wait()


def credentials() -> dict[str, str]:
    """Environment variables that the servers let in."""
    return {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}


def _make_bucket(server: subprocess.Popen[bytes], address: str) -> None:
    ends = time.monotonic() + _START_S
    request = urllib.request.Request(f"{address}/{BUCKET}", method="PUT", data=b"")
    while True:
        try:
            urllib.request.urlopen(request, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError) as error:
            if server.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"the server does not start: {error}") from error
            time.sleep(0.02)
