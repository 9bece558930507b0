"""JSON manifests whose lines are not their rows: arrays, objects over several lines, single objects."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import MEMORY, outcomes, read_bytes

from pipeline.sources import SourceError, json_values
from pipeline.sources.settings import SourceSettings
from stages.records import Clip

ROWS = [
    {"video": f"{n}.mp4", "caption": f'Dog {n} says "[é}}, {{" \\ and more.', "boxes": [[1, 2], {"a": None}]} for n in range(5)
]
SMALL = SourceSettings(schemes=["memory"], max_line_bytes=1024)


def spellings() -> dict[str, str]:
    """The same rows, as files are found."""
    lines = [json.dumps(row) for row in ROWS]
    pretty = [json.dumps(row, indent=2, ensure_ascii=False) for row in ROWS]
    return {
        "one line": json.dumps(ROWS),
        "compact": json.dumps(ROWS, separators=(",", ":"), ensure_ascii=False),
        "pretty-printed": json.dumps(ROWS, indent=4),
        "tabs and CRLF": json.dumps(ROWS, indent="\t").replace("\n", "\r\n"),
        "byte order mark": "\ufeff \n" + json.dumps(ROWS, indent=1),
        "an object a line": "[\n" + ",\n".join(lines) + "\n]\n",
        "comma first": "[" + "\n, ".join(lines) + "]",
        "trailing comma": "[\n" + ",\n".join(lines) + ",\n]\n",
        "no commas": "[\n" + "\n".join(lines) + "\n]\n",
        "lines with commas": ",\n".join(lines) + ",\n",
        "pretty-printed objects": "\n".join(pretty),
        "objects on one line": "".join(lines),
        "two arrays": json.dumps(ROWS[:2]) + "\n" + json.dumps(ROWS[2:]),
        "text sequence": "".join(f"\x1e{line}\n" for line in pretty),
    }


@pytest.mark.parametrize("name", ["m.json", "m.jsonl", "m.ndjson"])
@pytest.mark.parametrize("spelling", spellings())
def test_the_same_rows_are_read_however_they_are_written(name, spelling):
    rows = read_bytes(name, spellings()[spelling].encode())
    wanted = read_bytes("lines.jsonl", "\n".join(map(json.dumps, ROWS)).encode())
    assert outcomes(wanted) == ["ok"] * 5 and rows == wanted


def test_an_empty_array_has_no_rows():
    for data in (b"[]", b" [\n]\n", b"\xef\xbb\xbf[ ]", b"[,]"):
        assert read_bytes("m.json", data) == []


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=6,
)
any_row = any_json.map(lambda value: {"video": "a.mp4", "caption": "A dog.", "other": value})


@given(st.lists(any_row, min_size=1, max_size=8), st.sampled_from([None, 0, 1, "\t"]), st.booleans(), st.integers(1, 40))
def test_an_array_gives_the_rows_of_json_lines_wherever_pieces_of_the_file_end(rows, indent, ascii_only, piece_bytes):
    usual, json_values._PIECE_BYTES = json_values._PIECE_BYTES, piece_bytes
    try:
        array = read_bytes("m.json", json.dumps(rows, indent=indent, ensure_ascii=ascii_only).encode())
    finally:
        json_values._PIECE_BYTES = usual
    assert array == read_bytes("m.jsonl", "\n".join(map(json.dumps, rows)).encode())


GOOD = '{"video": "a.mp4", "caption": "A dog."}'


@pytest.mark.parametrize("between", [", ", ",\n"])
@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ('{"video": "b.mp4", "caption": }', "broken_line"),
        ('{"video": "b.mp4" "caption": "A cat."}', "broken_line"),
        ('{"video": "b.mp4", "caption": "a "quoted" cat"}', "broken_line"),
        ('{"video": "b.mp4", "caption": "two\nlines"}', "broken_line"),
        ('{"video": "b.mp4", "caption": "not closed"', "broken_line"),
        ('{"video": "b.mp4", "caption": "A cat.", }', "broken_line"),
        ("{'video': 'b.mp4', 'caption': 'A cat.'}", "broken_line"),
        ("video", "broken_line"),
        ('{"boxes": [[1, 2, {"a": "}, {"}, nul]}', "broken_line"),
        ('{"video": "b.mp4", "caption": "caf\udce9"}', "bad_encoding"),
        ("17", "wrong_type"),
        ('"b.mp4"', "wrong_type"),
        ('["b.mp4", "A cat."]', "wrong_type"),
        ("null", "wrong_type"),
        ("{}", "missing_field"),
        ('{"boxes": ' + "[" * 9999 + "]" * 9999 + "}", "broken_line"),
        ('{"boxes": ' + "[" * 9999 + ', "a\\"]": 1}', "broken_line"),
        ('{"notes": "' + 'x}, {\\"' * 5000 + '"}', "broken_line"),
        ('{"notes": [' + '{"x": "\\\\"}, ' * 5000 + "0]}", "broken_line"),
    ],
)
def test_a_broken_element_costs_its_own_row_only(broken, reason, between):
    data = f"[{between.join([GOOD, GOOD, broken, GOOD, GOOD])}]".encode(errors="surrogateescape")
    found = outcomes(read_bytes("m.json", data, SMALL))
    if broken.count("[") == 9999 and "]]" not in broken:  # nothing tells where it ends
        assert found == ["ok", "ok", "broken_line"]
    else:
        assert found == ["ok", "ok", reason, "ok", "ok"]


def test_a_broken_element_of_a_pretty_printed_array_costs_its_own_row_only():
    pretty = json.dumps([json.loads(GOOD)] * 300, indent=2).replace('"A dog."', '"A "dog"."', 1)
    assert outcomes(read_bytes("m.json", pretty.encode())) == ["broken_line"] + ["ok"] * 299


def test_a_string_that_is_not_closed_costs_what_stands_on_its_line():
    broken = '{"video": "b.mp4", "caption": "not closed'
    assert outcomes(read_bytes("m.json", f"[{GOOD},\n{broken},\n{GOOD}]".encode())) == ["ok", "broken_line", "ok"]
    assert outcomes(read_bytes("m.json", f"[{GOOD}, {broken}, {GOOD}, {GOOD}]".encode())) == ["ok", "broken_line", "ok"]


def test_an_array_that_is_cut_off_says_so_once():
    whole = json.dumps([json.loads(GOOD)] * 3, indent=1)
    for n in range(1, len(whole)):
        rows = read_bytes("m.json", whole[: len(whole) - n].encode())
        assert outcomes(rows).count("broken_line") == 1, whole[: len(whole) - n]
        assert outcomes(rows)[-1] == "broken_line"
    assert "cut off" in read_bytes("m.json", whole[:-2].encode())[-1].message


@given(st.lists(st.sampled_from([GOOD, "{", "}", "[", "]", ",", ":", '"', "\\", "\n", "7", "\xe9"]), max_size=30))
def test_whatever_is_broken_is_read_to_its_end_and_good_elements_after_a_break_are_rows(pieces):
    noise = "".join(pieces)
    try:
        rows = read_bytes("m.json", f"[{noise}\n{GOOD},\n{GOOD},\n{GOOD}]".encode("latin-1"))
    except SourceError as error:
        assert "single JSON object" in str(error)
        return
    assert rows and (isinstance(rows[-1], Clip) or rows[-1].reason == "broken_line" or noise.count('"') % 2)


def test_memory_is_bounded_whatever_the_array_holds():
    class Endless(io.RawIOBase):
        """An array whose one element is a list of 16 MiB; tells the largest window that was asked for."""

        left = 16
        largest = 0

        def read(self, n: int = -1) -> bytes:
            self.largest = max(self.largest, n)
            self.left -= 1
            return b"" if self.left < 0 else (b'[{"x": [' if self.left == 15 else b"") + b'"a\\"", ' * 2**17

    file = Endless()
    rows = list(json_values.read_values(file, SourceSettings()))
    assert [row.problem[0] for row in rows] == ["broken_line"] and "source.max_line_bytes" in rows[0].problem[1]
    assert file.largest <= 2 * SourceSettings().max_line_bytes


@pytest.mark.parametrize(
    "value",
    [
        {"data": ROWS},
        {"info": {"year": 2024}, "videos": ROWS},
        {"v_abc": {"timestamps": [[0, 1]], "sentences": ["A dog."]}, "v_def": {}},
        [{"data": ROWS}],
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_an_object_that_holds_the_rows_stops_with_what_to_do(value, indent):
    with pytest.raises(
        SourceError, match=r"m\.json: a single JSON object, not rows with 'video' and 'caption'.*jq -c"
    ) as stopped:
        read_bytes("m.json", json.dumps(value, indent=indent).encode())
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize("indent", [None, 2])
def test_an_object_that_holds_the_rows_stops_also_if_it_is_longer_than_a_row_may_be(indent):
    with pytest.raises(SourceError, match="a single JSON object, not rows"):
        read_bytes("m.json", json.dumps({"data": ROWS * 1000}, indent=indent).encode(), SMALL)


def test_one_good_row_of_any_shape_is_a_row():
    for indent in (None, 2):
        (row,) = read_bytes("m.json", json.dumps(ROWS[0], indent=indent).encode(), MEMORY)
        assert isinstance(row, Clip)
