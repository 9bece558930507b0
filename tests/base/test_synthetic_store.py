"""The server of objects that are not stored is one to s3fs, and to our own storage."""

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from materia.base import storage
from materia.base.conditional import Conflict
from materia.base.storage_settings import StorageOptions, use_storage
from tools.faults.servers import credentials
from tools.faults.synthetic import Page, Store, serving

KEYS = [f"bucket/out/commits/{chunk:06d}.json" for chunk in range(2500)]
OUT = "s3://bucket/out"


def content(name: str) -> bytes:
    return f'{{"chunk": "{name}"}}'.encode()


@pytest.fixture
def store(monkeypatch):
    store = Store(KEYS, content, lambda name: len(content(name)))
    for name, value in (credentials() | {"FSSPEC_S3": "{}"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(fsspec.config, "conf", {})
    with serving(store) as address:
        use_storage({"s3": StorageOptions(endpoint=address)})
        yield store


def test_what_is_made_is_listed_and_read_and_what_is_written_covers_it(store):
    assert storage.listdir(f"{OUT}/commits") == [key.rpartition("/")[2] for key in KEYS]
    assert store.requests == {"LIST": 3}
    assert storage.listdir(OUT) == ["commits"]
    assert storage.sizes(f"{OUT}/commits")["000007.json"] == len(content(KEYS[7]))
    seven = f"{OUT}/commits/000007.json"
    assert storage.read_bytes(seven) == content(KEYS[7])
    assert storage.read_bytes(seven, 2, 7) == content(KEYS[7])[2:7]
    with pytest.raises(Conflict):
        storage.atomic_write(seven, b"mine", replaces=None)
    storage.atomic_write(seven, b"mine", replaces=storage.version(seven))
    assert storage.read_bytes(seven) == b"mine"
    storage.remove(seven)
    assert not storage.exists(seven) and "000007.json" not in storage.listdir(f"{OUT}/commits")
    storage.atomic_write(f"{OUT}/dataset.json", b"{}", replaces=None)
    assert storage.listdir(OUT) == ["commits", "dataset.json"]
    assert storage.exists(f"{OUT}/commits") and not storage.exists(f"{OUT}/shards")


names = st.lists(st.text("ab/", min_size=1, max_size=5), max_size=12, unique=True)


@given(made=names, written=names, gone=names, prefix=st.text("ab/", max_size=3), delimiter=st.sampled_from(["", "/"]))
@settings(max_examples=60)
def test_pages_hold_together_what_there_is(made, written, gone, prefix, delimiter):
    store = Store(sorted(made))
    for name in written:
        store.put(name, b"x")
    for name in gone:
        store.put(name, None)
    there = sorted(name for name in {*made, *written} - {*gone} if name.startswith(prefix))
    ends = {name: name.find(delimiter, len(prefix)) if delimiter else -1 for name in there}
    pages, after = [], ""
    while not pages or pages[-1].last is not None:
        pages.append(store.page(prefix, delimiter, after, 2))
        after = pages[-1].last
    assert all(isinstance(page, Page) and len(page.names) + len(page.prefixes) <= 2 for page in pages)
    assert [name for page in pages for name in page.names] == [name for name in there if ends[name] < 0]
    assert [prefix for page in pages for prefix in page.prefixes] == sorted({n[: e + 1] for n, e in ends.items() if e >= 0})
