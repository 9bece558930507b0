"""The contact sheet shows a variety of samples, whatever their captions contain."""

import io

import numpy as np
import pytest
from PIL import Image
from samples import PROVENANCE, make_dataset, make_output, make_sample

from materia.dataset import layout, writer
from materia.dataset.reader import Dataset
from materia.report import contact_sheet as sheet


def draw(out, target, n=6):
    sheet.contact_sheet(str(out), str(target), n=n)
    return Image.open(target).convert("RGB")


def output_with(tmp_path, **samples):
    rows = [make_sample(tmp_path, row, subject=subject, thing=thing) for row, (subject, thing) in enumerate(samples.values())]
    layout.write_info(str(tmp_path / "out"), make_dataset(len(rows), 1, len(rows)))
    writer.write_chunk(str(tmp_path / "out"), 0, rows, provenance=PROVENANCE)
    return tmp_path / "out"


def test_a_sheet_has_a_card_a_sample_and_is_the_same_every_time(tmp_path):
    make_output(tmp_path / "out", tmp_path / "clips", ["ss", "sr"])
    one, three = draw(tmp_path / "out", tmp_path / "one.png", 1), draw(tmp_path / "out", tmp_path / "three.png")
    assert one.width == three.width == 1800
    assert 2.5 * one.height < three.height < 3 * one.height
    draw(tmp_path / "out", tmp_path / "again.png")
    assert (tmp_path / "three.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_masks_and_crops_are_drawn_in_the_colours_of_their_words(tmp_path):
    make_output(tmp_path / "out", tmp_path / "clips", ["s"])
    pixels = np.asarray(draw(tmp_path / "out", tmp_path / "sheet.png")).astype(int)
    for colour in sheet._PALETTE[:2]:
        assert (np.abs(pixels - colour).max(axis=2) < 8).sum() > 300
    assert not (np.abs(pixels - sheet._PALETTE[2]).max(axis=2) < 3).any()


def test_samples_with_new_words_come_first(tmp_path):
    out = output_with(tmp_path, a=("dog", "ball"), b=("dog", "ball"), c=("cat", "ball"), d=("man", "hat"))
    assert sheet._varied(Dataset(str(out)).index.to_pylist(), 3) == [0, 2, 3]


@pytest.mark.parametrize("word", ["[bold]\x1b[31m", "x" * 400, "собака 狗 🐕", "dog\n\n\ndog", " "])
def test_any_word_can_be_drawn(tmp_path, word):
    image = draw(output_with(tmp_path, a=(word, "ball")), tmp_path / "sheet.png")
    assert image.height < 1200


def test_portrait_frames_leave_room_for_the_crops_beside_them(tmp_path):
    heights = {}
    for name, size in (("landscape", None), ("portrait", (72, 160))):
        sample = make_sample(tmp_path, 0)
        for frame in sample.frames if size else []:
            buffer = io.BytesIO()
            Image.new("RGB", size).save(buffer, "JPEG")
            frame.jpeg = buffer.getvalue()
        layout.write_info(str(tmp_path / name), make_dataset(1, 1, 1))
        writer.write_chunk(str(tmp_path / name), 0, [sample], provenance=PROVENANCE)
        heights[name] = draw(tmp_path / name, tmp_path / f"{name}.png").height
    assert heights["portrait"] < heights["landscape"]


def test_a_damaged_shard_is_one_line_and_no_sheet(tmp_path):
    make_output(tmp_path / "out", tmp_path / "clips", ["s"])
    tar = tmp_path / "out" / "shards" / "000000.tar"
    tar.write_bytes(tar.read_bytes()[:-11000])
    with pytest.raises(layout.OutputError, match=r"000000.tar .*materia validate"):
        draw(tmp_path / "out", tmp_path / "sheet.png")
    tar.unlink()
    with pytest.raises(layout.OutputError, match=r"000000.tar cannot be read"):
        draw(tmp_path / "out", tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_an_output_without_samples_is_said_so(tmp_path):
    make_output(tmp_path / "out", tmp_path / "clips", ["rr"])
    with pytest.raises(ValueError, match="has no samples"):
        draw(tmp_path / "out", tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
