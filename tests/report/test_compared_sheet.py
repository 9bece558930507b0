"""Two outputs of the same clips: what differs most comes first, and is drawn as it is in both."""

import msgspec
import numpy as np
import pytest
from PIL import Image
from samples import PROVENANCE, make_dataset, make_rejection, make_sample

from materia.dataset import layout, writer
from materia.dataset.differences import differences
from materia.dataset.reader import Dataset
from materia.report.compared_sheet import compared_sheet
from materia.report.contact_sheet import contact_sheet


def write(tmp_path, name, rows):
    out = str(tmp_path / name)
    layout.write_info(out, make_dataset(len(rows), 1, len(rows)))
    writer.write_chunk(out, 0, rows, provenance=PROVENANCE)
    return out


def worse(sample, share):
    return msgspec.structs.replace(sample, background=msgspec.structs.replace(sample.background, masked_share=share))


@pytest.fixture
def pair(tmp_path):
    """Rows 0 and 1 alike, 2 and 3 with another background, 4 another word, 5 and 6 lost on either side."""
    rows = [make_sample(tmp_path, row) for row in range(7)]
    least = rows[2].background.masked_share
    after = [*rows[:2], worse(rows[2], least + 0.1), worse(rows[3], least + 0.2)]
    after += [make_sample(tmp_path, 4, subject="cat"), make_rejection(5, key="clip-0005"), rows[6]]
    before = [*rows[:6], make_rejection(6, key="clip-0006")]
    return write(tmp_path, "before", before), write(tmp_path, "after", after)


def test_what_differs_most_comes_first_and_what_is_alike_last(pair):
    rows = differences(*map(Dataset, pair)).to_pylist()
    assert [row["key"][-1] for row in rows] == list("5643201")
    assert [(row["before"], row["after"]) for row in rows[:3]] == [(5, None), (None, 5), (4, 4)]
    assert rows[2]["words"] > 0 == rows[3]["words"]
    assert [round(row["score"], 6) for row in rows[3:]] == [0.2, 0.1, 0.0, 0.0]
    assert differences(*map(Dataset, reversed(pair)))["key"][0].as_py() == "clip-0005"


def test_a_data_set_does_not_differ_from_itself_whatever_its_order(pair):
    data = Dataset(pair[0])
    turned = Dataset(pair[0])
    turned.index = turned.index.take(np.arange(len(turned))[::-1])
    for row in differences(data, turned).to_pylist():
        assert (row["words"], row["score"]) == (0, 0.0)
        assert data.key(row["before"]) == turned.key(row["after"]) == row["key"]


def test_each_clip_is_drawn_as_it_is_in_both(pair, tmp_path):
    before, after = pair
    compared_sheet(before, after, str(tmp_path / "both.png"), keys=["clip-0004"])
    contact_sheet(before, str(tmp_path / "one.png"), keys=["clip-0004"])
    both, one = (Image.open(tmp_path / f"{name}.png") for name in ("both", "one"))
    assert both.width == one.width and 1.8 * one.height < both.height < 2 * one.height
    compared_sheet(before, after, str(tmp_path / "all.png"), n=9)
    assert Image.open(tmp_path / "all.png").height > 4 * both.height  # five differ


def test_where_nothing_differs_or_is_known_it_is_said(pair, tmp_path):
    with pytest.raises(layout.OutputError, match=r"6 samples of .*before and of .*before have the same words and scores"):
        compared_sheet(pair[0], pair[0], str(tmp_path / "none.png"))
    with pytest.raises(layout.OutputError, match=r"neither .*before nor .*after has a sample of the key 'clip-9'"):
        compared_sheet(*pair, str(tmp_path / "none.png"), keys=["clip-0001", "clip-9"])
    assert not (tmp_path / "none.png").exists()


def test_a_sheet_for_print_is_a_page_that_is_the_same_every_time(pair, tmp_path):
    for name in ("a.pdf", "b.PDF"):
        contact_sheet(pair[0], str(tmp_path / name), n=2)
    page = (tmp_path / "a.pdf").read_bytes()
    assert page == (tmp_path / "b.PDF").read_bytes()
    assert page.startswith(b"%PDF-") and page.count(b"/Type /Page\n") == 1 and str(tmp_path).encode() not in page
