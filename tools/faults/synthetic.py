"""An S3 server whose objects are not stored but made when they are asked for, so that folders of millions cost nothing.

In: names of objects in order, with a function that makes one's bytes. Out: HEAD, GET with byte ranges, ListObjectsV2 in pages
of 1,000, as S3 has them. What is written covers what is made, and is kept in memory; what is deleted has gone. Conditions of
writes are checked, uploads in parts are not taken. Every answer takes `delay_s`, however many are asked for at a time.
"""

from __future__ import annotations

import bisect
import hashlib
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tools.faults.proxy import Server

_MOST_KEYS = 1000
_AFTER_ALL = "\U0010ffff"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Page(NamedTuple):
    """Of a listing: objects, common prefixes, and the last name if there are more."""

    names: list[str]
    prefixes: list[str]
    last: str | None


@dataclass
class Store:
    """Objects by `bucket/name`. `names`: those that are made, in ascending order; `size` tells how long one is, unmade.

    `requests` counts by method, LIST apart.
    """

    names: Sequence[str] = ()
    make: Callable[[str], bytes] = lambda name: b""
    size: Callable[[str], int] | None = None
    delay_s: float = 0.0
    requests: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self._written: dict[str, bytes] = {}
        self._order: list[str] = []  # of what was written
        self._gone: set[str] = set()

    def get(self, name: str) -> bytes:
        """The bytes of an object that is there."""
        return self._written[name] if name in self._written else self.make(name)

    def size_of(self, name: str) -> int:
        """Of an object that is there."""
        return self.size(name) if self.size is not None and name not in self._written else len(self.get(name))

    def tag(self, name: str) -> str | None:
        """An object's ETag; None if there is none. Of one that is made it is of its name."""
        if (written := self._written.get(name)) is not None:
            return f'"{_digest(written)}"'
        return f'"{_digest(name.encode())}"' if self._is_made(name) else None

    def put(self, name: str, data: bytes | None) -> None:
        """Write an object, or (None) delete it."""
        if name in self._written:
            del self._order[bisect.bisect_left(self._order, name)]
            del self._written[name]
        if data is None:
            self._gone.add(name)
        else:
            self._written[name] = data
            bisect.insort(self._order, name)

    def page(self, prefix: str, delimiter: str, after: str, most: int) -> Page:
        """Objects below a prefix that come after a name."""
        names: list[str] = []
        prefixes: list[str] = []
        last = after
        while True:
            name = self._next(max(last, prefix), equal=last < prefix)
            if name is None or not name.startswith(prefix):
                return Page(names, prefixes, None)
            if len(names) + len(prefixes) == most:
                return Page(names, prefixes, last)
            end = name.find(delimiter, len(prefix)) if delimiter else -1
            if end < 0:
                names.append(name)
                last = name
            else:
                prefixes.append(name[: end + 1])
                last = name[: end + 1] + _AFTER_ALL

    def _is_made(self, name: str) -> bool:
        place = bisect.bisect_left(self.names, name)
        return place < len(self.names) and self.names[place] == name and name not in self._gone

    def _next(self, after: str, equal: bool) -> str | None:
        """The first name that comes after one, or is it if `equal`."""
        find = bisect.bisect_left if equal else bisect.bisect_right
        made = find(self.names, after)
        while made < len(self.names) and self.names[made] in self._gone:
            made += 1
        written = find(self._order, after)
        return min([*self.names[made : made + 1], *self._order[written : written + 1]], default=None)


@contextmanager
def serving(store: Store) -> Iterator[str]:
    """The address at which a store is reached, while the block lasts."""
    server = Server(("127.0.0.1", 0), _handler(store))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _handler(store: Store) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            address = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(address.query, keep_blank_values=True).items()}
            name = unquote(address.path).removeprefix("/")
            listing = self.command == "GET" and "list-type" in query
            time.sleep(store.delay_s)
            with store.lock:
                store.requests["LIST" if listing else self.command] += 1
                if listing:
                    self._list(name.strip("/"), query)
                elif self.command in ("GET", "HEAD"):
                    self._get(name)
                else:
                    self._write(name, body)

        do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = serve

        def _list(self, bucket: str, query: dict[str, str]) -> None:
            after = query.get("continuation-token") or query.get("start-after", "")
            most = min(int(query.get("max-keys", _MOST_KEYS)), _MOST_KEYS)
            prefix = query.get("prefix", "")
            page = store.page(f"{bucket}/{prefix}", query.get("delimiter", ""), f"{bucket}/{after}" if after else "", most)
            key = len(bucket) + 1
            parts = [f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><MaxKeys>{most}</MaxKeys>"]
            parts += [f"<KeyCount>{len(page.names) + len(page.prefixes)}</KeyCount>"]
            parts += [f"<IsTruncated>{'false' if page.last is None else 'true'}</IsTruncated>"]
            if page.last is not None:
                parts.append(f"<NextContinuationToken>{escape(page.last[key:])}</NextContinuationToken>")
            for name in page.names:
                parts.append(
                    f"<Contents><Key>{escape(name[key:])}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                    f"<ETag>{store.tag(name)}</ETag><Size>{store.size_of(name)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
                )
            parts += [f"<CommonPrefixes><Prefix>{escape(prefix[key:])}</Prefix></CommonPrefixes>" for prefix in page.prefixes]
            self._answer(200, f"<ListBucketResult>{''.join(parts)}</ListBucketResult>".encode())

        def _get(self, name: str) -> None:
            if "/" not in name:
                self._answer(200, b"")
                return
            tag = store.tag(name)
            if tag is None:
                self._error(404, "NoSuchKey")
                return
            headers = {"ETag": tag, "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "Accept-Ranges": "bytes"}
            if self.command == "HEAD":
                self._answer(200, b"", headers | {"Content-Length": str(store.size_of(name))})
                return
            data = store.get(name)
            wanted = _RANGE.fullmatch(self.headers.get("range", ""))
            if wanted is None:
                self._answer(200, data, headers)
                return
            first, end = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
            if first >= len(data):
                self._error(416, "InvalidRange")
                return
            self._answer(206, data[first:end], headers | {"Content-Range": f"bytes {first}-{end - 1}/{len(data)}"})

        def _write(self, name: str, body: bytes) -> None:
            if self.command == "POST":
                self._error(501, "NotImplemented")
                return
            there, wanted = store.tag(name), self.headers.get("if-match")
            taken = self.headers.get("if-none-match") == "*" and there is not None
            if taken or (wanted is not None and there != f'"{wanted.strip(chr(34))}"'):
                self._error(412, "PreconditionFailed")
                return
            if self.command == "DELETE":
                store.put(name, None)
                self._answer(204, b"")
            else:
                store.put(name, body)
                self._answer(200, b"", {"ETag": store.tag(name) or ""})

        def _error(self, status: int, code: str) -> None:
            self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

        def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler


def _digest(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
