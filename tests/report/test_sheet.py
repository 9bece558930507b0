"""The contact sheet shows a variety of samples, whatever their captions contain."""

import io

import numpy as np
import pytest
from PIL import Image
from samples import PROVENANCE, make_dataset, make_output, make_sample

from materia.dataset import writer as shards
from materia.report import contact_sheet as sheet


def draw(out, target, n=6):
    sheet.contact_sheet(str(out), str(target), n=n)
    return Image.open(target).convert("RGB")


def output_with(tmp_path, **samples):
    rows = [make_sample(tmp_path, row, subject=subject, thing=thing) for row, (subject, thing) in enumerate(samples.values())]
    shards.write_dataset(str(tmp_path / "out"), make_dataset(len(rows), 1, len(rows)))
    shards.write_chunk(str(tmp_path / "out"), 0, rows, provenance=PROVENANCE)
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
    rows = sheet._varied(sheet._candidates(str(out)), 3)
    assert [row["key"] for row in rows] == ["clip-0000", "clip-0002", "clip-0003"]


@pytest.mark.parametrize("word", ["[bold]\x1b[31m", "x" * 400, "собака 狗 🐕", "dog\n\n\ndog", " "])
def test_any_word_can_be_drawn(tmp_path, word):
    image = draw(output_with(tmp_path, a=(word, "ball")), tmp_path / "sheet.png")
    assert image.height < 1200


def test_portrait_frames_leave_room_for_the_crops_beside_them(tmp_path):
    sample = make_sample(tmp_path, 0)
    landscape = sheet._card(sheet._Drawn(*drawn(sample)), {"dog": (255, 0, 0), "red ball": (0, 0, 255)})
    for frame in sample.frames:
        buffer = io.BytesIO()
        Image.new("RGB", (72, 160)).save(buffer, "JPEG")
        frame.jpeg = buffer.getvalue()
    portrait = sheet._card(sheet._Drawn(*drawn(sample)), {"dog": (255, 0, 0), "red ball": (0, 0, 255)})
    assert portrait.height < landscape.height


def drawn(sample):
    from materia.dataset.schema.rows import sample_document

    members = {f"frame{number}.jpg": frame.jpeg for number, frame in enumerate(sample.frames)}
    members |= {f"ref{number:02d}.png": instance.png for number, instance in enumerate(sample.instances)}
    return sample_document(sample, PROVENANCE), members | {"background.png": sample.background.png}


def test_an_output_without_samples_is_said_so(tmp_path):
    make_output(tmp_path / "out", tmp_path / "clips", ["rr"])
    with pytest.raises(ValueError, match="no samples to draw"):
        draw(tmp_path / "out", tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
