"""Layers: what is learnt about samples later is read with them, chooses among them, and cannot be torn or misled."""

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from s3_server import SECRET, s3_server
from samples import make_output

import materia
from materia.cli.main import main
from materia.dataset.filters import FilterError, admitted
from materia.dataset.layers import JoinedLayers, LayerError, layers, read_layer, remove_layer, write_layer
from materia.dataset.layout import OutputError
from materia.dataset.reader import Dataset
from materia.dataset.validate import validate

KEYS = ["clip-0000", "clip-0002", "clip-0003", "clip-0004"]
MADE = {"made_by": "anna", "version": "1"}
SOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
MARKS = pa.table(
    {
        "key": [KEYS[2], "clip-9999", KEYS[0]],
        "bad": [False, True, True],
        "why": pa.array([[], ["dark"], ["hands", "dark"]]),
        "by": ["anna", "bob", None],
        "at": pa.array([SOON, None, datetime(2025, 1, 1, tzinfo=UTC)], pa.timestamp("us", "UTC")),
        "score": [0.25, 7, 0.75],
    }
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers")
    make_output(folder / "out", folder / "clips", ["srs", "ss"])
    write_layer(str(folder / "out"), "marks", MARKS, **MADE)
    return folder / "out"


@pytest.fixture
def out(made, tmp_path):
    return str(shutil.copytree(made, tmp_path / "out"))


def materia_says(*command):
    result = CliRunner().invoke(main, list(command))
    return result.exit_code, result.output


def test_a_layer_comes_back_as_it_was_written_and_in_the_order_of_the_samples(out):
    assert read_layer(out, "marks") == MARKS
    assert materia.read_layer(out, "marks", ["score"]).column_names == ["key", "score"]
    dataset = materia.open_dataset(out)
    assert dataset.layer("marks", ["bad", "why"]).to_pydict() == {
        "key": KEYS,
        "bad": [True, None, False, None],
        "why": [["hands", "dark"], None, [], None],
    }
    assert dataset.where("row > 2").layer("marks")["score"].to_pylist() == [0.25, None]
    (info,) = layers(out).values()
    assert (info.rows, info.made_by, info.version, info.data_sha256) == (3, "anna", "1", dataset.source_sha256)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(info.made_at)).total_seconds()) < 600


@pytest.mark.parametrize(
    ("expression", "numbers"),
    [
        ("marks.bad", [0]),
        ("not marks.bad", [1, 2, 3]),
        ("marks.bad is null", [1, 3]),
        ("marks.bad is not None", [0, 2]),
        ("marks.key is not null and row > 0", [2]),
        ("not (marks.why is null)", [0, 2]),
        ("'dark' in marks.why or row == 4", [0, 3]),
        ("marks.by == 'anna' or marks.by is null", [0, 1, 2, 3]),
        ("marks.score * 4 == row", []),
        ("marks.score * 4 + row is null", [1, 3]),
        ("marks.at > '2025-06-01'", [2]),
        ("'2025-01-01T01:00:00+01:00' == marks.at", [0]),
        ("marks.at <= '2026-01-31T12:00:00Z' and marks.at is not null", [0, 2]),
        ("residual is not null and min_link_score is null and members is not null", [0, 1, 2, 3]),
    ],
)
def test_filters_know_its_columns_and_what_is_missing(out, expression, numbers):
    if not numbers:
        with pytest.raises(OutputError, match="admits none"):
            Dataset(out, expression)
        return
    assert [sample.key for sample in Dataset(out, expression)] == [KEYS[number] for number in numbers]


@pytest.mark.parametrize(
    ("expression", "about"),
    [
        ("mark.bad", "there is no layer mark; did you mean marks?"),
        ("scores.x > 1", r"there is no layer scores; there are marks; one is written with: materia layers add .*/out NAME"),
        ("extr.views > 1", r"did you mean extra\?"),
        ("marks.bed", r"the layer marks has no column bed; did you mean marks.bad\?"),
        ("marks.xyzzy > 1", "there are marks.key, marks.bad, marks.why, marks.by, marks.at, marks.score"),
        ("marks == 1", "marks is none of|did you mean"),
        ("marks.why == 1", "cannot be compared"),
        ("marks.at > 3", "number and time"),
        ("marks.at > 'soon'", "'soon' is no time as ISO 8601 writes it"),
        ("marks.bad == null", "write: COLUMN is null"),
        ("marks.bad is 3", "3 is not what may follow `is`"),
        ("3 is null", "no column that could be null"),
        ("marks.bad.x > 1", "neither a column"),
        ("__class__.x > 1", "there is no layer __class__"),
        ("Marks.bad", "there is no layer Marks; did you mean marks"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(out, expression, about):
    with pytest.raises(FilterError, match=about):
        Dataset(out, expression)


def test_without_layers_it_says_how_one_is_written(out):
    remove_layer(out, "marks")
    assert layers(out) == {}
    with pytest.raises(
        FilterError, match=r"/out has no layers; one is written with: materia layers add .*materia\.write_layer"
    ):
        Dataset(out, "marks.bad")
    with pytest.raises(OutputError, match="has no layer marks"):
        remove_layer(out, "marks")


VALUES = {
    "number": (pa.float64(), st.floats(-3, 3) | st.integers(-3, 3).map(float)),
    "whole": (pa.int32(), st.integers(-3, 3)),
    "truth": (pa.bool_(), st.booleans()),
    "text": (pa.string(), st.sampled_from(["", "a", "b", "ab"])),
    "texts": (pa.list_(pa.string()), st.lists(st.sampled_from(["a", "b", "ab"]), max_size=2)),
}
PYTHON = {
    "s.number < {}": ("number", lambda value, c: value < c),
    "s.whole >= {}": ("whole", lambda value, c: value >= c),
    "s.whole * 2 != {} + 1": ("whole", lambda value, c: value * 2 != c + 1),
    "s.truth": ("truth", lambda value, c: value),
    "'b' in s.text": ("text", lambda value, c: "b" in value),
    "s.text == 'a'": ("text", lambda value, c: value == "a"),
    "'ab' in s.texts": ("texts", lambda value, c: "ab" in value),
    "'a' not in s.texts": ("texts", lambda value, c: "a" not in value),
}


@settings(max_examples=60)
@given(
    rows=st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(*(st.none() | of for _, of in VALUES.values())), max_size=8),
    order=st.permutations("abcdef"),
    condition=st.sampled_from(sorted(PYTHON)),
    constant=st.integers(-3, 3),
    turned=st.sampled_from(["{}", "not ({})", "({}) or s.key is null", "s.{} is null"]),
)
def test_filters_of_layers_are_pythons_row_by_row(made, rows, order, condition, constant, turned):
    """Over any layer, for samples in any order: of keys that are no samples nothing is seen."""
    columns = {name: pa.array([row[at] for row in rows.values()], kind) for at, (name, (kind, _)) in enumerate(VALUES.items())}
    write_layer(str(made), "s", pa.table({"key": pa.array(list(rows), pa.string()), **columns}), **MADE)
    column, python = PYTHON[condition]
    expression = turned.format(column if "is null" in turned and "or" not in turned else condition.format(constant))
    expected = []
    for key in order:
        value = rows[key][[*VALUES].index(column)] if key in rows else None
        truth = value is not None and bool(python(value, constant))
        if turned == "s.{} is null":
            truth = value is None
        elif turned == "not ({})":
            truth = not truth
        expected.append(truth or ("or" in turned and key not in rows))
    table = JoinedLayers(str(made), expression).to(pa.table({"key": list(order)}))
    assert admitted(table, expression).tolist() == expected
    remove_layer(str(made), "s")


def test_what_a_filter_chose_by_a_layer_is_part_of_what_the_data_are(out):
    sound, all_of_it = "marks.bad is null or not marks.bad", Dataset(out).sha256
    before = Dataset(out, sound)
    assert before.chosen_by_layers and not Dataset(out, "row > 0").chosen_by_layers
    write_layer(out, "marks", MARKS, made_by="bob", version="2")
    assert Dataset(out, sound).sha256 == before.sha256, "the same samples have the same numbers"
    write_layer(out, "marks", MARKS.set_column(1, "bad", pa.array([True, True, False])), **MADE)
    other = Dataset(out, sound)
    assert len(other) == len(before) and other.sha256 != before.sha256
    assert (Dataset(out).sha256, Dataset(out).where(sound).sha256) == (all_of_it, other.sha256)


@pytest.mark.parametrize(
    "name",
    ["", "Marks", "a" * 41, "1a", "a-b", "..", "a/b", "../../x", "a.b", "a\n", "caption", "subjects", "extra", "class", "é"],
)
def test_names_that_would_leave_the_folder_or_mean_something_else_are_refused(out, name):
    before = sorted(Path(out).parent.rglob("*"))
    for attempt in (
        lambda: write_layer(out, name, MARKS, **MADE),
        lambda: read_layer(out, name),
        lambda: remove_layer(out, name),
        lambda: Dataset(out).layer(name),
    ):
        with pytest.raises(LayerError, match="is no name for a layer"):
            attempt()
    assert sorted(Path(out).parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("columns", "about"),
    [
        ({"x": [1]}, "no column `key`, the sample's name, but 'x'"),
        ({"key": [1, 2]}, "`key` must be text, not int64"),
        ({"key": ["a", None]}, "`key` is missing in 1 of 2 rows"),
        ({"key": ["b", "a", "b"]}, "'b' is there more than once"),
        ({"key": ["a"], "is it": [1]}, "'is it' is no name for a column"),
        ({"key": ["a"], "class": [1]}, "'class' is no name for a column"),
        ({"key": ["a"], "x\x1b[31m": [1]}, "is no name for a column"),
        ({"key": ["a"], "é": [1]}, "is no name for a column"),
        ({"key": ["a"], "x": [{"y": 1}]}, "'x' holds struct"),
        ({"key": ["a"], "x": [b"raw"]}, "'x' holds binary"),
        ({"key": ["a"], "x": [None]}, "'x' holds null"),
        ({"key": ["a"], "x": [[[1]]]}, "'x' holds list"),
        ({"key": ["a"], "x": [["b", None]]}, "a list of 'x' has a missing value in it"),
    ],
)
def test_a_table_that_filters_could_not_read_is_refused_and_what_was_there_stays(out, columns, about):
    with pytest.raises(LayerError, match=about) as told:
        write_layer(out, "marks", pa.table(columns), **MADE)
    assert str(told.value).startswith("layer marks: ") and "\x1b" not in str(told.value)
    assert read_layer(out, "marks") == MARKS


def test_columns_of_other_kinds_become_those_of_a_layer(out):
    table = pa.table(
        {
            "key": pa.array(KEYS[:2]).dictionary_encode(),
            "day": pa.array([datetime(2026, 1, 31), None], pa.date32()),
            "local": pa.array([datetime(2026, 1, 31, 12, 0, 0, 5), None], pa.timestamp("ns")),
            "embedding": pa.array([[1.5, 2], [3, 4]], pa.list_(pa.float16(), 2)),
            "text": pa.array(["a", "b"], pa.large_string()),
        }
    )
    write_layer(out, "other", table, **MADE)
    assert read_layer(out, "other").schema.equals(
        pa.schema(
            {"key": pa.string(), "day": pa.timestamp("us", "UTC"), "local": pa.timestamp("us", "UTC"),
             "embedding": pa.list_(pa.float32()), "text": pa.string()}
        )
    )  # fmt: skip
    assert [sample.key for sample in Dataset(out, "other.local > '2026-01-31T12:00:00' and other.day == '2026-01-31'")] == KEYS[
        :1
    ]
    assert read_layer(out, "other")["embedding"].to_pylist() == [[1.5, 2.0], [3.0, 4.0]]


def test_a_million_rows_join_in_well_under_a_second(out):
    import time

    keys = pa.array([f"clip-{number}" for number in range(1_000_000)])
    order = np.random.default_rng(0).permutation(1_000_000)
    write_layer(out, "s", pa.table({"key": keys, "x": np.arange(1_000_000.0)}), **MADE)
    index, start = pa.table({"key": keys.take(pa.array(order))}), time.process_time()
    there = admitted(JoinedLayers(out, "s.x < 10").to(index), "s.x < 10")
    assert time.process_time() - start < 2  # half of one, where nobody else is at work
    assert np.array_equal(there, order < 10)


def test_the_command_adds_lists_and_removes(out, tmp_path):
    (tmp_path / "s.csv").write_text("key,aesthetic,empty\nclip-0002,6.5,\nclip-0000,5,\n007,1,\n")
    code, said = materia_says("layers", "add", out, "s", str(tmp_path / "s.csv"), "--made-by", "me", "--version", "3")
    assert code == 0 and said.splitlines()[0] == "s: 3 rows of aesthetic" and "warning: 1 of 3 keys are of no sample" in said
    assert read_layer(out, "s")["key"].to_pylist() == ["clip-0002", "clip-0000", "007"]
    (tmp_path / "j.jsonl").write_text('{"key": "clip-0002", "words": ["a"]}\n{"key": "clip-0003", "words": null}\n')
    pq.write_table(pa.table({"key": KEYS[:1], "x": [1]}), tmp_path / "p.parquet")
    for name in ("j.jsonl", "p.parquet"):
        assert materia_says("layers", "add", out, name[0], str(tmp_path / name), "--made-by", "me", "--version", "3")[0] == 0
    told = json.loads(materia_says("layers", "list", out, "--json")[1])
    assert {name: info["rows"] for name, info in told.items()} == {"j": 2, "marks": 3, "p": 1, "s": 3}
    assert materia_says("layers", "list", out)[1].splitlines()[2].split()[:4] == ["marks", "3", "0.0", "anna"]
    assert materia_says("layers", "remove", out, "s")[0] == 0 and set(layers(out)) == {"j", "marks", "p"}
    picture = ["--output", str(tmp_path / "s.png")]
    assert materia_says("sheet", out, *picture, "--where", "'a' in j.words", "--where", "p.x is null")[0] == 0
    assert "did you mean marks" in materia_says("sheet", out, *picture, "--where", "markz.bad")[1]


@pytest.mark.parametrize(
    ("name", "text", "about"),
    [
        ("s.xlsx", "x", r"ends in \.parquet, \.csv or \.jsonl"),
        ("s.parquet", "x", "cannot be read"),
        ("s.csv", "key,a\nx,1,2\n", "cannot be read"),
        ("s.csv", "name,a\nx,1\n", "no column `key`"),
        ("s.jsonl", '{"key": 7}\n', "cannot be read"),
        ("gone.csv", None, "gone.csv"),
    ],
)
def test_a_file_that_is_no_layer_is_told_in_a_line(out, tmp_path, name, text, about):
    if text is not None:
        (tmp_path / name).write_text(text)
    code, said = materia_says("layers", "add", out, "s", str(tmp_path / name), "--made-by", "me", "--version", "1")
    (line,) = said.splitlines()
    assert code == 2 and line.startswith("error: ") and re.search(about, line)
    assert set(layers(out)) == {"marks"}


def test_validate_says_what_is_wrong_with_layers(out):
    def found():
        report = validate(out)
        return {(finding.severity, finding.file.removeprefix("layers/"), finding.message) for finding in report.findings}

    (name,) = layers(out)["marks"].files
    unknown = ("warning", f"marks/{name}", "1 key of 3 are of no sample, e.g. 'clip-9999'")
    assert found() == {unknown}
    folder = Path(out, "layers", "marks")
    (folder / "0123456789abcdef.parquet").write_bytes(b"left over")
    Path(out, "layers", "No Name").mkdir()
    assert found() == {
        unknown,
        ("warning", "marks/0123456789abcdef.parquet", "layer.json does not name it"),
        ("warning", "No Name", "has no layer's name"),
    }
    shutil.rmtree(Path(out, "layers", "No Name"))
    (folder / "0123456789abcdef.parquet").unlink()
    whole, info = (folder / name).read_bytes(), (folder / "layer.json").read_text()
    bad = {
        "twice": (
            pa.table({"key": ["clip-0000"] * 2 + [None]}),
            {"`key` is missing in 1 row", "1 row repeat a key that another row has"},
        ),
        "columns": (pa.table({"key": [1, 2, 3]}), {"`key` must be text, not int64"}),
        "rows": (pa.table({"key": KEYS[:1]}), {"has 1 row; layer.json: 3"}),
    }
    for table, messages in bad.values():
        pq.write_table(table, folder / name)
        assert messages < {message for severity, _, message in found() if severity == "error"}
    (folder / name).write_bytes(whole[:-1] + b"x")
    assert {message.split(":")[0] for severity, _, message in found() if severity == "error"} == {
        "has other content than was written (SHA-256)",
        "is no readable Parquet",
    }
    with pytest.raises(OutputError, match="is not the file that was written; run: materia validate"):
        Dataset(out, "marks.bad")
    (folder / name).unlink()
    assert any("cannot be read" in message for _, _, message in found())
    with pytest.raises(OutputError, match=r"parquet is gone; run: materia validate"):
        Dataset(out, "marks.bad")
    for text, about in (
        (info.replace('"schema": 1', '"schema": 2'), "was written with schema 2, this version reads 1; update prima-materia"),
        (info.replace(name, "../../dataset.json"), "layer.json: "),
        ("{}", "layer.json: "),
        ("[" * 100_000, "layer.json: "),
    ):
        (folder / "layer.json").write_text(text)
        assert any(about in message for severity, _, message in found() if severity == "error")
        with pytest.raises(OutputError, match=r"layer\.json"):
            Dataset(out, "marks.bad")
        assert len(Dataset(out)) == 4, "what asks for no layer reads none"
    write_layer(out, "marks", MARKS, **MADE)
    assert found() == {(*unknown[:1], f"marks/{layers(out)['marks'].file}", unknown[2])}


@pytest.fixture
def bucket(monkeypatch):
    import fsspec

    with s3_server() as endpoint:
        monkeypatch.setattr(fsspec.config, "conf", {"s3": {"endpoint_url": endpoint, "key": "k", "secret": SECRET}})
        yield fsspec.filesystem("s3")


def test_in_an_object_store_layers_are_the_same(out, bucket, tmp_path):
    bucket.put(out, "bucket/out", recursive=True)
    address = "s3://bucket/out"
    for rows in (MARKS, MARKS.slice(1)):
        write_layer(address, "marks", rows, **MADE)
        assert read_layer(address, "marks") == rows
    assert len(bucket.ls("bucket/out/layers/marks")) == 2
    assert [sample.key for sample in Dataset(address, "marks.bad")] == ["clip-0000"]
    assert {finding.message for finding in validate(address).findings} == {"1 key of 2 are of no sample, e.g. 'clip-9999'"}
    (tmp_path / "s.csv").write_text("key,x\nclip-0002,1\n")
    assert materia_says("layers", "add", address, "s", str(tmp_path / "s.csv"), "--made-by", "me", "--version", "1")[0] == 0
    assert list(layers(address)) == ["marks", "s"]
    remove_layer(address, "s")
    assert list(layers(address)) == ["marks"] and not bucket.exists("bucket/out/layers/s")
    with pytest.raises(FilterError, match="there are marks"):
        Dataset(address, "s.x > 0")
