"""Addresses of weights: where they lie, what is wrong with what lies there, and what identifies them."""

import hashlib
import json
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from materia.base.weights.files import (
    PACKAGED,
    PULL,
    HashedFile,
    Weights,
    check_address,
    folder_sha256,
    hub_address,
    identity_of,
    local_path,
    model_files,
    packaged,
    sha256_of,
    weights_missing,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MATERIA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def model_folder(path: Path, **files: bytes) -> Path:
    path.mkdir()
    for name, data in ({"config.json": b"{}", "model.safetensors": b"tensors"} | files).items():
        (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("hf://some/model", ("some/model", None, "main")),
        ("hf://some/model@v1.0", ("some/model", None, "v1.0")),
        ("hf://some/model/sub/file.pth", ("some/model", "sub/file.pth", "main")),
        ("hf://some/model/file.pth@refs/pr/3", ("some/model", "file.pth", "refs/pr/3")),
    ],
)
def test_a_hub_address_has_repository_file_and_revision(address, parts):
    hub = hub_address(address)
    assert (hub.repo, hub.file, hub.revision) == parts


@pytest.mark.parametrize(
    "address",
    [
        "",
        "hf://model",
        "hf://some/",
        "hf:///model",
        "hf://some/model/",
        "hf://some/model@",
        "hf://../model",
        "hf://some/..",
        "hf://some/model/../../secret",
        "hf://some/model@../../refs",
        "hf://some/mo--del",
        "hf://some/model/a\\b",
        "http://example.org/sam.pth",
        "https://example.org",
        "https://example.org/",
        "https:///sam.pth",
        "https://name:word@example.org/sam.pth",
        "s3://bucket/sam.pth",
        "file:///etc/passwd",
        "packaged://",
        "packaged://../nanodet.onnx",
    ],
)
def test_an_address_that_no_file_can_have_is_refused(address):
    with pytest.raises(ValueError, match=r".+"):
        check_address(address)
    [lack] = weights_missing(Weights("segment.options.checkpoint", address))
    assert lack.what.startswith("segment.options.checkpoint: ")


def test_a_password_in_an_address_is_not_repeated():
    with pytest.raises(ValueError) as raised:
        check_address("https://name:word@example.org/sam.pth")
    assert "word@" not in str(raised.value)


def test_the_home_folder_is_spelled_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/sam.pth") == tmp_path / "sam.pth"


def test_addresses_that_differ_never_share_a_file():
    urls = [f"https://{host}/{path}" for host in ("a.org", "b.org") for path in ("x/sam.pth", "y/sam.pth", "x/sam.pth?v=2")]
    paths = {local_path(url) for url in urls}
    assert len(paths) == len(urls)
    assert all(path.name == "sam.pth" for path in paths)


@given(path=st.text(min_size=1), scheme=st.sampled_from(["hf://some/model/", "https://example.org/", "hf://some/model@"]))
def test_no_address_leads_out_of_its_cache(path, scheme):
    address = scheme + path
    try:
        found = local_path(address)
    except ValueError:
        return
    assert ".." not in found.parts
    assert "\0" not in str(found)
    roots = ("https", "snapshots")
    assert any(root in found.parts for root in roots)


@given(path=st.text(string.ascii_letters + "./%-_~ é", min_size=1, max_size=300))
def test_a_url_becomes_a_name_that_file_systems_take(path):
    try:
        found = local_path(f"https://example.org/{path}")
    except ValueError:
        return
    assert len(found.name.encode()) <= 100
    assert not found.name.startswith(".")


def test_what_is_not_there_is_named_with_hash_and_command():
    address = "https://example.org/sam.pth"
    [lack] = weights_missing(Weights("segment.options.checkpoint", address, "a" * 64))
    assert all(part in lack.what for part in ("segment.options.checkpoint", address, "is not there", "a" * 64))
    assert lack.fix.startswith("materia models pull --config")


def test_a_path_that_is_not_there_is_the_users_to_correct(tmp_path):
    [lack] = weights_missing(Weights("segment.options.checkpoint", str(tmp_path / "none.pth")))
    assert str(tmp_path / "none.pth") in lack.what
    assert "correct the path" in lack.fix


def test_packaged_weights_are_fetched_like_others_and_state_their_hash(cache):
    weights = packaged("localise.backend", "nanodet.onnx")
    [lack] = weights_missing(weights)
    assert "packaged://nanodet.onnx is not there" in lack.what and lack.fix == PULL
    file = local_path(weights.address)
    assert file == cache / "weights" / "nanodet.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"cut short")
    [lack] = weights_missing(weights)
    assert PACKAGED["nanodet.onnx"] in lack.what and lack.fix == PULL


def test_a_packaged_name_that_is_none_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r"known: nanodet\.onnx, .*smollm2-135m-instruct"):
        check_address("packaged://yolo.onnx")


def test_another_hash_is_told_with_both(tmp_path):
    file = tmp_path / "sam.pth"
    file.write_bytes(b"cut short")
    [lack] = weights_missing(Weights("segment.options.checkpoint", str(file), "a" * 64))
    assert all(part in lack.what for part in (str(file), "a" * 64, sha256_of(file), "9 bytes"))


def test_a_hash_may_be_written_in_capitals(tmp_path):
    file = tmp_path / "sam.pth"
    file.write_bytes(b"tensors")
    assert weights_missing(Weights("x", str(file), sha256_of(file).upper())) == []


def test_a_file_that_changed_is_read_again(tmp_path):
    file = tmp_path / "sam.pth"
    file.write_bytes(b"one")
    first = sha256_of(file)
    file.write_bytes(b"another")
    assert sha256_of(file) != first


def test_a_folder_without_configuration_is_no_model(tmp_path):
    (tmp_path / "empty").mkdir()
    [lack] = weights_missing(Weights("x", str(tmp_path / "empty")))
    assert "config.json" in lack.what


def test_a_shard_that_an_index_names_must_be_there(tmp_path):
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    folder = model_folder(tmp_path / "m", **{"model.safetensors.index.json": index, "model-1.safetensors": b""})
    [lack] = weights_missing(Weights("x", str(folder)))
    assert "model-2.safetensors" in lack.what
    assert "model-1.safetensors" not in lack.what


def test_an_index_that_cannot_be_read_is_told(tmp_path):
    folder = model_folder(tmp_path / "m", **{"model.safetensors.index.json": b"[]"})
    assert len(weights_missing(Weights("x", str(folder)))) == 1


def test_a_file_is_identified_by_its_hash(tmp_path):
    file = tmp_path / "sam.pth"
    file.write_bytes(b"tensors")
    assert identity_of(str(file)) == hashlib.sha256(b"tensors").hexdigest()


def test_a_folder_is_identified_by_what_runs_not_by_where_it_lies(tmp_path):
    folders = [model_folder(tmp_path / "a"), model_folder(tmp_path / "b", **{"README.md": b"words", "tf_model.h5": b"other"})]
    assert len({identity_of(str(folder)) for folder in folders}) == 1
    (folders[1] / "model.safetensors").write_bytes(b"trained")
    assert identity_of(str(folders[0])) != identity_of(str(folders[1]))


def test_a_folder_may_state_its_own_hash(tmp_path):
    folder = model_folder(tmp_path / "m", SHA256=b"c" * 64 + b"\n")
    assert identity_of(str(folder)) == "c" * 64


@given(st.dictionaries(st.text(string.ascii_letters, min_size=1), st.sampled_from(["a" * 64, "b" * 64]), min_size=1))
def test_the_order_of_files_does_not_matter(hashes):
    files = {name: HashedFile(1, sha) for name, sha in hashes.items()}
    assert folder_sha256(files) == folder_sha256(dict(reversed(files.items())))


@pytest.mark.parametrize(
    ("names", "dropped"),
    [
        (["config.json", "model.safetensors", "pytorch_model.bin"], {"pytorch_model.bin"}),
        (["config.json", "pytorch_model.bin"], set()),
        (["config.json", "model-1.safetensors", "consolidated.safetensors"], {"consolidated.safetensors"}),
        (["config.json", "consolidated.safetensors"], set()),
        (["model_index.json", "vae/v.safetensors", "all.safetensors"], {"all.safetensors"}),
        (["config.json", "unet/m.safetensors", "unet/m.fp16.safetensors"], {"unet/m.fp16.safetensors"}),
        (["config.json", "m.fp16.safetensors"], set()),
        (["config.json", "tf_model.h5", "flax.msgpack", "m.onnx", "m.gguf", ".gitattributes", "m.safetensors", "run.py"],
         {"tf_model.h5", "flax.msgpack", "m.onnx", "m.gguf", ".gitattributes", "run.py"}),
    ],
)  # fmt: skip
def test_of_a_repository_one_copy_of_the_weights_is_wanted(names, dropped):
    assert set(names) - set(model_files(names)) == dropped
