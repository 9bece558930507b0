"""An HTTP proxy before an S3 server that does what networks and busy stores do; the server behind it stays a real one.

In: the address of a server, faults by their names (`FAULTS`, `REFUSALS`), on command (`next`) or at a rate, drawn by a seed.
Out: requests served, answered wrongly, cut, delayed or left without an answer, and counts of what was done to which. A request
is read whole, sent on, its answer read whole and handed back, so a fault can be placed before the work, after it, or between.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

_BLOCK_BYTES = 1 << 16
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length"}

Kind = Literal["answer", "lose", "cut", "reset", "deafness", "silence", "stall"]


class Fault(NamedTuple):
    """What happens to a request. `done`: the server gets it and does it all the same.

    answer: `status` and the error `code` of S3 instead of the server's answer. lose: the connection ends without an answer.
    cut: it ends in the middle of the answer's body. reset: it ends in the middle of the request's body. deafness: there nothing
    more is read for the proxy's `silence_s`, and then it ends. silence: nothing is answered, nor closed, for so long. stall:
    half of the answer's body comes, the rest so long after.
    """

    kind: Kind
    done: bool
    status: int = 0
    code: str = ""


FAULTS = {
    "slow_down": Fault("answer", False, 503, "SlowDown"),
    "unavailable": Fault("answer", False, 503, "ServiceUnavailable"),
    "internal": Fault("answer", False, 500, "InternalError"),
    "internal_done": Fault("answer", True, 500, "InternalError"),
    "reset_request": Fault("reset", False),
    "deaf": Fault("deafness", False),
    "cut_answer": Fault("cut", True),
    "lost_answer": Fault("lose", True),
    "silence": Fault("silence", False),
    "silence_done": Fault("silence", True),
    "stalled_answer": Fault("stall", True),
    "expired": Fault("answer", False, 400, "ExpiredToken"),
    "conflict": Fault("answer", False, 409, "ConditionalRequestConflict"),
    "conflict_done": Fault("answer", True, 409, "ConditionalRequestConflict"),
    "refused": Fault("answer", False, 412, "PreconditionFailed"),
    "refused_done": Fault("answer", True, 412, "PreconditionFailed"),
}
REFUSALS = {
    "denied": Fault("answer", False, 403, "AccessDenied"),
    "unknown_key": Fault("answer", False, 403, "InvalidAccessKeyId"),
    "elsewhere": Fault("answer", False, 400, "AuthorizationHeaderMalformed"),
    "skewed": Fault("answer", False, 403, "RequestTimeTooSkewed"),
}
"""What no other attempt changes."""
CONDITIONAL = ("conflict", "conflict_done", "refused", "refused_done")
"""Only writes with If-Match or If-None-Match meet these."""


@dataclass(frozen=True)
class Request:
    """As it came. `path` has the query; names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def conditional(self) -> bool:
        """Whether it is a write under a condition."""
        return self.method in ("PUT", "POST") and bool({"if-match", "if-none-match"} & self.headers.keys())

    @property
    def sort(self) -> str:
        """A word for what S3 calls it."""
        query = urlsplit(self.path).query
        if self.method == "GET" and "list-type" in query:
            return "LIST"
        if "uploadId" in query:
            return {"PUT": "PART", "POST": "COMPLETE", "DELETE": "ABORT"}.get(self.method, self.method)
        return self.method


class Answer(NamedTuple):
    """Of a server: status, reason, headers but those of the connection, body."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


Matches = Callable[[Request], bool]


@dataclass
class _Command:
    """So many requests that match are to meet a fault."""

    fault: str
    times: int
    matches: Matches


@dataclass
class FaultProxy:
    """`faults` meet a share `rate` of all requests that they can meet; each takes `delay_s` besides.

    `token`: the session token that requests must bear, all others are ExpiredToken. `requests` counts by sort, `met` by fault;
    `address` is where it is reached.
    """

    server: str
    rate: float = 0.0
    faults: Sequence[str] = ()
    seed: int = 0
    delay_s: float = 0.0
    silence_s: float = 30.0
    token: str | None = None
    requests: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    address: str = ""

    def __post_init__(self) -> None:
        self._draws = random.Random(self.seed)
        self._lock = threading.Lock()
        self._commanded: list[_Command] = []
        self._ended = threading.Event()

    def next(self, fault: str, times: int = 1, matches: Matches = lambda request: True) -> None:
        """The next requests that match meet this fault, before any by chance."""
        with self._lock:
            self._commanded.append(_Command(fault, times, matches))

    def calm(self) -> None:
        """From now on nothing goes wrong; counts begin anew."""
        with self._lock:
            self._commanded.clear()
            self.rate = 0.0
            self.requests.clear()
            self.met.clear()

    def choose(self, request: Request) -> Fault | None:
        """The fault that a request meets."""
        with self._lock:
            self.requests[request.sort] += 1
            name = self._commanded_for(request) or self._by_chance(request)
            if name is None and self.token is not None and request.headers.get("x-amz-security-token") != self.token:
                name = "expired"
            if name is None:
                return None
            self.met[name] += 1
            return (FAULTS | REFUSALS)[name]

    def wait(self, seconds: float) -> None:
        """Let time pass, but not beyond the proxy's end."""
        self._ended.wait(seconds)

    def end(self) -> None:
        """Nobody waits any longer."""
        self._ended.set()

    def _commanded_for(self, request: Request) -> str | None:
        for command in self._commanded:
            able = command.times and (request.conditional or command.fault not in CONDITIONAL)
            if able and command.matches(request):
                command.times -= 1
                return command.fault
        return None

    def _by_chance(self, request: Request) -> str | None:
        able = [name for name in self.faults if request.conditional or name not in CONDITIONAL]
        return self._draws.choice(able) if able and self._draws.random() < self.rate else None


@contextmanager
def serving(proxy: FaultProxy) -> Iterator[str]:
    """The address at which a proxy is reached, while the block lasts."""
    server = Server(("127.0.0.1", 0), _handler(proxy))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    proxy.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield proxy.address
    finally:
        proxy.end()
        server.shutdown()
        server.server_close()


class Server(ThreadingHTTPServer):
    """A thread for each connection, which nobody waits for at the end."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what this is for."""


class _HungUpError(Exception):
    """The connection to the client is to end now."""


def _handler(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    address = urlsplit(proxy.server)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            self.upstream = HTTPConnection(address.hostname or "", address.port, timeout=600)

        def finish(self) -> None:
            self.upstream.close()
            with contextlib.suppress(OSError):
                super().finish()

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

        def handle_expect_100(self) -> bool:
            """Said when the body is to be read."""
            return True

        def serve(self) -> None:
            length = int(self.headers.get("content-length", 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, b"")
            fault = proxy.choose(request)
            try:
                request = Request(self.command, self.path, headers, self._body(length, fault))
                if proxy.delay_s:
                    proxy.wait(proxy.delay_s)
                answer = self._ask(request) if fault is None or fault.done else None
                self._meet(fault, answer, request)
            except (_HungUpError, OSError, HTTPException):
                self._hang_up()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

        def _body(self, length: int, fault: Fault | None) -> bytes:
            if self.headers.get("expect", "").lower() == "100-continue":
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if fault is not None and fault.kind in ("reset", "deafness"):
                self.rfile.read(length // 2)
                proxy.wait(proxy.silence_s if fault.kind == "deafness" else 0)
                raise _HungUpError
            body = self.rfile.read(length)
            if len(body) < length:  # the client was killed; what is behind must not take a part for all
                raise _HungUpError
            return body

        def _ask(self, request: Request) -> Answer:
            headers = {name: value for name, value in request.headers.items() if name not in _HOP_BY_HOP}
            if request.method in ("PUT", "POST"):
                headers["content-length"] = str(len(request.body))
            for last in (False, True):
                try:
                    self.upstream.request(request.method, request.path, request.body or None, headers)
                    got = self.upstream.getresponse()
                    break
                except (ConnectionError, HTTPException):  # it was kept open for too long, and nothing of it arrived
                    self.upstream.close()
                    if last:
                        raise
            kept = [(name, value) for name, value in got.getheaders() if name.lower() not in _HOP_BY_HOP]
            if request.method == "HEAD":
                kept.append(("Content-Length", got.getheader("content-length", "0")))
            return Answer(got.status, got.reason, kept, got.read())

        def _meet(self, fault: Fault | None, answer: Answer | None, request: Request) -> None:
            kind = fault.kind if fault is not None else None
            if kind == "silence":
                proxy.wait(proxy.silence_s)
            if kind in ("silence", "lose"):
                raise _HungUpError
            if fault is not None and kind == "answer":
                answer = _error(fault, request)
            assert answer is not None
            head = self._head(answer, request)
            if kind not in ("cut", "stall"):
                self.wfile.write(head + answer.body)
                return
            self.wfile.write(head + answer.body[: len(answer.body) // 2])
            if kind == "cut":
                raise _HungUpError
            proxy.wait(proxy.silence_s)
            self.wfile.write(answer.body[len(answer.body) // 2 :])

        def _head(self, answer: Answer, request: Request) -> bytes:
            lines = [f"HTTP/1.1 {answer.status} {answer.reason}", *(f"{name}: {value}" for name, value in answer.headers)]
            if request.method != "HEAD" and answer.status != 204:
                lines.append(f"Content-Length: {len(answer.body)}")
            return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

        def _hang_up(self) -> None:
            """With a reset, as from a machine that went."""
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

    return Handler


def _error(fault: Fault, request: Request) -> Answer:
    """As S3 words it; an answer to HEAD has no body, so that only the status tells."""
    text = f"<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>{fault.code}</Code><Message>by the proxy</Message></Error>"
    body = b"" if request.method == "HEAD" else text.encode()
    headers = [("Content-Type", "application/xml")]
    return Answer(fault.status, fault.code, headers, body)
