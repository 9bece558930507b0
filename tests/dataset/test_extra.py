"""The user's own columns in the index: their types, what becomes of strange ones, and indices that have none."""

import io
import json
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import PROVENANCE, make_dataset, make_output, make_rejection, make_sample
from test_validate import rehash

from materia.dataset import layout, writer
from materia.dataset.extra import MAX_COLUMNS, MAX_NAME_CHARS, MAX_VALUE_CHARS, ExtraColumns, extra_row
from materia.dataset.filters import FilterError
from materia.dataset.reader import Dataset
from materia.dataset.schema import INDEX, extra_types, index_schema
from materia.dataset.stats import collect
from materia.dataset.validate import validate

OLD = Path(__file__).resolve().parents[1] / "data" / "golden" / "schema1"


def seen(rows):
    columns = ExtraColumns()
    for row in rows:
        columns.add(row)
    return columns


def stored(extras, types):
    """What a Parquet file of these rows gives back."""
    rows = [{"extra": extra_row(extra, types)} for extra in extras]
    schema = pa.schema([index_schema(types).field("extra")])
    return pq.read_table(io.BytesIO(writer.parquet_bytes(rows, schema)))["extra"].to_pylist()


def output(folder, extras, kinds=None, rows_per_chunk=2):
    """An output whose rows have these other columns, and types for them."""
    folder.mkdir(exist_ok=True)
    out, types = str(folder / "out"), seen(extras).types if kinds is None else kinds
    chunks = -(-len(extras) // rows_per_chunk)
    layout.write_info(out, make_dataset(len(extras), chunks, rows_per_chunk))
    for chunk in range(chunks):
        rows = []
        for row in range(chunk * rows_per_chunk, min((chunk + 1) * rows_per_chunk, len(extras))):
            sample = make_sample(folder, row)
            sample.clip = msgspec.structs.replace(sample.clip, extra=extras[row])
            rows.append(sample)
        writer.write_chunk(out, chunk, rows, provenance=PROVENANCE, extra=types)
    return out


def keys(out, where):
    return [sample.document.row for sample in Dataset(out).where(where)]


@pytest.mark.parametrize(
    ("values", "kind", "kept"),
    [
        ([True, None, False], "bool", [True, None, False]),
        ([1, -(2**63), 2**63 - 1], "int64", [1, -(2**63), 2**63 - 1]),
        ([1, 0.5, None], "double", [1.0, 0.5, None]),
        (["anna", "", None], "string", ["anna", "", None]),
        ([True, 1], "string", ["true", "1"]),
        (["anna", 1, 0.5, False, None], "string", ["anna", "1", "0.5", "false", None]),
        ([["a", 1], {"b": None}, "c"], "string", ['["a",1]', '{"b":null}', "c"]),
        (["9223372036854775808", 5], "string", ["9223372036854775808", "5"]),
        ([None, None], "string", [None, None]),
    ],
)
def test_a_column_has_the_type_that_all_its_values_have(values, kind, kept):
    rows = [{"x": value} for value in values]
    types = seen(rows).types
    assert types == {"x": kind}
    assert [row["x"] for row in stored(rows, types)] == kept


def test_columns_come_in_the_order_in_which_they_first_appear_and_are_null_where_a_row_has_none():
    rows = [{"b": 1}, {"a": "x", "b": 2}, {}]
    types = seen(rows).types
    assert list(types) == ["b", "a"]
    assert stored(rows, types) == [{"b": 1, "a": None}, {"b": 2, "a": "x"}, {"b": None, "a": None}]


@pytest.mark.parametrize(
    "name", ["", "x" * (MAX_NAME_CHARS + 1), "x" * 2**20, "a\0b", "a\nb", "\x1b[31m", "\u202eevil", "\u200b"]
)
def test_a_name_that_cannot_be_typed_stays_in_key_json_and_that_is_told(name):
    columns = seen([{name: 1, "fine": 2}])
    assert columns.types == {"fine": "int64"}
    assert "KEY.json" in columns.notice and "its name is not" in columns.notice and len(columns.notice) < 400


@pytest.mark.parametrize("value", ["x" * (MAX_VALUE_CHARS + 1), ["y" * MAX_VALUE_CHARS], {"z" * MAX_VALUE_CHARS: 1}])
def test_a_column_with_a_long_value_stays_in_key_json_and_that_is_told(value):
    columns = seen([{"notes": "short"}, {"notes": value, "fine": 1}])
    assert columns.types == {"fine": "int64"}
    assert "'notes' (a value has more than" in columns.notice


def test_a_hundred_columns_are_kept_and_nothing_grows_with_more():
    columns = seen([{f"c{number}": number} for number in range(5000)])
    assert list(columns.types) == [f"c{number}" for number in range(MAX_COLUMNS)]
    assert f"'c{MAX_COLUMNS}'" in columns.notice and "'c4999'" not in columns.notice


def test_nothing_is_told_when_everything_is_kept():
    assert seen([{"a": 1}, {"a.b": "x"}]).notice == ""


NAMES = [
    "a.b",
    "a b",
    "'",
    '"',
    "extra",
    "key",
    "row",
    "members",
    "__proto__",
    "__class__",
    "class",
    "Key",
    "é",
    "狗",
    "1",
    "[0]",
    "\\",
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    extras = [{name: f"{row}{name}" for name in NAMES} for row in range(3)]
    return output(tmp_path_factory.mktemp("hostile"), extras)


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_a_column_beside_ours_and_can_be_asked_for(hostile, name):
    assert keys(hostile, f"extra[{name!r}] == {'1' + name!r}") == [1]
    found = pyarrow.dataset.dataset(f"{hostile}/index").to_table(filter=pc.field("extra", name) == f"2{name}")
    assert found["row"].to_pylist() == [2]
    assert Dataset(hostile).index["key"].to_pylist() == ["clip-0000", "clip-0001", "clip-0002"]


def test_an_output_with_hostile_names_is_valid(hostile):
    assert validate(hostile).findings == []


def test_every_file_has_the_same_columns_whatever_its_rows_hold(tmp_path):
    extras = [{"score": 1}, {"reviewer": "anna"}, {"score": 0.5, "reviewer": "bob"}, {}, {}]
    out = output(tmp_path, extras)
    schemas = [pq.read_schema(path) for path in sorted((tmp_path / "out" / "index").iterdir())]
    assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)
    assert schemas[0].equals(index_schema({"score": "double", "reviewer": "string"}), check_metadata=True)
    assert keys(out, "extra.reviewer == 'anna' or extra.score > 0.5") == [0, 1]
    assert validate(out).findings == []


def test_without_other_columns_there_is_no_extra(tmp_path):
    out = output(tmp_path, [{}, {}])
    assert Dataset(out).index.schema.equals(INDEX)
    with pytest.raises(FilterError, match=r"extra\.reviewer is not in every file .* the manifest has no other columns"):
        Dataset(out).where("extra.reviewer == 'anna'")


def test_the_caption_is_whole_and_can_be_searched(tmp_path):
    make_output(tmp_path / "out", tmp_path / "clips", ["ss"])
    out = str(tmp_path / "out")
    assert Dataset(out).index["caption"].to_pylist() == [sample.document.caption for sample in Dataset(out)]
    assert keys(out, "'dog chases' in caption") == [0, 1]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b.c", "", "é"]) | st.text(max_size=5), JSON, max_size=4), max_size=5))
def test_whatever_a_manifest_holds_is_stored_and_is_what_key_json_gives(extras):
    columns = seen(extras)
    types = columns.types
    from_json = [extra_row(json.loads(msgspec.json.encode(extra)), types) for extra in extras]
    if types:
        assert stored(extras, types) == from_json
        assert extra_types(index_schema(types)) == types
    for extra in extras:
        for name, value in extra.items():
            assert name in types or columns.notice
            if name in types and value is not None:
                kept = extra_row(extra, types)[name]
                assert kept == value or (types[name] == "string" and json.loads(kept) == value) or types[name] == "double"


def test_a_value_that_is_not_of_its_columns_type_is_null():
    types = {"a": "bool", "b": "int64", "c": "double"}
    assert extra_row({"a": 1, "b": True, "c": False}, types) == {"a": None, "b": None, "c": None}
    assert extra_row({"a": "x", "b": 2**63, "c": 10**400}, types) == {"a": None, "b": None, "c": None}


def rewritten(path, change):
    """The same index with its table changed."""
    pq.write_table(change(pq.read_table(path)), path)


def test_a_changed_value_or_caption_is_found(tmp_path):
    output(tmp_path, [{"score": 1}, {"score": 2}])
    path = tmp_path / "out" / "index" / "000000.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[1]["extra"]["score"], rows[0]["caption"] = 3, "A cat."
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)
    rehash(tmp_path / "out")
    found = [finding.message for finding in validate(str(tmp_path / "out")).findings]
    assert len(found) == 2 and "caption 'A cat.'" in found[0] and "extra {'score': 3}" in found[1]


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.struct([pa.field("x", pa.date32())]), pa.int64()])
def test_an_extra_of_another_type_is_found(tmp_path, kind):
    output(tmp_path, [{"score": 1}, {"score": 2}])
    rewritten(
        tmp_path / "out" / "index" / "000000.parquet",
        lambda table: table.set_column(table.num_columns - 1, pa.field("extra", kind), pa.nulls(2, kind)),
    )
    rehash(tmp_path / "out")
    found = [finding.message for finding in validate(str(tmp_path / "out")).findings]
    assert any("has other columns than it should: extra" in message for message in found)


def test_an_index_of_an_earlier_version_is_read_as_before():
    old = str(OLD)
    assert validate(old).findings == [] and collect(old).samples == 3
    assert len(Dataset(old, where="caption_chars > 3")) == 3
    for where, about in (
        ("'dog' in caption", "caption is not in every file"),
        ("extra.a == 1", r"extra\.a is not in every file"),
    ):
        with pytest.raises(FilterError, match=about):
            Dataset(old, where=where)


def test_an_output_whose_first_chunks_lack_the_columns_is_read_and_what_is_missing_is_told(tmp_path):
    out = output(tmp_path, [{"score": 1}, {"score": 2}, {"score": 3}, {}])
    rewritten(tmp_path / "out" / "index" / "000000.parquet", lambda table: table.drop_columns(["caption", "extra"]))
    rehash(tmp_path / "out")
    samples = Dataset(out)
    assert (len(samples), collect(out).samples) == (4, 4)
    assert keys(out, "n_subjects / 2 == 0.5 and row > 1") == [2, 3]
    with pytest.raises(FilterError, match=r"extra\.score is not in every file of the index"):
        samples.where("extra.score > 1")
    report = validate(out)
    assert (report.errors, report.warnings) == (0, 1)
    assert "other columns than the index before it (caption, extra)" in report.findings[0].message


def test_only_the_files_that_are_read_must_have_a_column(tmp_path):
    out = output(tmp_path, [{"score": 1}, {"score": 2}, {"score": 3}, {}])
    rewritten(tmp_path / "out" / "index" / "000001.parquet", lambda table: table.drop_columns(["extra"]))
    rehash(tmp_path / "out", 1)
    assert Dataset(out, where="extra.score == 2", at_most=2)[0].document.row == 1


def test_chunks_without_samples_have_the_columns_too(tmp_path):
    layout.write_info(str(tmp_path), make_dataset(1, 1, 1))
    writer.write_chunk(str(tmp_path), 0, [make_rejection(0)], provenance=PROVENANCE, extra={"a": "bool"})
    assert extra_types(pq.read_schema(tmp_path / "index" / "000000.parquet")) == {"a": "bool"}
    assert validate(str(tmp_path)).findings == []
