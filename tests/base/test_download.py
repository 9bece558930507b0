"""Fetching by https: resumed, retried, verified, placed whole or not at all."""

import model_server
import pytest
from model_server import sha256

from materia.base.weights import download
from materia.base.weights.download import DownloadError, fetch_url
from materia.base.weights.files import local_path

DATA = bytes(range(256)) * 4096  # 1 MiB
PATH = "/models/sam.pth"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("MATERIA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.001)
    with model_server.serving() as server:
        server.files[PATH] = DATA
        yield server


def fetch(url, expected=None, tell=lambda done, total: None):
    return fetch_url(url, expected, tell)


def leftovers(path):
    return [file.name for file in path.parent.iterdir() if file != path]


def test_a_file_lies_where_its_address_says_and_nothing_else(server):
    path = fetch(server.url + PATH, sha256(DATA))
    assert path == local_path(server.url + PATH)
    assert path.read_bytes() == DATA
    assert leftovers(path) == []


def test_progress_is_told_in_bytes_of_the_whole(server):
    told = []
    fetch(server.url + PATH, None, lambda done, total: told.append((done, total)))
    assert told[-1] == (len(DATA), len(DATA))


def test_a_broken_connection_is_taken_up_where_it_broke(server):
    server.break_after, server.breaks = 700_000, [PATH]
    assert fetch(server.url + PATH, sha256(DATA)).read_bytes() == DATA
    assert server.asked[-1][2].startswith("bytes=")
    assert server.sent[PATH] < 1.5 * len(DATA)


def test_a_pull_that_died_is_gone_on_with_by_the_next(server):
    server.break_after, server.breaks = 300_000, [PATH] * 5

    def die(done, total):
        if done > 500_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server.url + PATH, sha256(DATA), die)
    server.asked.clear()
    server.breaks.clear()
    path = fetch(server.url + PATH, sha256(DATA))
    assert path.read_bytes() == DATA
    assert server.asked[0][2].startswith("bytes=")


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(server):
    server.break_after, server.breaks = 300_000, [PATH]

    def die(done, total):
        server.files[PATH] = DATA[::-1]

    path = fetch(server.url + PATH, None, die)
    assert path.read_bytes() == DATA[::-1]


def test_a_part_that_was_complete_is_not_fetched_again(server):
    path = local_path(server.url + PATH)
    path.parent.mkdir(parents=True)
    path.with_name("sam.pth.part").write_bytes(DATA)
    path.with_name("sam.pth.part.etag").write_text(f'"{sha256(DATA)[:16]}"')
    assert fetch(server.url + PATH, sha256(DATA)).read_bytes() == DATA
    assert server.sent[PATH] == 0
    assert leftovers(path) == []


def test_a_busy_server_is_asked_again(server):
    server.refuse = [503, 429, 500]
    assert fetch(server.url + PATH, sha256(DATA)).read_bytes() == DATA


def test_a_server_that_stays_broken_is_given_up_in_one_line(server):
    server.refuse = [503] * 99
    with pytest.raises(DownloadError, match=r"sam\.pth cannot be fetched: the server answers 503"):
        fetch(server.url + PATH, None)
    assert len(server.asked) == download.TRIES


def test_a_file_that_is_not_there_is_asked_for_once(server):
    with pytest.raises(DownloadError, match="404"):
        fetch(server.url + "/models/none.pth", None)
    assert len(server.asked) == 1


def test_another_hash_is_named_and_the_file_removed(server):
    with pytest.raises(DownloadError) as raised:
        fetch(server.url + PATH, "0" * 64)
    assert all(part in str(raised.value) for part in (server.url + PATH, "0" * 64, sha256(DATA)))
    assert list(local_path(server.url + PATH).parent.iterdir()) == []
