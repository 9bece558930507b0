"""CSV as spreadsheets and data bases write it: cells parted by other characters than commas."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import MEMORY, outcomes, read_bytes

from pipeline.sources import SourceError
from pipeline.sources.settings import ColumnNames, SourceSettings


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["m.csv", "m.tsv"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
@pytest.mark.parametrize("start", ["", "\ufeff", "\ufeff\r\n"])
def test_cells_are_parted_by_what_parts_the_header(name, delimiter, quoting, start):
    out = io.StringIO(newline="")
    cells = [
        ("id", "video", "caption", "note"),
        ("7", "a.mp4", "A dog, a cat; a | b\tc.", "x"),
        ("8", "b.mp4", 'Say "no".', ""),
    ]
    csv.writer(out, delimiter=delimiter, quoting=quoting).writerows(cells)
    rows = read_bytes(name, (start + out.getvalue()).encode())
    assert [(row.id, row.uri, row.caption, row.extra["note"]) for row in rows] == cells[1:]


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(
    st.lists(st.tuples(text, text), max_size=5), st.sampled_from(",;\t|"), st.permutations(["video", "caption", "a;b", "c|d,e"])
)
def test_what_a_csv_writer_wrote_is_given_back_whatever_parts_its_cells(cells, delimiter, columns):
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, columns, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows({"video": "a.mp4", "caption": f"x{a}", "a;b": b, "c|d,e": ""} for a, b in cells)
    rows = read_bytes("m.csv", out.getvalue().encode())
    assert [(row.caption, row.extra["a;b"]) for row in rows] == [(f"x{a}", b) for a, b in cells]


def test_columns_with_other_names_tell_the_delimiter_too():
    settings = SourceSettings(schemes=["memory"], columns=ColumnNames(video="path", caption="text, long"))
    (row,) = read_bytes("m.csv", b"path;text, long;a,b,c,d\na.mp4;A dog.;1\n", settings)
    assert (row.uri, row.caption) == ("a.mp4", "A dog.")


def test_a_row_of_another_width_names_the_delimiter():
    (row,) = read_bytes("m.csv", b"video;caption\na.mp4;A dog; a cat.\n")
    assert row.reason == "broken_line" and "quote cells that hold ';'" in row.message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"id;path;text\n1;a.mp4;A dog.\n", "found: 'id', 'path', 'text'"),
        (b'"id";"vidoe";"caption"\n', "--set source.columns.video=vidoe"),
        (b"video^caption\na.mp4^A dog.\n", r"found: 'video\^caption'"),
        (b"a.mp4 A dog.\n", r"Cells are parted by , ; \| or tabs"),
        (b"caption\nA dog.\n", "no column 'video'; found: 'caption'"),
    ],
)
def test_a_header_that_fits_no_delimiter_says_what_was_found(data, message):
    with pytest.raises(SourceError, match=message):
        read_bytes("m.csv", data)


def test_a_cell_may_be_as_long_as_a_row():
    long = b"a.mp4,A dog.," + b"x" * 1_000_000
    assert outcomes(read_bytes("m.csv", b"video,caption,notes\n" + long + b"\na.mp4,A dog.,\n", MEMORY)) == ["ok", "ok"]
