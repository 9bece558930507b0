"""What a notebook shows of a data set and of a sample, and how other libraries see its index."""

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from samples import PROVENANCE, make_dataset, make_output, make_sample

import materia
from materia.dataset import layout, writer

HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Tags and texts of a page; closes must match what was opened."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def out(tmp_path: Path) -> str:
    make_output(tmp_path / "out", tmp_path / "clips", ["srss", "ssss"])
    return str(tmp_path / "out")


def test_a_data_set_shows_its_first_samples(out):
    dataset = materia.open_dataset(out)
    page = Page(dataset._repr_html_())
    assert repr(dataset)[1:-1] in page.text and "and 2 more samples: dataset[5]" in page.text
    assert page.tags.count("tr") == 6 and page.tags.count("img") == 5 + sum(len(s.references) for s in list(dataset)[:5])
    assert [key for key in dataset.index["key"].to_pylist() if key in page.text] == dataset.index["key"].to_pylist()[:5]


def test_a_sample_plays_and_needs_nothing_from_elsewhere(out):
    sample = materia.open_dataset(out)["clip-0000"]
    page = Page(sample._repr_html_())
    assert page.tags.count("video") == 1 and page.tags.count("figcaption") == len(sample.references)
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert all(re.match(r"data:(image|video)/(png|jpeg|mp4);base64,", source) for source in sources)
    assert sample.document.caption in page.text and "script" not in page.tags


def test_words_of_strangers_are_text(tmp_path):
    sample = make_sample(tmp_path, 0, subject=HOSTILE, thing='" onload="x')
    layout.write_info(str(tmp_path / "out"), make_dataset(1, 1, 1))
    writer.write_chunk(str(tmp_path / "out"), 0, [sample], provenance=PROVENANCE)
    dataset = materia.open_dataset(str(tmp_path / "out"))
    for page in (Page(dataset._repr_html_()), Page(dataset[0]._repr_html_())):
        assert "script" not in page.tags and not {name for name, _ in page.attributes} & {"onload", "onclick"}
        assert HOSTILE in page.text or any(HOSTILE in (value or "") for _, value in page.attributes)


def test_a_sample_that_cannot_be_read_says_so_and_the_others_are_shown(out):
    Path(out, "shards", "000000.tar").unlink()
    dataset = materia.open_dataset(out)
    assert "000000.tar" in Page(dataset[0]._repr_html_()).text
    page = Page(dataset._repr_html_())
    assert page.tags.count("tr") == 6 and "clip-0003" in page.text
    assert page.tags.count("img") == 2 + sum(len(dataset[number].references) for number in (3, 4))


def test_a_clip_that_no_browser_plays_is_a_picture(out, monkeypatch):
    monkeypatch.setattr("materia.dataset.notebook.MAX_CLIP_BYTES", 10)
    page = Page(materia.open_dataset(out)[0]._repr_html_())
    assert "video" not in page.tags and page.tags.count("img") > 2


def test_other_libraries_take_the_index_as_it_lies_in_memory(out):
    pd = pytest.importorskip("pandas")
    dataset = materia.open_dataset(out, where="row > 1")
    table = pa.table(dataset)
    assert table.equals(dataset.index)
    ours, theirs = (one["row"].chunks[0].buffers()[1].address for one in (dataset.index, table))
    assert ours == theirs  # no copy
    assert pd.DataFrame.from_arrow(dataset)["key"].to_list() == dataset.index["key"].to_pylist()


def test_a_caption_is_whole_whatever_its_words(tmp_path):
    sample = make_sample(tmp_path, 0)
    sample = msgspec.structs.replace(sample, entities=[*sample.entities, *sample.entities])
    layout.write_info(str(tmp_path / "out"), make_dataset(1, 1, 1))
    writer.write_chunk(str(tmp_path / "out"), 0, [sample], provenance=PROVENANCE)
    stored = materia.open_dataset(str(tmp_path / "out"))[0]
    assert stored.document.caption in Page(stored._repr_html_()).text


def test_what_a_threshold_keeps_is_what_a_filter_admits(out):
    dataset = materia.open_dataset(out).where("row > 0")
    table = dataset.sweep("row")
    assert table["kept"].to_pylist() == [len(dataset.where(f"row >= {value}")) for value in table["threshold"].to_pylist()]
    assert set(table["kept"].to_numpy() + table["lost"].to_numpy()) == {len(dataset)}
    assert dataset[table["just_kept"][-1].as_py()].document.row == table["threshold"][-1].as_py()


def test_an_audit_is_drawn_alike_every_time_and_from_all(out):
    dataset = materia.open_dataset(out)
    drawn = [[sample.key for sample in dataset.audit(3, seed)] for seed in range(30)]
    assert [[sample.key for sample in dataset.audit(3, seed)] for seed in range(30)] == drawn
    assert all(len(set(keys)) == 3 for keys in drawn) and len(set(map(tuple, drawn))) > 20
    assert {key for keys in drawn for key in keys} == set(dataset.index["key"].to_pylist())
    assert [sample.key for sample in dataset.audit(99)][:3] == drawn[0]
    audit = dataset.audit(3)
    assert audit[drawn[0][2]].number == 2 and audit.sha256 != dataset.sha256
