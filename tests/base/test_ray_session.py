"""A Ray that is not there, or cannot be, is a sentence within seconds."""

import http.server
import threading
import time

import pytest

from materia.base import ray_session
from materia.base.errors import UserError
from materia.base.ray_session import start_ray


@pytest.fixture
def web_server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9", "no Ray answers at 127.0.0.1:9"),
        ("ray://127.0.0.1:9", "no Ray answers at ray://127.0.0.1:9"),
        ("a-host.invalid:6379", "no Ray answers at a-host.invalid:6379"),
        ("a..b:6379", "no Ray answers at a..b:6379"),
        ("head", "'head' is not of the form HOST:PORT"),
        ("head:99999", "'head:99999' is not of the form HOST:PORT"),
        ("head:", "'head:' is not of the form HOST:PORT"),
    ],
)
def test_an_address_where_no_ray_is_fails_at_once(address, message):
    began = time.monotonic()
    with pytest.raises(UserError) as refused:
        start_ray(address, 100)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert time.monotonic() - began < 15


def test_another_server_is_no_ray(web_server, monkeypatch):
    with pytest.raises(UserError, match=f"what answers at {web_server} is no Ray"):
        start_ray(web_server, 100)
    monkeypatch.setenv("RAY_ADDRESS", web_server)
    with pytest.raises(UserError, match=f"what answers at {web_server} is no Ray"):
        start_ray("auto", 100)


def test_a_server_that_says_nothing_is_no_ray(monkeypatch):
    import socket

    monkeypatch.setattr(ray_session, "_ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=f"no Ray answers at {address}"):
            start_ray(address, 100)


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_too_deep_for_sockets_is_told_before_ray_starts(variable, monkeypatch, tmp_path):
    monkeypatch.setenv(variable, str(tmp_path / ("x" * 80)))
    with pytest.raises(UserError, match=r"a path of \d+ bytes, and 107 are possible; set RAY_TMPDIR to a shorter path"):
        start_ray(None, 100)
