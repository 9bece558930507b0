"""`materia.open_dataset`: what a script or a notebook sees of an output."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import make_output

import materia
from materia.dataset.layout import OutputError


@pytest.fixture
def out(tmp_path: Path) -> str:
    make_output(tmp_path / "out", tmp_path / "clips", ["srs", "ss"])
    return str(tmp_path / "out")


def test_samples_come_by_number_by_key_and_in_turn(out):
    dataset = materia.open_dataset(out)
    keys = [sample.key for sample in dataset]
    assert keys == dataset.index["key"].to_pylist() == ["clip-0000", "clip-0002", "clip-0003", "clip-0004"]
    assert (dataset[-1].key, dataset["clip-0002"].document.row) == ("clip-0004", 2)
    with pytest.raises(IndexError, match="sample 4 of 4"):
        dataset[4]
    with pytest.raises(KeyError, match="elsewhere"):
        dataset["elsewhere"]
    assert repr(dataset).endswith("/out: 4 samples, 20 instances, 0.0 h>")


def test_pixels_are_those_of_the_members(out):
    sample = materia.open_dataset(out)[0]
    height, width = sample.frames.shape[1:3]
    assert sample.frames.shape == (3, height, width, 3) and sample.frames.dtype == np.uint8
    assert sample.masks.shape == (len(sample.document.instances), height, width) and sample.masks.dtype == bool
    assert sample.background.shape == (height, width, 3)
    for instance, mask, crop in zip(sample.document.instances, sample.masks, sample.references, strict=True):
        x0, y0, x1, y1 = instance.crop_xyxy_px
        assert np.array_equal(crop[..., 3] == 255, mask[y0:y1, x0:x1])
        assert np.array_equal(crop[..., :3][crop[..., 3] == 255], sample.frames[instance.frame][mask])
    assert sample.clip() == sample.dataset.read(0, ["mp4"])["mp4"]


def test_filters_follow_each_other(out):
    dataset = materia.open_dataset(out)
    later = dataset.where("row > 0")
    assert [sample.key for sample in later.where("key != 'clip-0003'")] == ["clip-0002", "clip-0004"]
    assert later.sha256 == materia.open_dataset(out, where="row > 0").sha256 != dataset.sha256
    with pytest.raises(OutputError, match="admits none of the 4 samples"):
        dataset.where("row > 9")


def test_a_broken_picture_is_told_with_its_shard(out):
    tar = Path(out, "shards", "000000.tar")
    member = materia.open_dataset(out).index["members"][0].as_py()[2]
    data = bytearray(tar.read_bytes())
    data[member["offset"] : member["offset"] + 20] = bytes(20)
    tar.write_bytes(data)
    with pytest.raises(OutputError, match=r"000000.tar: a picture of clip-0000 is broken; run: materia validate"):
        _ = materia.open_dataset(out)[0].frames


def test_a_users_own_modules_beside_the_script_are_not_taken_for_ours(out, tmp_path):
    for name in ("dataset", "report", "schema", "reader", "filters", "base"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not this one')")
    (tmp_path / "look.py").write_text("import sys, materia\nprint(len(materia.open_dataset(sys.argv[1])))")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "look.py", out], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("4\n", 0), done.stderr


def test_a_sample_shows_as_an_image_in_pillow(out):
    assert Image.fromarray(materia.open_dataset(out)[0].references[0]).mode == "RGBA"
