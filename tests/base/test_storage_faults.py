"""S3 servers behind a proxy that fails in every way that networks and busy stores do: what was asked is done all the same."""

import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import NamedTuple
from urllib.parse import urlsplit

import fsspec
import pytest

from materia.base import conditional, retries, storage
from materia.base.conditional import ANY, Conflict
from materia.base.errors import NoWayIn, StorageFailed, explain
from materia.base.storage_settings import StorageOptions, use_storage
from tools.faults.proxy import CONDITIONAL, FaultProxy, serving
from tools.faults.servers import BUCKET, SERVERS, credentials, running

OLD, NEW = b"0123456789" * 100, b"abcdefghij" * 300
TIMEOUT_S = 0.3
PART = 5 << 20
IN_PARTS = bytes(2 * PART)


@pytest.fixture(scope="module")
def proxies() -> Iterator[dict[str, FaultProxy]]:
    """Each before a server of its own."""
    with ExitStack() as stack:
        found = {name: FaultProxy(stack.enter_context(running(name)), silence_s=3 * TIMEOUT_S) for name in SERVERS}
        for proxy in found.values():
            stack.enter_context(serving(proxy))
        yield found


@pytest.fixture
def server() -> str:
    """Where it is of no weight what a server answers; other tests are told by `of_each`."""
    return SERVERS[0]


of_each = pytest.mark.parametrize("server", SERVERS)


@pytest.fixture
def proxy(server, proxies) -> FaultProxy:
    """That one is asked for all here."""
    return proxies[server]


@pytest.fixture(autouse=True)
def hurried(monkeypatch, proxy):
    """All is asked of the proxy; pauses are short, and one layer retries."""
    monkeypatch.setattr(retries, "PAUSES_S", (0.0, *[0.01] * 5))
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.0)
    for name, value in (credentials() | {"AWS_MAX_ATTEMPTS": "1", "FSSPEC_S3": "{}"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(fsspec.config, "conf", {})
    use_storage({"s3": StorageOptions(endpoint=proxy.address, timeout_s=TIMEOUT_S)})
    proxy.calm()


@pytest.fixture
def address(proxy) -> str:
    """Of a file that holds OLD."""
    address = f"s3://{BUCKET}/{secrets.token_hex(8)}/a"
    storage.atomic_write(address, OLD)
    proxy.calm()
    return address


def content(address: str) -> bytes | None:
    return storage.read_bytes(address) if storage.exists(address) else None


class Operation(NamedTuple):
    """`do` something with a file that holds OLD, of which requests of a sort fail; what it gives, and what is there then."""

    do: Callable[[str], object]
    request: str
    gives: object = None
    leaves: bytes | None = OLD


def opened(address):
    with storage.open_read(address) as file:
        file.seek(3)
        return file.read(4)


def copied(address):
    with storage.local_copy(address) as path:
        return path.read_bytes()


def made(address):
    storage.remove(address)
    storage.atomic_write(address, NEW, replaces=None)


def replaced(address):
    storage.atomic_write(address, NEW, replaces=storage.version(address))


READS = {
    "read a range": Operation(lambda address: storage.read_bytes(address, 3, 7), "GET", b"3456"),
    "read a file": Operation(opened, "GET", b"3456"),
    "fetch": Operation(copied, "GET", OLD),
    "size": Operation(storage.size, "HEAD", len(OLD)),
    "list": Operation(lambda address: storage.listdir(address.rpartition("/")[0]), "LIST", ["a"]),
    "look": Operation(lambda address: storage.exists(address + "?"), "LIST", False),
}
WRITES = {
    "write": Operation(lambda address: storage.atomic_write(address, NEW), "PUT", None, NEW),
    "remove": Operation(storage.remove, "DELETE", None, None),
}
CONDITIONS = {
    "create": Operation(made, "PUT", None, NEW),
    "replace": Operation(replaced, "PUT", None, NEW),
}
FAILED_READS = ("slow_down", "reset_request", "lost_answer", "cut_answer", "silence", "stalled_answer")
FAILED_WRITES = ("slow_down", "internal_done", "reset_request", "lost_answer", "silence_done")
OF_ANY_SERVER = [  # what it answers is of no weight here
    *[(operation, fault) for operation in READS for fault in FAILED_READS],
    *[(operation, fault) for operation in WRITES for fault in FAILED_WRITES],
    *[(operation, "expired") for operation in ("size", "create")],
]
CASES = [
    *[(SERVERS[0], *case) for case in OF_ANY_SERVER],
    *[(server, operation, fault) for server in SERVERS for operation in CONDITIONS for fault in (*FAILED_WRITES, *CONDITIONAL)],
]


@pytest.mark.parametrize(("server", "name", "fault"), CASES)
def test_whatever_fails_for_a_while_is_done(server, proxy, address, name, fault):
    operation = (READS | WRITES | CONDITIONS)[name]
    proxy.next(fault, 2, lambda request: request.sort == operation.request)
    assert operation.do(address) == operation.gives
    assert proxy.met[fault]
    proxy.calm()
    assert content(address) == operation.leaves


def test_an_answer_without_words_is_of_no_other_file(proxy, address):
    """HEAD is answered with 400: whoever asks on, to hear why, may hear that nothing is there, which was to be so."""
    proxy.next("refused", 1)
    proxy.next("expired", 2, lambda request: request.sort == "HEAD")  # of the file, and of the bucket, by botocore
    made(address)
    assert proxy.met == {"refused": 1, "expired": 2}
    assert content(address) == NEW


@pytest.fixture
def in_parts(monkeypatch):
    """Uploads are of parts from 10 MiB on."""
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, chunksize=None: PART)
    monkeypatch.setattr(conditional, "_PART_BYTES", PART)


@of_each
@pytest.mark.parametrize("condition", ["any", "new", "seen"])
def test_an_upload_in_parts_comes_through(proxy, address, in_parts, condition):
    """Though a part fails, and whatever can happen at its end."""
    if condition == "new":
        storage.remove(address)
    replaces = {"any": ANY, "new": None, "seen": storage.version(address)}[condition]
    proxy.next("slow_down", 1, lambda request: request.sort == "PART")
    proxy.next("reset_request", 1, lambda request: request.sort == "PART")
    for fault in ("internal", *(CONDITIONAL[:1] if condition != "any" else ()), "lost_answer"):
        proxy.next(fault, 1, lambda request: request.sort == "COMPLETE")
    storage.atomic_write(address, IN_PARTS, replaces)
    assert proxy.requests["COMPLETE"] >= 2 and proxy.met["lost_answer"] == 1
    proxy.calm()
    assert content(address) == IN_PARTS


def test_a_server_that_stops_reading_is_left_before_it_goes_on(proxy, address):
    """What waits is more than the kernel takes off a process's hands."""
    proxy.next("deaf", 1)
    began = time.monotonic()
    proxy.silence_s = 20.0
    storage.atomic_write(address, bytes(24 << 20))
    proxy.silence_s = 3 * TIMEOUT_S
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("fault", ["slow_down", "silence", "cut_answer"])
def test_a_store_that_stays_away_is_told_by_what_it_did_last(proxy, address, fault):
    proxy.next(fault, 100)
    with pytest.raises(StorageFailed) as failed:
        storage.read_bytes(address, 3, 7)
    words = {"slow_down": "SlowDown", "silence": "ReadTimeoutError", "cut_answer": "ClientPayloadError"}
    assert str(failed.value) == f"the storage failed 6 times, last with {words[fault]}"
    assert failed.value.address == address
    assert proxy.requests == {"GET": 6}


def test_a_writer_that_is_killed_in_mid_request_changes_nothing(proxy, address):
    """The proxy is no worse than a server, which does nothing with less than was announced."""
    server = urlsplit(proxy.address)
    head = [
        f"PUT /{address.removeprefix('s3://')} HTTP/1.1",
        f"Host: {server.netloc}",
        "Authorization: AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=s",
        f"Content-Length: {len(NEW)}",
    ]
    with socket.create_connection((server.hostname, server.port), timeout=10) as connection, suppress(ConnectionResetError):
        connection.sendall("\r\n".join([*head, "", ""]).encode() + NEW[:100])
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1024):
            pass
    assert content(address) == OLD


def test_requests_of_a_question_are_counted(proxy, address, monkeypatch):
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    all_of_them = 3 * len(retries.PAUSES_S)
    for ask, sort in ((lambda: storage.read_bytes(address, 3, 7), "GET"), (lambda: storage.size(address), "HEAD")):
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # the last one was told otherwise
        proxy.calm()
        proxy.next("slow_down", 100)
        with pytest.raises(StorageFailed):
            ask()
        # One whose connection is lost on the way is an attempt that the proxy does not see.
        assert set(proxy.requests) == {sort} and all_of_them - 1 <= proxy.requests[sort] <= all_of_them


@pytest.mark.parametrize("ask", ["read a range", "size", "write", "list"])
def test_what_is_refused_is_of_this_file_or_of_all(proxy, address, ask):
    """At once, and with what to do about it."""
    do = (READS | WRITES)[ask].do
    proxy.next("denied", 4)
    with pytest.raises(PermissionError) as denied:
        do(address)
    assert denied.value.filename == (address if ask != "list" else address.rpartition("/")[0])
    for refusal, words in (("unknown_key", "InvalidAccessKeyId"), ("elsewhere", "region"), ("skewed", "clock")):
        proxy.calm()
        proxy.next(refusal, 9)
        with pytest.raises(NoWayIn, match=words) as closed:
            do(address)
        assert explain(closed.value)[1] == 2
        assert proxy.requests.total() <= 4  # botocore looks whether the bucket is in another region


def test_credentials_that_were_renewed_are_taken_without_a_stop(proxy, address, tmp_path, monkeypatch):
    """From a profile, as programs that fetch short-lived ones write it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    profiles = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profiles))
    lines = "[default]\naws_access_key_id = k\naws_secret_access_key = s\naws_session_token = {}\n"

    def renew(request):
        profiles.write_text(lines.format("new"))
        return False  # it meets nothing but the token

    profiles.write_text(lines.format("old"))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    monkeypatch.setattr(proxy, "token", "old")
    assert storage.read_bytes(address, 3, 7) == b"3456"
    proxy.token = "new"
    with pytest.raises(NoWayIn, match="ExpiredToken") as expired:
        storage.size(address)
    assert explain(expired.value)[1] == 5 and "the same command goes on" in str(expired.value)
    proxy.next("expired", 1, renew)
    assert storage.read_bytes(address, 3, 7) == b"3456"


@of_each
@pytest.mark.parametrize("condition", ["new", "seen"])
def test_a_conflict_is_one_whatever_fails_besides(proxy, address, condition):
    replaces = None if condition == "new" else storage.version(address)
    storage.atomic_write(address, b"of somebody else")
    for fault in ("slow_down", "conflict", "lost_answer"):
        proxy.next(fault, 1, lambda request: request.conditional)
    with pytest.raises(Conflict):
        storage.atomic_write(address, NEW, replaces)
    assert content(address) == b"of somebody else"
