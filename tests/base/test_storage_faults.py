"""Two S3 servers behind a proxy that fails in every way that networks and busy stores do: what was asked is done all the same."""

import re
import secrets
from collections.abc import Callable, Iterator
from typing import NamedTuple

import botocore.retries.standard
import fsspec
import pytest
import s3fs.core

from materia.base import conditional, retries, storage
from materia.base.conditional import Conflict
from materia.base.errors import NoWayIn, StorageFailed
from materia.base.storage_settings import StorageOptions, use_storage
from tools.faults.proxy import CONDITIONAL, FAULTS, FaultProxy, serving
from tools.faults.servers import BUCKET, SERVERS, credentials, running

OLD, NEW = b"0123456789" * 100, b"abcdefghij" * 300
TIMEOUT_S = 0.3
PART = 5 << 20


@pytest.fixture(scope="module", params=SERVERS)
def proxy(request) -> Iterator[FaultProxy]:
    """Before a server of its own."""
    with running(request.param) as server:
        proxy = FaultProxy(server, silence_s=3 * TIMEOUT_S)
        with serving(proxy):
            yield proxy


@pytest.fixture(autouse=True)
def hurried(monkeypatch, proxy):
    """All is asked of the proxy; pauses are short, and one layer retries."""
    monkeypatch.setattr(retries, "PAUSES_S", (0.0, *[0.01] * 5))
    monkeypatch.setattr(botocore.retries.standard.ExponentialBackoff, "delay_amount", lambda self, context: 0.0)
    for name, value in (credentials(proxy.address) | {"AWS_MAX_ATTEMPTS": "1", "FSSPEC_S3": "{}"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(fsspec.config, "conf", {})
    use_storage({"s3": StorageOptions(endpoint=proxy.address, timeout_s=TIMEOUT_S)})
    proxy.calm()


@pytest.fixture
def address() -> str:
    """Of a file that holds OLD."""
    address = f"s3://{BUCKET}/{secrets.token_hex(8)}/a"
    storage.atomic_write(address, OLD)
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
UNCONDITIONAL = [fault for fault in FAULTS if fault not in CONDITIONAL and fault != "unavailable"]
CASES = [
    *[(operation, fault) for operation in READS for fault in UNCONDITIONAL if not fault.endswith("_done")],
    *[(operation, fault) for operation in WRITES for fault in UNCONDITIONAL if "answer" not in fault],
    *[(operation, fault) for operation in CONDITIONS for fault in [*UNCONDITIONAL, *CONDITIONAL]],
]


@pytest.mark.parametrize(("name", "fault"), CASES)
def test_whatever_fails_for_a_while_is_done(proxy, address, name, fault):
    operation = (READS | WRITES | CONDITIONS)[name]
    proxy.next(fault, 2, lambda request: request.sort == operation.request)
    assert operation.do(address) == operation.gives
    assert proxy.met[fault]
    proxy.calm()
    assert content(address) == operation.leaves
