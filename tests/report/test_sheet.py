"""The contact sheet shows a variety of samples, whatever their captions contain."""

import io

import msgspec
import numpy as np
import pytest
from PIL import Image
from samples import PROVENANCE, make_dataset, make_output, make_sample

from materia.dataset import layout, writer
from materia.dataset.filters import FilterError
from materia.dataset.reader import Dataset
from materia.report.choice import chosen_samples, samples_named, varied
from materia.report.contact_sheet import contact_sheet
from materia.report.drawing import PALETTE, Marked, caption_image, colours_of
from materia.report.sample_card import facts_of
from stages.records import Box, Link


def draw(out, target, n=6):
    contact_sheet(str(out), str(target), n=n)
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
    for colour in PALETTE[:2]:
        assert (np.abs(pixels - colour).max(axis=2) < 8).sum() > 300
    assert not (np.abs(pixels - PALETTE[2]).max(axis=2) < 3).any()


@pytest.mark.parametrize("links", [[], [Link(word="dog", score=0.9, second_best=0.98, ambiguous=True)]], ids=["none", "links"])
def test_candidates_what_became_of_boxes_and_ambiguous_words_are_shown(tmp_path, links):
    """Told by how much grey there is: the outline of a candidate, the filled label of a box that gave no reference."""
    grey = {}
    for name, dropped in (("candidate", None), ("dropped", "somebody_elses")):
        sample = make_sample(tmp_path, 0)
        box = Box(
            word="dog",
            category="subject",
            frame=0,
            box_xyxy_px=(20, 30, 60, 70),
            score=0.4,
            chosen=bool(dropped),
            dropped=dropped,
        )
        sample = msgspec.structs.replace(
            sample, links=links, boxes=[box] if links else [], flags=["ambiguous_identity"] if links else []
        )
        out = tmp_path / name
        layout.write_info(str(out), make_dataset(1, 1, 1))
        writer.write_chunk(str(out), 0, [sample], provenance=PROVENANCE)
        pixels = np.asarray(draw(out, tmp_path / f"{name}.png")).astype(int)
        grey[name] = int((np.abs(pixels - 150).max(axis=2) < 3).sum())
    assert (grey["dropped"] > grey["candidate"] + 500) == bool(links)
    if links:
        dataset = Dataset(str(tmp_path / "dropped"))
        assert "ambiguous: dog" in " ".join(facts_of(next(iter(dataset)).document))


def test_samples_with_new_words_come_first(tmp_path):
    out = output_with(tmp_path, a=("dog", "ball"), b=("dog", "ball"), c=("cat", "ball"), d=("man", "hat"))
    assert varied(Dataset(str(out)).index.to_pylist(), 3) == [0, 2, 3]


@pytest.mark.parametrize("word", ["[bold]\x1b[31m", "x" * 400, "собака 狗 🐕", "dog\n\n\ndog", " "])
def test_any_word_can_be_drawn(tmp_path, word):
    image = draw(output_with(tmp_path, a=(word, "ball")), tmp_path / "sheet.png")
    assert image.height < 1200


def test_words_that_stand_on_one_card_have_different_colours_while_there_are_enough():
    many = [f"thing {number}" for number in range(len(PALETTE))]
    cards = [[word] for word in ["Dog", *many]] + [["dog", "cat"], ["cat", "thing 7", "man"], many]
    colours = colours_of(cards)
    for card in cards:
        words = {word.casefold() for word in card}
        assert len({colours[word] for word in words}) == len(words)
    assert set(colours_of([[f"w{number}" for number in range(50)]]).values()) == set(PALETTE)


def test_a_caption_of_a_page_has_a_card_of_some_lines():
    short, long = (caption_image(text, [Marked(0, 1, PALETTE[0])], ["a"]) for text in ("a dog", "a dog barks " * 500))
    assert long.height < 4 * short.height
    assert caption_image("x" * 5000, [], ["y" * 5000], "z " * 5000).height < 6 * short.height


def chosen(out, n=9, where=(), sort=None):
    dataset = Dataset(str(out))
    return [dataset.key(number) for number in chosen_samples(dataset, n, where, sort)]


def test_all_filters_must_admit_a_sample(tmp_path):
    out = output_with(tmp_path, a=("dog", "ball"), b=("cat", "ball"), c=("dog", "hat"))
    assert chosen(out, where=['"dog" in subject_words']) == ["clip-0000", "clip-0002"]
    assert chosen(out, where=['"dog" in subject_words', "row > 0"]) == ["clip-0002"]
    assert chosen(out, where=["row > 0"], sort="-row", n=1) == ["clip-0002"]


def test_where_nothing_matches_it_is_said_of_how_many_samples(tmp_path):
    out = output_with(tmp_path, a=("dog", "ball"), b=("cat", "ball"), c=("dog", "hat"))
    with pytest.raises(layout.OutputError, match=r"of 3 samples of .*out none matches --where 'row > 0' --where 'row < 1'"):
        chosen(out, where=["row > 0", "row < 1"])
    with pytest.raises(FilterError, match="did you mean residual"):
        chosen(out, where=["row > 0", "residul < 1"])


@pytest.mark.parametrize(
    ("sort", "keys"),
    [
        ("row", "012"),
        ("-row", "210"),
        ("caption_chars", "021"),
        ("-caption_chars", "120"),
        ("duration_s", "012"),
        ("-subjects", "012"),
    ],
)
def test_samples_are_sorted_by_any_column_of_numbers(tmp_path, sort, keys):
    rows = [make_sample(tmp_path, row, subject=subject) for row, subject in enumerate(["dog", "dog" * 9, "dog" * 4])]
    layout.write_info(str(tmp_path / "out"), make_dataset(3, 1, 3))
    writer.write_chunk(str(tmp_path / "out"), 0, rows, provenance=PROVENANCE)
    assert chosen(tmp_path / "out", sort=sort) == [f"clip-000{key}" for key in keys]
    assert chosen(tmp_path / "out", sort=sort, n=1) == [f"clip-000{keys[0]}"]


def test_what_is_missing_is_sorted_last_either_way(tmp_path):
    rows = [make_sample(tmp_path, row) for row in range(3)]
    for row, residual in zip(rows, ({}, {"dog": 0.1}, {"dog": 0.2}), strict=True):
        row.background.residual = residual
    layout.write_info(str(tmp_path / "out"), make_dataset(3, 1, 3))
    writer.write_chunk(str(tmp_path / "out"), 0, rows, provenance=PROVENANCE)
    assert chosen(tmp_path / "out", sort="residual") == ["clip-0001", "clip-0002", "clip-0000"]
    assert chosen(tmp_path / "out", sort="-residual") == ["clip-0002", "clip-0001", "clip-0000"]
    contact_sheet(str(tmp_path / "out"), str(tmp_path / "sheet.png"), sort="-residual")
    assert (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize(
    ("sort", "message"),
    [
        ("min_mask_scor", "is no column; did you mean min_mask_score"),
        ("-bites", "--sort -bites: bites is no column; did you mean bytes"),
        ("flags", "flags holds no numbers"),
        ("zzz", "zzz is no column; known: row, n_subjects"),
        ("", "is no column"),
    ],
)
def test_a_column_that_cannot_be_sorted_by_is_named(tmp_path, sort, message):
    out = output_with(tmp_path, a=("dog", "ball"))
    with pytest.raises(layout.OutputError) as caught:
        chosen(out, sort=sort)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_samples_are_found_by_key_in_the_order_of_the_question_and_unknown_keys_are_named(tmp_path):
    out = output_with(tmp_path, a=("dog", "ball"), b=("cat", "ball"), c=("dog", "hat"))
    dataset = Dataset(str(out))
    assert samples_named(dataset, ["clip-0002", "clip-0000", "clip-0002"]) == [2, 0]
    with pytest.raises(layout.OutputError, match="no sample of the key 'clip-9', 'nope'; "):
        samples_named(dataset, ["clip-9", "clip-0001", "nope"])


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
