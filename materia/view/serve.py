"""Starts the page: which address, which token, and a browser where there is one."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import secrets
import socket
import webbrowser
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from materia.base.errors import UserError

INSTALL = "pip install 'prima-materia[view]'"


def require_packages() -> None:
    """Raises UserError that says how to install what the page needs."""
    try:
        import duckdb  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"the page needs {error.name}, which is not installed: {INSTALL}") from None


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, which others cannot reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def page_address(host: str, port: int, token: str | None, view: Mapping[str, Any]) -> str:
    """The link that is printed; `view`: parts of the page's state, behind the #."""
    name = f"[{host}]" if ":" in host else host
    state = "&".join(f"{key}={quote(value if isinstance(value, str) else json.dumps(value))}" for key, value in view.items())
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "") + (f"#{state}" if state else "")


def serve(viewer: Any, host: str, port: int, view: Mapping[str, Any], open_page: bool, say: Callable[[str], None]) -> None:
    """Serve until interrupted. Raises UserError for an address that cannot be had."""
    import uvicorn

    from materia.view.app import application

    token = None if is_loopback(host) else secrets.token_urlsafe(24)
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    names = {"127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host}
    hosts = None if token else {f"{name}:{port}" for name in names} | (names if port == 80 else set())
    address = page_address(host, port, token, view)
    viewer.start()
    say(f"{address}  (Ctrl-C ends it)")
    if open_page:
        webbrowser.open(address)
    config = uvicorn.Config(
        application(viewer, hosts, token), log_level="warning", access_log=False, server_header=False, lifespan="off"
    )
    with listening, contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise UserError(
            f"{host}:{port} cannot be had: {error.strerror}; choose another --port, or 0 for any free one"
        ) from None
    listening.listen(128)
    return listening
