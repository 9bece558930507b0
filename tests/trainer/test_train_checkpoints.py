"""Checkpoints: whole or passed over, the last few of them, and of the model that they say."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conditions import CONFIG, awake
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import TrainError
from trainer.run import checkpoints

FILES = ("model.safetensors", "ema.safetensors", "optimiser.safetensors", "state.json")


def save(run: Path, step: int, keep: int = 3, model=None, images: bool = True) -> None:
    model = model or awake(step)
    weights = dict(model.state_dict())
    parts = [
        ("model", weights),
        ("ema", {name: tensor + 1 for name, tensor in weights.items()}),
        ("optimiser", {"a/b": torch.ones(2)}),
    ]
    checkpoints.save(run, parts, step=step, model=model.config, trained_images=images, keep=keep)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    run = tmp_path_factory.mktemp("two")
    save(run, 1)
    save(run, 2)
    return run


def test_what_is_read_is_what_was_saved(two):
    found = checkpoints.latest(two, pytest.fail)
    assert found.state.step == 2
    assert found.state.model == CONFIG
    weights = awake(2).state_dict()
    read = checkpoints.read(found, "model")
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name]) for name in weights)
    raw, averaged = (dict(checkpoints.load_model(two, ema=ema)[0].named_parameters()) for ema in (False, True))
    assert all(torch.equal(raw[name], weights[name]) and torch.equal(averaged[name], weights[name] + 1) for name in weights)


@settings(max_examples=20)
@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True))
def test_a_checkpoint_cut_anywhere_is_passed_over_with_a_notice(two, tmp_path_factory, name, share):
    run = tmp_path_factory.mktemp("cut") / "run"
    shutil.copytree(two, run)
    torn = run / "checkpoints" / "step-00000002" / name
    torn.write_bytes(torn.read_bytes()[: int(share * torn.stat().st_size)])
    notices: list[str] = []
    assert checkpoints.latest(run, notices.append).state.step == 1
    assert len(notices) == 1
    assert "step-00000002 is not whole" in notices[0]
    shutil.rmtree(run)


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_without_one_of_its_files_is_passed_over(two, tmp_path, name):
    shutil.copytree(two, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step-00000002" / name).unlink()
    assert checkpoints.latest(tmp_path / "run", str).state.step == 1


def test_a_file_that_is_no_safetensors_is_never_unpickled(two, tmp_path):
    shutil.copytree(two, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints" / "step-00000002"
    torch.save({"a": torch.ones(1)}, folder / "model.safetensors")
    state = json.loads((folder / "state.json").read_text())
    state["files"]["model"] = (folder / "model.safetensors").stat().st_size
    (folder / "state.json").write_text(json.dumps(state))
    assert checkpoints.latest(tmp_path / "run", str).state.step == 1


def test_only_the_last_few_are_kept(tmp_path):
    for step in (5, 10, 15, 20):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-00000015", "step-00000020"]


def test_torn_ones_do_not_push_out_whole_ones(tmp_path):
    for step in (5, 10):
        save(tmp_path, step)
    (tmp_path / "checkpoints" / "step-00000010" / "state.json").unlink()
    save(tmp_path, 7, keep=1)  # the run went on from 5, and was interrupted
    assert names(tmp_path) == ["step-00000007"]
    assert checkpoints.latest(tmp_path, pytest.fail).state.step == 7


def test_what_a_killed_writer_left_is_no_checkpoint_and_is_cleaned(tmp_path):
    save(tmp_path, 5)

    def killed():
        yield "model", {"a": torch.ones(3)}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(tmp_path, killed(), step=6, model=CONFIG, trained_images=True, keep=1)
    assert len(names(tmp_path)) == 2
    assert checkpoints.latest(tmp_path, pytest.fail).state.step == 5
    checkpoints.prepare(tmp_path)
    assert names(tmp_path) == ["step-00000005"]


def test_weights_of_another_model_than_the_state_says_are_told(tmp_path):
    save(tmp_path, 1)
    path = tmp_path / "checkpoints" / "step-00000001" / "state.json"
    state = json.loads(path.read_text())
    state["model"]["depth"] = 3
    path.write_text(json.dumps(state))
    with pytest.raises(TrainError, match=r"blocks\.2\..* not there"):
        checkpoints.load_model(tmp_path)


def test_a_folder_without_a_checkpoint_is_told(tmp_path):
    with pytest.raises(TrainError, match="has no checkpoint: give a folder"):
        checkpoints.load_model(tmp_path)
    save(tmp_path, 1)
    (tmp_path / "checkpoints" / "step-00000001" / "ema.safetensors").unlink()
    with pytest.raises(TrainError, match=r"no checkpoint: .*ema.safetensors is missing"):
        checkpoints.load_model(tmp_path)
