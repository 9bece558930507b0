"""A write that has a condition happens if the file is as it was seen, and otherwise not at all."""

import threading
import uuid

import pytest

from materia.base import conditional, storage
from materia.base.conditional import Conflict


@pytest.fixture(params=["disk", "s3"])
def address(request, tmp_path):
    if request.param == "disk":
        return str(tmp_path / "folder" / "file")
    return storage.join(request.getfixturevalue("bucket"), uuid.uuid4().hex)


def test_a_new_file_is_made_once(address):
    assert storage.version(address) is None
    storage.atomic_write(address, b"one", replaces=None)
    with pytest.raises(Conflict):
        storage.atomic_write(address, b"two", replaces=None)
    assert storage.read_bytes(address) == b"one"


def test_who_finds_their_own_content_has_succeeded(address):
    storage.atomic_write(address, b"one", replaces=None)
    storage.atomic_write(address, b"one", replaces=None)
    seen = storage.version(address)
    storage.atomic_write(address, b"two", replaces=seen)
    storage.atomic_write(address, b"two", replaces=seen)
    assert storage.read_bytes(address) == b"two"


def test_a_file_is_replaced_only_as_it_was_seen(address):
    storage.atomic_write(address, b"one")
    seen = storage.version(address)
    storage.atomic_write(address, b"two", replaces=seen)
    with pytest.raises(Conflict):
        storage.atomic_write(address, b"three", replaces=seen)
    storage.remove(address)
    with pytest.raises(Conflict):
        storage.atomic_write(address, b"three", replaces=seen)
    assert not storage.exists(address)


def test_of_many_who_make_a_file_at_once_one_succeeds(address):
    won, start = [], threading.Barrier(4)

    def write(number):
        start.wait()
        try:
            storage.atomic_write(address, bytes([number]), replaces=None)
        except Conflict:
            return
        won.append(bytes([number]))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert won == [storage.read_bytes(address)]


@pytest.mark.parametrize("size", [3, 12 << 20], ids=["at once", "in parts"])
def test_what_a_store_takes_in_parts_has_the_same_conditions(bucket, size, monkeypatch):
    monkeypatch.setattr(conditional, "_PART_BYTES", 5 << 20)
    address = storage.join(bucket, uuid.uuid4().hex)
    storage.atomic_write(address, b"a" * size, replaces=None)
    seen = storage.version(address)
    storage.atomic_write(address, b"b" * size, replaces=seen)
    assert storage.read_bytes(address) == b"b" * size
    with pytest.raises(Conflict):
        storage.atomic_write(address, b"c" * size, replaces=seen)
    assert storage.read_bytes(address) == b"b" * size


def test_whether_a_store_checks_conditions_is_tried_out(address):
    assert storage.checks_conditions(address)
    assert not storage.exists(address)
