"""Reading manifests and folders: which rows come out, whatever goes in."""

import csv
import io
import json
import os
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from reading import MEMORY, outcomes, read, read_bytes, touch, write_parquet

from pipeline.sources import SourceError
from pipeline.sources.json_values import spans_lines
from pipeline.sources.settings import ColumnNames, SourceSettings
from stages.records import Clip

GOOD = '{"id": "a", "video": "a.mp4", "caption": "A dog."}'


# JSONL


def test_blank_lines_are_no_rows_and_crlf_and_byte_order_marks_are_no_content():
    data = (
        b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n\r\n   \t\n\xef\xbb\xbf" + GOOD.encode() + b"\n\xef\xbb\xbf\n" + GOOD.encode()
    )
    rows = read_bytes("m.jsonl", data)
    assert outcomes(rows) == ["ok", "ok", "ok"]
    assert rows[0].caption == "A dog."


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": "x", "video": "a.mp4", "caption": "cut off', "broken_line"),
        (b"no json", "broken_line"),
        (b"{" * 100_000, "broken_line"),
        (b"[" * 100_000 + b"]" * 100_000, "broken_line"),
        (b"\x00\x00", "broken_line"),
        (b"[1, 2]", "wrong_type"),
        (b"null", "wrong_type"),
        (b'"text"', "wrong_type"),
        ('{"id": "x", "video": "a.mp4", "caption": "café"}'.encode("latin-1"), "bad_encoding"),
        (GOOD.encode("utf-16"), "bad_encoding"),
        (b'{"video": "a.mp4", "caption": "half \\ud83d of a pair"}', "bad_encoding"),
        (b'{"video": "\\udc80.mp4", "caption": "A dog."}', "bad_encoding"),
    ],
)
def test_a_line_that_is_no_row_is_rejected_and_its_neighbours_are_kept(line, reason):
    rows = read_bytes("m.jsonl", b"\n".join([GOOD.encode(), line, GOOD.encode()]))
    assert outcomes(rows) == ["ok", reason, "ok"]


def test_a_badly_encoded_row_still_says_which_one_it_is_and_where():
    (row,) = read_bytes("m.jsonl", b'{"id": "x2", "video": "a.mp4", "caption": "latin-1 \xe9"}')
    assert (row.id, row.uri, row.caption) == ("x2", "a.mp4", "latin-1 \ufffd")
    assert "0xe9 at position 51" in row.message


def test_a_line_of_ten_megabytes_costs_its_own_row_only():
    long = json.dumps({"video": "a.mp4", "caption": "x" * 10_000_000}).encode()
    rows = read_bytes("m.jsonl", long + b"\n" + GOOD.encode() + b"\n" + long)
    assert outcomes(rows) == ["broken_line", "ok", "broken_line"]
    assert "source.max_line_bytes" in rows[0].message


def test_the_longest_allowed_line_is_read_whole():
    settings = SourceSettings(schemes=["memory"], max_line_bytes=1024)
    line = '{"video": "a.mp4", "caption": "%s"}'
    fits = (line % ("x" * (1024 - len(line) + 2))).encode()
    too_long = (line % ("x" * (1024 - len(line) + 3))).encode()
    assert outcomes(read_bytes("m.jsonl", b"\n".join([fits, too_long, fits]), settings)) == ["ok", "broken_line", "ok"]


line_of_anything = st.one_of(
    st.binary(max_size=60), st.just(GOOD.encode()), st.text(max_size=40).map(lambda t: json.dumps({"video": t}).encode())
)


@given(st.lists(line_of_anything, max_size=12).map(b"\n".join))
def test_any_bytes_are_as_many_rows_as_there_are_lines_that_are_not_blank(data):
    assume(not spans_lines(data, True))  # of others, lines are no rows: test_sources_json.py
    lines = [line.removeprefix(b"\xef\xbb\xbf") for line in data.split(b"\n")]
    assert len(read_bytes("m.jsonl", data)) == sum(1 for line in lines if line and not line.isspace())


def test_an_empty_manifest_has_no_rows():
    assert read_bytes("m.jsonl", b"") == []
    assert read_bytes("m.csv", b"") == []
    assert read_bytes("m.csv", b"video,caption\n") == []


# CSV


def test_csv_cells_are_text_and_empty_ones_are_absent():
    data = b"id,video,caption,start,end,licence,\r\n7,a.mp4,A dog.,1.5,0:00:03.5,CC0,\r\n,b.mp4,A cat.,,,,\r\n"
    first, second = read_bytes("m.csv", data)
    assert (first.id, first.key, first.start_s, first.end_s, first.extra) == ("7", "7", 1.5, 3.5, {"licence": "CC0"})
    assert (second.id, second.start_s, second.end_s, second.extra) == (None, None, None, {"licence": ""})


def test_csv_rows_with_too_many_or_too_few_cells_are_broken():
    rows = read_bytes("m.csv", b"video,caption\na.mp4,A dog, a cat\na.mp4\na.mp4,A dog.\n")
    assert outcomes(rows) == ["broken_line", "broken_line", "ok"]
    assert "3 cells" in rows[0].message and rows[0].uri == "a.mp4"


def test_a_quote_that_is_never_closed_costs_one_row_not_the_file():
    good = b"a.mp4,A dog.\n"
    rows = read_bytes("m.csv", b"video,caption\n" + good + b'b.mp4,"A cat\n' + good * 500)
    assert outcomes(rows) == ["ok", "broken_line"] + ["ok"] * 500


def test_a_quoted_caption_may_span_lines():
    (row,) = read_bytes("m.csv", b'caption,video\n"one\n\ntwo, ""three""",a.mp4\n')
    assert row.caption == 'one\n\ntwo, "three"'


def test_csv_lines_that_are_too_long_or_badly_encoded_cost_their_own_row():
    settings = SourceSettings(schemes=["memory"], max_line_bytes=1024)
    long, cell = b"a.mp4," + b"x" * 5000, b"a.mp4," + b"\xe9"
    rows = read_bytes("m.csv", b"\n".join([b"video,caption", long, cell, b'a.mp4,"' + b"x\n" * 900, b"a.mp4,A dog."]), settings)
    assert outcomes(rows)[:3] == ["broken_line", "bad_encoding", "broken_line"]
    assert outcomes(rows)[-1] == "ok"


def test_tsv_is_split_at_tabs():
    (row,) = read_bytes("m.tsv", b"video\tcaption\na.mp4\tA dog, a cat.\n")
    assert row.caption == "A dog, a cat."


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(st.lists(st.tuples(text, text), max_size=6))
def test_csv_gives_back_what_a_csv_writer_wrote(cells):
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows(
        [("video", "caption", "other"), *(("a.mp4", f"x{a}", b) for a, b in cells)]
    )
    rows = read_bytes("m.csv", out.getvalue().encode())
    assert [(row.caption, row.extra["other"]) for row in rows] == [(f"x{a}", b) for a, b in cells]


@given(st.binary(max_size=200))
def test_no_bytes_after_a_csv_header_raise(data):
    read_bytes("m.csv", b"video,caption\n" + data)


@pytest.mark.parametrize("header", [b"path,caption\n", b"video^caption\n", b"video,caption,caption\n", b"vidoe,caption\n"])
def test_a_header_without_the_required_columns_stops_with_the_columns_found(header):
    with pytest.raises(SourceError, match=r"m\.csv: (no column 'video'.*; found: '|column 'caption' stands)"):
        read_bytes("m.csv", header + b"a.mp4,A dog.\n")


def test_columns_may_have_other_names():
    settings = SourceSettings(schemes=["memory"], columns=ColumnNames(video="path", caption="text", id="uid"))
    (row,) = read_bytes("m.csv", b"uid,path,text,video\n1,a.mp4,A dog.,original\n", settings)
    assert (row.id, row.uri, row.caption, row.extra) == ("1", "a.mp4", "A dog.", {"video": "original"})


# Parquet


def test_parquet_types_become_what_json_can_hold(tmp_path):
    columns = {
        "video": ["a.mp4", "b.mp4"],
        "caption": [b"A dog.", b"\xff"],
        "id": pa.array([1.0, None]),
        "start": pa.array([Decimal("0.5"), None]),
        "end": pa.array([2, None], pa.int8()),
        "day": [date(2020, 1, 2), None],
        "at": pa.array([datetime(2020, 1, 2, 3, tzinfo=UTC), None], pa.timestamp("ns", "Asia/Tokyo")),
        "took": [timedelta(seconds=1), None],
        "score": [float("nan"), float("inf")],
        "price": [Decimal("1.10"), None],
        "blob": [b"\xff\x00", b"text"],
        "nested": [{"a": [1, None]}, None],
        "big": pa.array([2**64 - 1, 0], pa.uint64()),
    }
    first, second = read(write_parquet(tmp_path / "m.parquet", columns))
    assert (first.id, first.key, first.start_s, first.end_s) == ("1", "1", 0.5, 2.0)
    assert first.extra == {
        "day": "2020-01-02",
        "at": "2020-01-02 03:00:00.000000000Z",
        "took": 1.0,
        "score": None,
        "price": "1.10",
        "blob": "ff00",
        "nested": {"a": [1, None]},
        "big": str(2**64 - 1),
    }
    assert second.reason == "bad_encoding"


def test_parquet_values_of_wrong_type_or_encoding_cost_their_own_row(tmp_path):
    invalid = pa.array([b"A dog.", b"\xe9", b"A cat."]).view(pa.string())
    rows = read(write_parquet(tmp_path / "a.parquet", {"video": ["a.mp4"] * 3, "caption": invalid}))
    assert outcomes(rows) == ["ok", "bad_encoding", "ok"]
    rows = read(write_parquet(tmp_path / "b.parquet", {"video": [1, 2], "caption": ["A dog."] * 2}))
    assert outcomes(rows) == ["wrong_type"] * 2
    rows = read(write_parquet(tmp_path / "c.parquet", {"video": ["a.mp4"] * 2, "caption": pa.nulls(2)}))
    assert outcomes(rows) == ["missing_field"] * 2


def test_a_huge_parquet_cell_costs_its_own_row(tmp_path):
    columns = {"video": ["a.mp4"] * 3, "caption": ["A dog."] * 3, "notes": ["", "x" * 5_000_000, ""]}
    assert outcomes(read(write_parquet(tmp_path / "m.parquet", columns))) == ["ok", "broken_line", "ok"]


def test_a_truncated_parquet_file_or_one_without_captions_stops_with_its_name(tmp_path):
    path = write_parquet(tmp_path / "m.parquet", {"video": ["a.mp4"], "Caption": ["A dog."]})
    with pytest.raises(
        SourceError, match=r"no column 'caption'.*found: 'video', 'Caption'.*--set source.columns.caption=Caption"
    ):
        read(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(SourceError, match=r"m\.parquet: damaged or no Parquet"):
        read(path)


# Folders


def test_a_folder_is_read_in_order_of_names_with_captions_and_fields_beside_the_videos(tmp_path):
    touch(tmp_path, "b.MP4", "a.webm", "sub/c.mkv", "no_caption.mp4", "notes.pdf", "bad.mp4", "empty.mp4")
    (tmp_path / "a.txt").write_text("\ufeffA dog.\n")
    (tmp_path / "b.json").write_text('{"caption": "A cat.", "id": "cat", "end": 2, "video": "/etc/passwd", "licence": "CC0"}')
    (tmp_path / "sub/c.json").write_text('{"start": 1}')
    (tmp_path / "sub/c.txt").write_text("A bird.")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "empty.txt").write_text("\n")
    rows = read(tmp_path)
    assert [row.uri for row in rows] == ["a.webm", "b.MP4", "bad.mp4", "empty.mp4", "no_caption.mp4", "sub/c.mkv"]
    assert outcomes(rows) == ["ok", "ok", "broken_line", "empty_caption", "missing_field", "ok"]
    assert [row.caption for row in rows if isinstance(row, Clip)] == ["A dog.", "A cat.", "A bird."]
    assert (rows[1].key, rows[1].end_s, rows[1].extra) == ("cat", 2.0, {"licence": "CC0"})
    assert rows[5].start_s == 1.0


def test_a_link_that_loops_is_not_followed_and_a_caption_outside_the_folder_is_not_opened(tmp_path):
    folder = tmp_path / "videos"
    touch(folder, "a.mp4", "b.mp4", "c.mp4")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(tmp_path / "pipe")  # opening it would block for ever
    (folder / "a.txt").symlink_to(tmp_path / "pipe")
    (folder / "b.txt").symlink_to("/etc/hostname")
    os.mkfifo(folder / "c.json")
    assert outcomes(read(folder)) == ["outside_root", "outside_root", "not_a_file"]


def test_a_folder_of_any_file_system_reads_alike(tmp_path):
    memory = fsspec.filesystem("memory")
    for name, data in {"a.mp4": b"", "a.txt": b"A dog.", "sub/b.mp4": b"", "sub/b.json": b'{"caption": "A cat."}'}.items():
        memory.pipe_file(f"/folder/{name}", data)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert read("memory://folder", MEMORY) == read(tmp_path)


def test_a_file_name_that_is_not_utf8_is_a_rejection(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")).write_bytes(b"")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("A dog.")
    assert outcomes(read(tmp_path)) == ["bad_encoding"]


# Inputs as a whole


def test_an_input_that_cannot_be_read_at_all_stops_with_its_name(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    touch(tmp_path, "m.xlsx", "empty/readme.md")
    for name, message in {
        "missing.jsonl": "missing.jsonl: no such file or folder",
        "m.xlsx": "unknown format '.xlsx'",
        "pipe.jsonl": "neither a regular file nor a folder",
        "empty": "holds no video",
    }.items():
        with pytest.raises(SourceError, match=message):
            read(tmp_path / name)


def test_the_manifests_own_scheme_must_be_allowed_and_installed():
    with pytest.raises(SourceError, match=r"scheme 'memory' is not allowed.*--set 'source.schemes=\[file, memory\]'"):
        read("memory://tests/m.jsonl", SourceSettings())
    with pytest.raises(SourceError, match="'nonsense' cannot be used here"):
        read("memory://tests/m.jsonl", SourceSettings(schemes=["memory", "nonsense"]))
