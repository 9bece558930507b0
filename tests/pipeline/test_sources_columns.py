"""A manifest whose columns have other names: the message names those found and the setting that would read them."""

import json
import shlex

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from reading import read

from materia.base.settings_file import load_settings, set_argument
from pipeline.config import Config
from pipeline.sources import SourceError
from pipeline.sources.columns import likeliest, missing_columns
from pipeline.sources.settings import SourceSettings
from stages.records import Clip

DEFAULT = SourceSettings()
ROW = {"clip_id": "x1", "clip_path": "a/b.mp4", "text": "A dog runs on a beach.", "fps": "30"}
SETS = "--set source.columns.video=clip_path --set source.columns.caption=text"


def manifest_of(kind, path, row):
    if kind == "parquet":
        pq.write_table(pa.table({name: [value] for name, value in row.items()}), path)
    else:
        lines = {"csv": [",".join(row), ",".join(row.values())], "jsonl": [json.dumps(row)]}[kind]
        path.write_text("\n".join(lines) + "\n")
    return path


def message(kind, path, row):
    """Of the input's refusal, or of its row's rejection: lines of JSON have no columns in common."""
    try:
        (found,) = read(manifest_of(kind, path / f"m.{kind}", row))
    except SourceError as error:
        return str(error)
    assert found.reason == "missing_field"
    return found.message


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_the_columns_found_and_the_likeliest_are_named(kind, tmp_path):
    said = message(kind, tmp_path, ROW)
    assert "no column 'video' and no column 'caption'" in said
    assert "found: 'clip_id', 'clip_path', 'text', 'fps'" in said
    assert SETS in said


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_what_is_said_reads_the_manifest(kind, tmp_path):
    path = manifest_of(kind, tmp_path / f"m.{kind}", ROW)
    config = tmp_path / "config.yaml"
    config.write_text("{}")
    words = shlex.split(message(kind, tmp_path, ROW).partition("perhaps ")[2])
    settings = load_settings(Config, config, tuple(word for word in words if word != "--set")).source
    (row,) = read(path, settings)
    assert isinstance(row, Clip) and (row.uri, row.caption) == ("a/b.mp4", ROW["text"])


@pytest.mark.parametrize(
    ("field", "row", "name"),
    [
        ("video", {"video_id": "7", "path": "x/y.MOV"}, "path"),
        ("video", {"a": "no video", "b": "https://host/x.webm?token=1"}, "b"),
        ("video", {"id": "7", "videoPath": None}, "videoPath"),
        ("video", {"url": "https://host/watch?v=1", "n": 3}, "url"),
        ("video", {"Video": None, "path": None}, "Video"),
        ("video", {"name": "a dog", "n": 3}, None),
        ("caption", {"title": "Dog", "description": "A dog runs on the beach."}, "description"),
        ("caption", {"n": 3, "x": "A dog runs on the beach."}, "x"),
        ("caption", {"Text": "Dog", "n": 3}, "Text"),
        ("caption", {"n": 3, "path": "a b c d.mp4"}, None),
        ("caption", {}, None),
    ],
)
def test_a_value_tells_more_than_a_name(field, row, name):
    assert likeliest(field, row, DEFAULT) == name


def test_a_column_that_serves_already_is_not_named():
    said = missing_columns({"caption": "a.mp4", "id": "b.mp4", "n": 1}, DEFAULT)
    assert said == "no column 'video'; found: 'caption', 'id', 'n'"


def test_the_column_that_was_configured_and_is_not_there_is_named():
    settings = SourceSettings.model_validate({"columns": {"video": "clip"}})
    said = missing_columns({"video": "a.mp4", "caption": "A dog."}, settings)
    assert said == "no column 'clip'; found: 'video', 'caption'; perhaps --set source.columns.video=video"


values = st.none() | st.integers() | st.text(max_size=20) | st.lists(st.integers(), max_size=2)


@given(st.dictionaries(st.text(max_size=12).filter(lambda name: name not in ("video", "caption")), values, max_size=60))
def test_any_row_without_columns_gives_one_bounded_line(row):
    said = missing_columns(row, DEFAULT)
    assert "\n" not in said
    assert said.startswith("no column 'video' and no column 'caption'; found: ")


@given(st.text() | st.lists(st.text()))
def test_a_set_argument_is_one_line_that_shell_and_yaml_read_back(value):
    argument = set_argument("source.columns.video", value)
    assert "\n" not in argument
    flag, override = shlex.split(argument)
    name, _, text = override.partition("=")
    assert (flag, name, yaml.safe_load(text)) == ("--set", "source.columns.video", value)
