"""Manifests whose rows hold lists of captions: never read as one caption, and the message unrolls them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from reading import outcomes, read, read_bytes

from pipeline.sources import SourceError
from pipeline.sources.settings import ColumnNames, SourceSettings
from stages.records import Clip

pd = pytest.importorskip("pandas")  # the environment of vLLM on a CPU has none

PANDA = {
    "videoID": ["x1", "x2"],
    "url": ["https://host/1", "https://host/2"],
    "timestamp": [[["0:00:24.641", "0:00:30.147"], ["0:00:34.551", "0:00:37.254"]], [["0:01:00.000", "0:01:05.500"]]],
    "caption": [['It\'s a "rhino".', "A person is riding a motorcycle, slowly."], ["A dog."]],
    "matching_score": [[0.43, 0.5], [0.47]],
}
PANDA_COLUMNS = SourceSettings(columns=ColumnNames(video="videoID", id="clip"))


def write(path: Path, columns: dict[str, list[object]]) -> Path:
    table = pd.DataFrame(columns)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".json":
        table.to_json(path, orient="records", indent=1)
    elif path.suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, index=False, sep={".csv": ",", ".tsv": ";"}[path.suffix])
    return path


def unrolled(path: Path, settings: SourceSettings | None = None) -> Path:
    """Run the command of the message, as a person would."""
    with pytest.raises(SourceError, match="holds lists, but a row is one clip with one caption") as stopped:
        read(path, settings)
    message = str(stopped.value)
    assert "\n" not in message and path.name in message
    subprocess.run([sys.executable, "-c", message.split("with pandas: ")[1]], cwd=path.parent, check=True)
    return path.with_suffix(".unrolled.jsonl")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_lists_of_captions_with_pairs_of_times_stop_with_the_command_that_unrolls_them(tmp_path, suffix):
    rows = read(unrolled(write(tmp_path / f"m.{suffix}", PANDA), PANDA_COLUMNS), PANDA_COLUMNS)
    assert [(row.uri, row.start_s, row.end_s, row.caption) for row in rows] == [
        ("x1", 24.641, 30.147, 'It\'s a "rhino".'),
        ("x1", 34.551, 37.254, "A person is riding a motorcycle, slowly."),
        ("x2", 60.0, 65.5, "A dog."),
    ]
    assert [float(row.extra["matching_score"]) for row in rows] == [0.43, 0.5, 0.47]
    assert len({row.key for row in rows}) == 3


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_lists_of_starts_and_ends_are_unrolled_and_ids_stay_unique(tmp_path, suffix):
    columns = {
        "id": ["007", "008"],
        "video": ["a.mp4", "b.mp4"],
        "caption": [["A dog.", "A cat."], ["A bird.", "A cow."]],
        "start": [[0, 2.5], [1, 2]],
        "end": [[2.5, 4.0], [2, 3]],
    }
    rows = read(unrolled(write(tmp_path / f"m.{suffix}", columns)))
    assert [(row.id, row.start_s, row.caption) for row in rows] == [
        ("007-0", 0.0, "A dog."),
        ("007-1", 2.5, "A cat."),
        ("008-0", 1.0, "A bird."),
        ("008-1", 2.0, "A cow."),
    ]


@pytest.mark.parametrize(
    "caption",
    [
        "['A dog.', 'A cat.']",
        '["A dog.", "A cat."]',
        '  [ "A dog." ]\n',
        "['A dog.'\n 'A cat.']",
        "['It''s', \"a 'dog'\",]",
        "[b'A dog.']",
        "[]",
        "[None, 'A dog.']",
        "['A dog.', nan]",
        "[['A dog.', 'A cat.'], []]",
        "{'en': 'A dog.'}",
        '{"en": ["A dog."]}',
    ],
)
def test_a_list_or_table_written_as_text_is_no_caption(caption):
    good = {"video": "a.mp4", "caption": "A dog."}
    data = "\n".join(map(json.dumps, [good, {**good, "caption": caption}, good]))
    rows = read_bytes("m.jsonl", data.encode())
    assert outcomes(rows) == ["ok", "wrong_type", "ok"]
    assert "'caption'" in rows[1].message and "one caption a row" in rows[1].message


@pytest.mark.parametrize(
    "caption",
    [
        "[music] A man sings.",
        "A dog [barks]",
        "[A dog]",
        '["No"] she says',
        "{smiling} woman",
        "'A dog', 'a cat'",
        "[0:03] A dog.",
    ],
)
def test_brackets_and_quotes_of_a_caption_are_kept(caption):
    (row,) = read_bytes("m.jsonl", json.dumps({"video": "a.mp4", "caption": caption}).encode())
    assert isinstance(row, Clip) and row.caption == caption


def test_a_list_that_cannot_be_unrolled_is_never_evaluated_without_bound():
    for caption in ("[" * 50_000, "['a', " + "(" * 50_000, "['" + "x" * 200_000 + "']", "[__import__('os').abort(), '']"):
        assert len(read_bytes("m.jsonl", json.dumps({"video": "a.mp4", "caption": caption}).encode())) == 1
