"""A small file server and model hub on this machine, that breaks connections, forgets files and lies on command."""

import hashlib
import json
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "abcd"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class ModelServer(ThreadingHTTPServer):
    """`files`: path -> bytes, served with ranges. `repos`: OWNER/NAME -> {file: bytes}, served as a hub does.

    `break_after` bytes of a body the connection ends, once for each path in `breaks`; `refuse`: statuses to answer first;
    `stated`: OWNER/NAME/FILE -> the SHA-256 that the hub's metadata gives instead of the true one.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.repos: dict[str, dict[str, bytes]] = {}
        self.stated: dict[str, str] = {}
        self.break_after = 0
        self.breaks: list[str] = []
        self.refuse: list[int] = []
        self.asked: list[tuple[str, str, str]] = []  # method, path, range
        self.sent: Counter[str] = Counter()  # bytes of bodies, by path

    def handle_error(self, *_):
        """Broken connections are what we are here for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ModelServer

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path, self.headers.get("Range", "")))
        if self.server.refuse:
            self._send(self.server.refuse.pop(0), b"")
        elif path in self.server.files:
            self._send_file(path, self.server.files[path], {})
        elif path.startswith("/api/models/"):
            self._send_listing(path.removeprefix("/api/models/").split("/"))
        else:
            owner, name, *rest = path.removeprefix("/").split("/")
            files = self.server.repos.get(f"{owner}/{name}", {})
            file = "/".join(rest[2:])
            if rest[:1] != ["resolve"] or file not in files:
                self._send(404, b"<html>not found</html>", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                return
            etag = self._stated(f"{owner}/{name}", file)
            linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(files[file]))}
            self._send_file(path, files[file], {"X-Repo-Commit": COMMIT} | linked)

    def _stated(self, repo, file):
        return self.server.stated.get(f"{repo}/{file}", sha256(self.server.repos[repo][file]))

    def _send_listing(self, parts):
        repo, what = "/".join(parts[:2]), parts[2:3]
        if repo not in self.server.repos:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        files = self.server.repos[repo].items()
        large = lambda name: name.endswith((".safetensors", ".bin", ".pth"))  # noqa: E731
        if what == ["tree"]:
            listing = [
                {"type": "file", "path": name, "size": len(data), "oid": sha256(data)[:40]}
                | ({"lfs": {"oid": self._stated(repo, name), "size": len(data), "pointerSize": 134}} if large(name) else {})
                for name, data in files
            ]
        else:
            siblings = [
                {"rfilename": name, "size": len(data), "blobId": sha256(data)[:40]}
                | ({"lfs": {"sha256": self._stated(repo, name), "size": len(data), "pointerSize": 134}} if large(name) else {})
                for name, data in files
            ]
            listing = {"_id": "1", "id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings}
        self._send(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})

    def _send_file(self, path, data, headers):
        etag = headers.get("X-Linked-Etag", f'"{sha256(data)[:16]}"')
        headers = headers | {"ETag": etag, "Accept-Ranges": "bytes"}
        start = 0
        if (wanted := self.headers.get("Range")) and self.headers.get("If-Range", etag) == etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206 if start else 200, data[start:], headers, path)

    def _send(self, status, body, headers=(), path=""):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if path in self.server.breaks and len(body) > self.server.break_after:
            self.server.breaks.remove(path)
            body, self.close_connection = body[: self.server.break_after], True
        self.wfile.write(body)
        self.server.sent[path] += len(body)


@contextmanager
def serving():
    """A server for the length of a test."""
    server = ModelServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
