"""A Ray session as both users of Ray start it, the engine (ray_runner.py) and the trainer (trainer/run/ray_launch.py).

In: the address of a cluster, or none: then Ray starts here and ends with this process. Out: `ray` is ready to use; nothing is
printed, no usage is reported, no dashboard is started. Import this before Ray, which reads the environment when it is imported.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_DATA_USAGE_DISABLED="1")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its "errors" are advice to Ray's authors

import ray
from ray._private.node import Node

from materia.base.errors import UserError

_SOCKET_PATH_BYTES = 107
"""The longest path of a Unix socket on Linux [unix(7)]."""
_ANSWER_S = 10.0
_ADVICE = "give HOST:PORT as `ray start --head` told it, or leave the address out and Ray starts here"
_HTTP2_SETTINGS = b"\x04"
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _HTTP2_SETTINGS + bytes(5)
_OF_NO_USE_HERE = ("start_monitor", "start_log_monitor", "start_api_server")
"""Methods of Ray's Node (2.60) that start daemons for clusters that grow, for logs on the terminal and for a dashboard."""


def start_ray(address: str | None, object_store_mb: int, worker_env: Mapping[str, str] | None = None) -> None:
    """Join the cluster at `address`, or start one here that ends with this process; without a word on the terminal.

    `worker_env`: variables for Ray's processes. An existing cluster keeps its own object store. Raises UserError if nobody
    answers at `address`, for which Ray would wait for many minutes, or if paths here are too long for its sockets.
    """
    if address is None:
        _check_socket_path()
        _have_a_token()
    elif known := os.environ.get("RAY_ADDRESS") if address == "auto" else address:
        _check_answers(known)
    env = dict(worker_env or {})
    os.environ.update(env)
    for name in ("ray", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"ray\..*")
    own: dict[str, Any] = {"object_store_memory": object_store_mb * 2**20, "include_dashboard": False}
    try:
        with _silent_stderr(), nullcontext() if address else _without_daemons():  # the C++ side greets there
            # "local": a wrong RAY_ADDRESS in the environment must not change where a job runs
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({"runtime_env": {"env_vars": env}} if address else own),
            )
    except ConnectionError as error:
        raise UserError(f"no Ray is to be reached ({str(error).splitlines()[0]}); {_ADVICE}") from None


def _check_socket_path() -> None:
    root = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    longest = f"{root}/ray/session_2000-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    if len(longest.encode()) > _SOCKET_PATH_BYTES:
        raise UserError(
            f"{root} makes Ray's sockets have a path of {len(longest.encode())} bytes, and {_SOCKET_PATH_BYTES} are possible;"
            " set RAY_TMPDIR to a shorter path, e.g. RAY_TMPDIR=/tmp"
        )


def _have_a_token() -> None:
    """A session of our own has a token, which Ray keeps in the home; where nothing can be written there, it is told one."""
    home = Path.home() / ".ray"
    place = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(place, os.W_OK):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _check_answers(address: str) -> None:
    """Ray speaks gRPC: whoever does answers the first bytes of HTTP/2 with its settings (RFC 9113, 3.4 and 6.5)."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UserError(f"Ray's address {address!r} is not of the form HOST:PORT; {_ADVICE}")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S) as connection:
            connection.sendall(_HTTP2_PREFACE)
            answer = connection.recv(9)  # a frame's header: length, type, flags, stream
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"no Ray answers at {address} ({why}); {_ADVICE}") from None
    if answer[3:4] != _HTTP2_SETTINGS:
        raise UserError(f"what answers at {address} is no Ray; {_ADVICE}")


@contextmanager
def _without_daemons() -> Iterator[None]:
    """A session that starts meanwhile has only what it needs: neither its cluster grows nor has it a terminal or dashboard.

    The daemons take three seconds of a core, the start waits for one, and `ray.shutdown` for another, deaf to SIGTERM by then.
    """
    kept = {name: vars(Node)[name] for name in _OF_NO_USE_HERE}
    for name in kept:
        setattr(Node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(Node, name, method)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """File descriptor 2 leads nowhere for a while; exceptions are not affected."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
