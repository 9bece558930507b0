"""What the page's server answers: samples of a state, members by byte range, and sentences for what cannot be shown."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import OWN, make_pages, page, select
from PIL import Image

from materia.dataset.layers import write_layer
from materia.dataset.layout import relative_path
from materia.dataset.reader import Dataset
from materia.report.drawing import PALETTE

pytest.importorskip("duckdb", reason="needs the view extra")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return make_pages(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def client(out):
    return page(out)[0]


def keys(*rows):
    return [f"clip-{row:04d}" for row in rows]


def test_samples_come_in_the_order_of_the_manifest_or_of_a_column(client):
    assert select(client) == keys(0, 1, 2, 3, 4)
    assert select(client, sort="-extra.views") == keys(4, 3, 2, 1, 0)


def test_filters_are_ranges_words_and_flags_and_all_must_hold(client):
    assert select(client, ranges={"extra.views": [1, 3]}) == keys(1, 2, 3)
    assert select(client, ranges={"extra.views": [None, 3]}, words=["dog"]) == keys(0, 3)
    assert select(client, flags=["still"], words=["dog"], key="0003") == keys(3)
    assert select(client, words=["dog", "cat"]) == []


@given(low=st.floats(-1, 6), high=st.floats(-1, 6))
@settings(max_examples=25)
def test_a_count_is_the_number_of_samples_that_are_shown(client, low, high):
    state = {"ranges": {"extra.views": [low, high]}}
    counted = client.get("/api/count", params={"q": json.dumps(state)}).json()["total"]
    assert counted == len(select(client, **state)) == sum(low <= row <= high for row in range(5))


def test_a_histogram_counts_every_sample_once_under_the_other_filters_only(client):
    state = {"words": ["dog"], "ranges": {"extra.views": [3, 3]}}
    found = client.get("/api/histogram", params={"column": "extra.views", "q": json.dumps(state)}).json()
    assert (found["low"], found["high"], sum(found["all"]), sum(found["kept"])) == (0, 4, 5, 2)


def test_a_state_that_makes_no_sense_is_refused_with_a_sentence(client):
    for state in ("{", '{"ranges": {"nothing": [0, 1]}}', '{"sort": "key; DROP TABLE samples"}', '{"unknown": 1}'):
        answer = client.get("/api/select", params={"q": state})
        assert answer.status_code == 400
        assert answer.headers["content-type"].startswith("text/plain")
    assert len(select(client)) == 5


def test_no_json_holds_picture_bytes_and_masks_are_pictures_of_their_own(client):
    card = client.get("/api/cards", params={"n": "1"}).json()[0]
    assert card["caption"].startswith("A cat chases")
    assert "mask_rle" not in json.dumps(client.get("/api/sample", params={"n": "1"}).json()["instances"])
    assert {one["track"] for one in card["instances"]} == {0, 1}


def test_masks_are_drawn_where_they_are_in_the_colour_of_their_track(client, out):
    sample = Dataset(out)[0]
    data = client.get("/masks/0/0/frame1", params={"w": "1536"}).content
    alpha = np.asarray(Image.open(io.BytesIO(data)))[..., 3] > 0
    shown = [
        mask for mask, one in zip(sample.masks, sample.document.instances, strict=True) if one.frame == 1 and not one.is_face
    ]
    assert (alpha == np.logical_or.reduce(shown)).all()


def test_boxes_have_the_colours_of_masks():
    theme = (Path(__file__).parents[2] / "materia/view/static/theme.css").read_text(encoding="utf-8")
    told = re.findall(r"--t\d: #([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2});", theme)
    assert [tuple(int(part, 16) for part in colour) for colour in told] == list(PALETTE)


def test_small_pictures_are_small_and_keep_their_transparency(client):
    frame = Image.open(io.BytesIO(client.get("/small/0/0/frame1.jpg", params={"w": "50"}).content))
    reference = Image.open(io.BytesIO(client.get("/small/0/0/ref00.png").content))
    assert frame.format == "JPEG"
    assert frame.width <= 96
    assert reference.mode == "RGBA"


@given(first=st.integers(0, 5000), last=st.integers(0, 5000))
@settings(max_examples=40)
def test_any_range_of_a_clip_is_those_bytes_of_it(client, out, first, last):
    clip = Dataset(out)[2].clip()
    answer = client.get("/media/0/2/mp4", headers={"Range": f"bytes={first}-{last}"})
    if first >= len(clip) or last < first:
        assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(clip)}")
    else:
        assert (answer.status_code, answer.content) == (206, clip[first : last + 1])
        assert answer.headers["content-range"] == f"bytes {first}-{min(last, len(clip) - 1)}/{len(clip)}"


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        (None, 200, slice(None)),
        ("bytes=10-", 206, slice(10, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=0-1,4-5", 200, slice(None)),
        ("bytes=-", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
    ],
)
def test_ranges_in_other_words(client, out, asked, status, part):
    answer = client.get("/media/0/0/mp4", headers={"Range": asked} if asked else {})
    assert (answer.status_code, answer.content) == (status, Dataset(out)[0].clip()[part])
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-type"] == "video/mp4"


def test_only_members_that_the_index_names_are_served(client):
    for path in (
        "/media/0/0/passwd",
        "/media/0/0/..%2f..%2fdataset.json",
        "/media/0/99/mp4",
        "/media/1/0/mp4",
        "/small/0/0/mp4",
        "/static/..%2fapp.py",
    ):
        assert client.get(path).status_code in (404, 422), path


def test_a_shard_that_an_index_names_beside_its_own_is_never_opened(tmp_path):
    import pyarrow.parquet as pq

    out = make_pages(tmp_path, ("ss", "s"))
    file = Path(out, "index/000000.parquet")
    table = pq.read_table(file)
    at = table.schema.get_field_index("shard")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(["../../etc/passwd", "shards/000001.tar"])), file)
    client, _ = page(out)
    for number in (0, 1):
        answer = client.get(f"/media/0/{number}/mp4")
        assert answer.status_code == 422
        assert "not committed" in answer.text


def test_neighbours_follow_the_order_of_the_state(client):
    state = json.dumps({"sort": "-extra.views"})
    found = client.get("/api/neighbours", params={"n": "2", "q": state}).json()
    assert (found["at"], found["previous"], found["next"]) == (2, "clip-0003", "clip-0001")


def test_words_are_completed_the_most_frequent_first(client):
    found = client.get("/api/words", params={"typed": "d"}).json()
    assert found[0] == {"word": "dog", "kind": "subject", "count": 2}
    assert "red ball" in [one["word"] for one in found]


def test_rejections_tell_why_and_what_to_do(client):
    found = client.get("/api/rejects", params={"reason": "no_subject"}).json()
    assert found["reasons"] == [{"stage": "entities", "reason": "no_subject", "count": 1}]
    assert found["rows"][0]["cure"].startswith("name the people")
    assert found["rows"][0]["entities"][0]["word"] == "room"


def test_a_rejected_clip_that_is_gone_is_said_so(client):
    found = client.get("/api/rejection", params={"n": "0"}).json()
    assert found["frames"] == []
    assert found["no_frames"]


def test_layers_are_columns_and_lists_of_numbers_find_what_is_alike(tmp_path):
    out = make_pages(tmp_path)
    vectors = [[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.5, 0.5], [-1.0, 0.0]]
    table = pa.table({"key": keys(*range(5)), "score": [5.0, 4.0, 3.0, 2.0, None], "v": vectors})
    write_layer(out, "clip", table, made_by="test", version="1")
    client, _ = page(out)
    assert client.get("/api/about").json()["embeddings"] == [["clip", "v"]]
    assert select(client, sort="clip.score") == keys(3, 2, 1, 0, 4)
    assert select(client, ranges={"clip.score": [3, None]}) == keys(0, 1, 2)
    assert select(client, like={"key": "clip-0000", "layer": "clip", "column": "v"}) == keys(0, 2, 3, 1, 4)


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A page with a layer of values that are missing, infinite or no numbers, and these."""
    out = make_pages(tmp_path_factory.mktemp("strange"), ("s" * 8,))
    values = [0.5, None, float("nan"), float("inf"), float("-inf"), 0.25, 0.5, -3.0]
    write_layer(out, "clip", pa.table({"key": keys(*range(8)), "x": values}), made_by="test", version="1")
    return page(out)[0], out


@given(low=st.none() | st.floats(-4, 1), high=st.none() | st.floats(-4, 1))
@settings(max_examples=25)
def test_a_range_keeps_what_the_same_filter_keeps_elsewhere(strange, low, high):
    client, out = strange
    parts = [f"clip.x {sign} {end!r}" for sign, end in ((">=", low), ("<=", high)) if end is not None]
    kept = select(client, ranges={"clip.x": [low, high]})
    expected = Dataset(out).admitted(" and ".join(parts)) if parts else np.ones(8, bool)
    assert kept == keys(*np.flatnonzero(expected))


def test_strange_values_are_sorted_last_or_as_they_are_and_counted(strange):
    client, _ = strange
    assert select(client, sort="clip.x") == keys(4, 7, 5, 0, 6, 3, 1, 2)
    assert select(client, sort="-clip.x") == keys(3, 0, 6, 5, 7, 4, 1, 2)
    found = client.get("/api/histogram", params={"column": "clip.x"}).json()
    assert (found["low"], found["high"], sum(found["all"]), found["missing"]) == (-3.0, 0.5, 6, 2)


def test_a_page_of_two_outputs_shows_what_differs_first(tmp_path):
    one = make_pages(tmp_path / "one", ("sss", "ss"))

    def blurred(sample):
        if sample.clip.row == 1:
            sample.background.masked_share = 0.5

    two = make_pages(tmp_path / "two", ("sss", "sr"), change=blurred)
    client, _ = page(one, two)
    found = client.get("/api/pairs", params={"only": "different"}).json()
    assert [row["key"] for row in found["rows"]] == keys(4, 1)
    assert found["rows"][0]["why2"] == "entities: no_subject"
    assert [one["column"] for one in found["rows"][1]["changed"]] == ["masked_share"]
    assert found["counts"] == {"different": 2, "first": 1, "second": 0, "both": 4, "all": 5}


def test_keys_of_a_state_are_saved_as_text(client):
    answer = client.get("/api/keys", params={"q": json.dumps({"sort": "-extra.views", "words": ["dog"]})})
    assert answer.text == "clip-0003\nclip-0000\n"
    assert "attachment" in answer.headers["content-disposition"]


def broken(tmp_path, damage):
    out = make_pages(tmp_path, ("ss", "ss"))
    damage(Path(out))
    return page(out)[0]


def test_a_shard_that_is_gone_is_said_so_and_the_others_are_shown(tmp_path):
    client = broken(tmp_path, lambda out: (out / relative_path("shards", 0)).unlink())
    cards = client.get("/api/cards", params={"n": "0,2"}).json()
    assert "is gone" in cards[0]["problem"]
    assert cards[0]["caption"].startswith("A dog")
    assert "problem" not in cards[1]
    assert client.get("/media/0/0/mp4").status_code == 422


def test_a_cut_tar_serves_what_is_before_the_cut(tmp_path):
    def cut(out):
        tar = out / relative_path("shards", 0)
        tar.write_bytes(tar.read_bytes()[: Dataset(str(out)).index["members"][1][0].as_py()["offset"] - 600])

    client = broken(tmp_path, cut)
    cards = client.get("/api/cards", params={"n": "0,1"}).json()
    assert "problem" not in cards[0]
    assert "is cut" in cards[1]["problem"]


def test_a_broken_picture_is_one_sentence(tmp_path):
    def scribble(out):
        tar = out / relative_path("shards", 0)
        member = next(m for m in Dataset(str(out)).index["members"][0].as_py() if m["name"] == "frame1.jpg")
        data = bytearray(tar.read_bytes())
        data[member["offset"] : member["offset"] + member["size"]] = bytes(member["size"])
        tar.write_bytes(data)

    client = broken(tmp_path, scribble)
    answer = client.get("/small/0/0/frame1.jpg")
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (422, "text/plain")
    assert "broken" in answer.text
    assert client.get("/small/0/1/frame1.jpg").status_code == 200


def test_a_newer_schema_is_named_and_passed_over(tmp_path):
    def newer(out):
        record = out / "commits/000000.json"
        record.write_text(record.read_text().replace('"schema": 2', '"schema": 99'))

    client = broken(tmp_path, newer)
    about = client.get("/api/about").json()
    assert about["outputs"][0]["samples"] == 2
    assert "schema 99" in about["outputs"][0]["problems"][0]["message"]
    assert select(client) == keys(2, 3)


def test_an_index_without_a_column_is_shown_without_it(tmp_path):
    import pyarrow.parquet as pq

    def older(out):
        for file in (out / "index").iterdir():
            pq.write_table(pq.read_table(file).drop_columns(["background_quality", "caption", "dropped", "extra"]), file)

    client = broken(tmp_path, older)
    names = [column["name"] for column in client.get("/api/about").json()["columns"]]
    assert "background_quality" not in names
    assert "masked_share" in names
    assert client.get("/api/cards", params={"n": "0"}).json()[0]["caption"].startswith("A dog")


def test_an_output_of_rejections_alone_is_shown(tmp_path):
    client, _ = page(make_pages(tmp_path, ("rr",)))
    assert select(client) == []
    assert client.get("/api/rejects").json()["total"] == 2


def test_nothing_is_written_by_looking(tmp_path):
    out = make_pages(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in Path(out).rglob("*")}
    client, _ = page(out)
    for path in ("/api/select", "/api/sample?n=0", "/media/0/0/mp4", "/masks/0/0/frame0", "/api/rejects"):
        client.get(path)
    client.post("/api/sql", json={"sql": "select 1"}, headers=OWN)
    assert {path: path.stat().st_mtime_ns for path in Path(out).rglob("*")} == before


def test_an_output_that_goes_while_it_is_shown_is_told(tmp_path):
    out = make_pages(tmp_path)
    client, _ = page(out)
    shutil.rmtree(out)
    assert select(client) == keys(*range(5))
    assert "cannot be read any more" in client.get("/api/cards", params={"n": "0"}).json()[0]["problem"]


def test_the_export_for_embedding_atlas_has_a_row_a_sample_of_plain_values(tmp_path):
    import pyarrow.parquet as pq

    from materia.view.atlas import export_atlas

    out = make_pages(tmp_path)
    write_layer(out, "clip", pa.table({"key": keys(1), "v": [[1.0, 0.0]]}), made_by="test", version="1")
    export_atlas(out, str(tmp_path / "atlas.parquet"))
    table = pq.read_table(tmp_path / "atlas.parquet")
    assert table["key"].to_pylist() == keys(*range(5))
    assert table["subject_words"][0].as_py() == "dog"
    assert table["clip.v"].to_pylist()[:2] == [None, [1.0, 0.0]]
    assert table["extra.views"].to_pylist() == list(range(5))


def test_instances_are_read_when_a_question_names_them(client, out):
    sql = "select word, count(*) as n from instances join samples using (key) where not is_face group by word order by word"
    found = client.post("/api/sql", json={"sql": sql}, headers=OWN).json()
    assert found["rows"] == [["cat", 6], ["dog", 6], ["horse", 3], ["red ball", 10]]


def test_a_broken_layer_is_told_and_does_not_keep_the_page_shut(tmp_path):
    out = make_pages(tmp_path)
    write_layer(out, "scores", pa.table({"key": keys(0), "x": [1.0]}), made_by="test", version="1")
    Path(out, "layers/scores/layer.json").write_text("{")
    client, _ = page(out)
    assert "layers/scores" in client.get("/api/about").json()["outputs"][0]["problems"][0]["file"]
    assert len(select(client)) == 5


def test_an_output_in_an_object_store_is_the_same_page(tmp_path, monkeypatch):
    import fsspec
    from s3_server import SECRET, s3_server

    out = make_pages(tmp_path)
    with s3_server() as endpoint:
        monkeypatch.setattr(fsspec.config, "conf", {"s3": {"endpoint_url": endpoint, "key": "k", "secret": SECRET}})
        fsspec.filesystem("s3").put(out, "bucket/out", recursive=True)
        client, _ = page("s3://bucket/out")
        assert select(client, sort="-extra.views") == keys(4, 3, 2, 1, 0)
        part = client.get("/media/0/1/mp4", headers={"Range": "bytes=5-99"})
        assert (part.status_code, part.content) == (206, Dataset(out)[1].clip()[5:100])
        assert client.post("/api/mark", json={"n": 1, "bad": True}, headers=OWN).status_code == 200
        assert select(client, marked="bad") == keys(1)
