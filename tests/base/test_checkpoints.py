"""Checkpoints of others: read in every format that is published, refused in one line where they cannot be used."""

import argparse
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from materia.base.weights.checkpoints import CheckpointError, load_state_dict, mismatch

torch = pytest.importorskip("torch")


class Code:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch was-run",)


def state() -> dict:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(3)}


def legacy(value, path):
    torch.save(value, path, _use_new_zipfile_serialization=False)


def safetensors(value, path):
    from safetensors.torch import save_file

    save_file(value, path)


def assert_refused(path, *parts):
    with pytest.raises(CheckpointError) as raised:
        load_state_dict(path)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < len(str(path)) + 250
    for part in parts:
        assert part in message


@pytest.mark.parametrize("save", [torch.save, legacy, safetensors])
def test_every_published_format_is_read(save, tmp_path):
    save(state(), tmp_path / "sam.pth")
    loaded = load_state_dict(tmp_path / "sam.pth")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state().items())


@pytest.mark.parametrize("wrap", ["model", "state_dict"])
def test_a_state_dict_is_taken_out_of_what_trainers_save(wrap, tmp_path):
    torch.save({wrap: {f"module.{name}": tensor for name, tensor in state().items()}, "epoch": 3}, tmp_path / "dino.pth")
    assert sorted(load_state_dict(tmp_path / "dino.pth")) == sorted(state())


def test_a_prefix_that_not_all_names_have_is_theirs(tmp_path):
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "m.pth")
    assert sorted(load_state_dict(tmp_path / "m.pth")) == ["b", "module.a"]


@pytest.mark.parametrize("save", [torch.save, safetensors])
def test_a_large_file_is_mapped_not_copied(save, tmp_path):
    save(state(), tmp_path / "sam.pth")
    loaded = load_state_dict(tmp_path / "sam.pth")
    assert str(tmp_path / "sam.pth") in Path("/proc/self/maps").read_text()
    assert loaded["a.bias"].sum() == 3


@pytest.mark.parametrize("save", [torch.save, legacy, safetensors])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_said_to_be(save, share, tmp_path):
    path = tmp_path / "sam.pth"
    save(state(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert_refused(path, "truncated", f"{int(len(data) * share):,} bytes")


@pytest.mark.parametrize("save", [torch.save, legacy])
@pytest.mark.parametrize("wrapped", [True, False])
def test_code_is_refused_and_not_run(save, wrapped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save({"model": state(), "x": Code()} if wrapped else Code(), tmp_path / "evil.pth")
    assert_refused(tmp_path / "evil.pth", "holds code", "system", "state dict")
    assert not (tmp_path / "was-run").exists()


def test_a_whole_module_is_code_too(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    assert_refused(tmp_path / "module.pth", "torch.nn.modules.linear.Linear")
    torch.save({"model": state(), "args": argparse.Namespace(a=1)}, tmp_path / "args.pth")
    assert_refused(tmp_path / "args.pth", "argparse.Namespace")


def test_a_plain_pickle_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Code()))
    assert_refused(tmp_path / "plain.pth", "refused")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer"),
        (b"\0" * 100, "no checkpoint"),
        (b"PK\x03\x04" + b"\0" * 1000, "damaged"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_checkpoint_is_told_for_what_it_is(data, what, suffix, tmp_path):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(data)
    assert_refused(path, *([what] if suffix == ".pth" or data[:1] != b"\0" else []))


def test_absent_files_and_folders_are_told(tmp_path):
    assert_refused(tmp_path / "none.pth", "is not there")
    assert_refused(tmp_path, "is a folder")


@pytest.mark.parametrize("length", [0x80, 0x4B50])
def test_a_safetensors_header_may_begin_like_another_format(length, tmp_path):
    path = tmp_path / "m.safetensors"
    safetensors(state(), path)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    path.write_bytes(length.to_bytes(8, "little") + data[8 : 8 + size].ljust(length) + data[8 + size :])
    assert sorted(load_state_dict(path.rename(tmp_path / "m.pth"))) == sorted(state())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_is_no_state_dict(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "lama.pt")
    assert_refused(tmp_path / "lama.pt", "TorchScript")


@pytest.mark.parametrize("held", [[1, 2], {}, {"epoch": 1}, {"model": {"a": "b"}}])
def test_a_file_without_tensors_is_told(held, tmp_path):
    torch.save(held, tmp_path / "held.pth")
    assert_refused(tmp_path / "held.pth", "expected")


@given(data=st.binary(max_size=300))
def test_no_bytes_raise_anything_else(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.pth"
    for head in (b"", b"PK\x03\x04", b"\x80\x02", len(data).to_bytes(8, "little") + b"{"):
        path.write_bytes(head + data)
        with pytest.raises(CheckpointError):
            load_state_dict(path)


def test_what_matches_is_no_mismatch(tmp_path):
    assert mismatch(tmp_path / "x.pth", state() | {"training.only": torch.ones(1)}, state(), "SAM vit_b") == ""


def test_a_mismatch_counts_and_names_the_first_differences(tmp_path):
    expected = state() | {f"layer.{i}": torch.ones(4, device="meta") for i in range(9)} | {"a.weight": torch.ones(2, 4)}
    text = mismatch(tmp_path / "x.pth", state() | {"other": torch.ones(7)}, expected, "SAM vit_b")
    assert text.startswith(f"{tmp_path / 'x.pth'} is no SAM vit_b: 9 of 11 tensors are missing: layer.0 (4,), ")
    assert "1 of 11 have another shape: a.weight (2, 3) instead of (2, 4)" in text
    assert "it holds 3 tensors, among them the unknown other (7,)" in text
    assert "layer.8" not in text
