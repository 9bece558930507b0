"""Who may talk to the page's server, and what a browser may do with what it gets: around every request.

A page of another site can make a browser ask 127.0.0.1, under a name of its own (DNS rebinding) or blindly. So the Host header
must be one that we were started under; what changes anything must come from our own page; and on another address than this
machine's own, everything needs the token that the start has printed. The content security policy lets run what we ship, only.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "materia_view"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


class Guard:
    """`hosts`: values of the Host header that are ours; None: any, but then there must be a `token`."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str] | None, token: str | None = None) -> None:
        if hosts is None and not token:
            raise ValueError("a server that answers to every name needs a token")
        self.app = app
        self.hosts = None if hosts is None else {host.lower() for host in hosts}
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on and add the headers."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        answer = self._refusal(scope, headers)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await (answer or self.app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> ASGIApp | None:
        host = headers.get("host", "").lower()
        if self.hosts is not None and host not in self.hosts:
            return PlainTextResponse("this server does not answer under this name", 421)
        if self.token is not None and not self._knows_token(headers):
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if not _same(given, self.token):
                return PlainTextResponse("open the whole address that `materia view` has printed, with its token", 403)
            entered = RedirectResponse("/", 303)
            entered.set_cookie(COOKIE, self.token, httponly=True, samesite="lax", path="/")
            return entered
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if scope["method"] in ("GET", "HEAD"):
            visit = headers.get("sec-fetch-mode") == "navigate" and scope["path"] == "/"
            return None if site in (None, "same-origin", "none") or visit else PlainTextResponse("not from another site", 403)
        own = {f"http://{host}", f"https://{host}"}
        if (
            site not in (None, "same-origin")
            or (site is None and origin is None)
            or (origin is not None and origin.lower() not in own)
        ):
            return PlainTextResponse("only the page itself may change anything", 403)
        if not headers.get("content-type", "").startswith("application/json"):
            return PlainTextResponse("send JSON", 415)
        return None

    def _knows_token(self, headers: dict[str, str]) -> bool:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and _same(cookie.value, self.token or "")


def _same(a: str, b: str) -> bool:
    return hmac.compare_digest(a.encode(), b.encode())
