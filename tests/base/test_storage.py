"""Files appear whole or not at all, on a disk and in an object store."""

import os
import secrets
import uuid
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from materia.base import retries, storage
from materia.base.errors import StorageFailed
from stages.video.source import local_copy


@pytest.fixture(params=["disk", "store"])
def root(request, tmp_path):
    return str(tmp_path) if request.param == "disk" else f"memory://{uuid.uuid4().hex}"


def test_a_written_file_is_read_back_and_listed(root):
    address = storage.join(root, "shards", "000000.tar")
    assert not storage.exists(address)
    storage.atomic_write(address, b"one")
    storage.atomic_write(address, lambda file: file.write(b"another") and None)
    assert storage.read_bytes(address) == b"another"
    assert storage.size(address) == 7
    assert storage.listdir(storage.join(root, "shards")) == ["000000.tar"]
    with storage.local_copy(address) as copy:
        assert copy.read_bytes() == b"another"
        assert copy.name == "000000.tar"


def test_a_missing_folder_is_empty_and_a_missing_file_raises(root):
    assert storage.listdir(storage.join(root, "nowhere")) == []
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(root, "nowhere", "x"))


def test_removing_works_twice(root):
    address = storage.join(root, "a")
    storage.atomic_write(address, b"x")
    storage.remove(address)
    storage.remove(address)
    assert not storage.exists(address)


def test_what_is_not_published_never_appears_and_keeps_the_old_content(root):
    address = storage.join(root, "a", "b")
    storage.atomic_write(address, b"old")
    with storage.staged(address) as staging:
        staging.file.write(b"half")
    with pytest.raises(RuntimeError), storage.staged(address) as staging:
        staging.file.write(b"half")
        raise RuntimeError
    assert storage.read_bytes(address) == b"old"
    assert storage.listdir(storage.join(root, "a")) == ["b"]


def test_readers_do_not_list_temporary_files_and_the_next_start_removes_them(tmp_path):
    out = str(tmp_path)
    storage.atomic_write(storage.join(out, "index", "000000.parquet"), b"x")
    (tmp_path / "index" / ".000001.parquet.0123abcd.tmp").write_bytes(b"half")
    (tmp_path / "index" / "notes.tmp").write_bytes(b"a user's own file")
    assert storage.listdir(storage.join(out, "index")) == ["000000.parquet", "notes.tmp"]
    assert storage.clean_temporaries(out) == 1
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["000000.parquet", "notes.tmp"]


def test_the_name_in_use_while_writing_counts_as_temporary(tmp_path):
    with storage.staged(str(tmp_path / "000000.tar")) as staging:
        staging.file.write(b"half")
        assert len(storage.temporaries(str(tmp_path))) == 1
        assert storage.listdir(str(tmp_path)) == []


def test_a_pipe_or_a_folder_is_refused_at_once_instead_of_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(retries.NotAFile):
            storage.open_read(str(tmp_path / name))


def test_file_urls_are_paths():
    assert storage.local_path("file:///data/a b") == Path("/data/a b")
    assert storage.local_path("s3://bucket/key") is None
    assert storage.join("s3://bucket/out/", "shards", "0.tar") == "s3://bucket/out/shards/0.tar"
    assert storage.join("/", "tmp") == "/tmp"


class Unreliable(MemoryFileSystem):
    """Fails as often as is said, each time with another request id."""

    protocol = "unreliable"
    failures = 0

    def _open(self, path, *arguments, **options):
        if Unreliable.failures:
            Unreliable.failures -= 1
            raise RuntimeError(f"request {secrets.token_hex(8)} timed out")
        return super()._open(path, *arguments, **options)


@pytest.fixture
def unreliable(monkeypatch):
    fsspec.register_implementation("unreliable", Unreliable, clobber=True)
    monkeypatch.setattr(retries, "PAUSES_S", (0.0,) * 4)
    address = f"unreliable://{secrets.token_hex(8)}/a.mp4"
    with fsspec.open(address, "wb") as file:
        file.write(b"a clip")
    return address


def test_a_clip_is_fetched_again_when_its_storage_fails_for_a_moment(unreliable):
    Unreliable.failures = 3
    with local_copy(unreliable) as path:
        assert path.read_bytes() == b"a clip"


def test_a_storage_that_stays_away_is_told_in_the_same_words_every_time(unreliable):
    told = set()
    for _ in range(2):
        Unreliable.failures = 4
        with pytest.raises(StorageFailed) as failed, local_copy(unreliable):
            pass
        told.add(str(failed.value))
    assert told == {"the storage failed 4 times, last with RuntimeError"}


def test_what_is_not_there_is_not_asked_for_again(unreliable):
    with pytest.raises(FileNotFoundError), local_copy("unreliable://clips/none.mp4"):
        pass
