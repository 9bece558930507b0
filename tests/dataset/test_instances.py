"""The table of the instances says what KEY.json says, is committed with its chunk, and is asked in one line."""

import json
import shutil

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import PROVENANCE, make_dataset, make_output, make_rejection, make_sample, with_links
from test_schema_1 import OLD
from test_validate import messages, rehash

import materia
from materia.cli.main import main
from materia.dataset import layout, writer
from materia.dataset.filters import FilterError
from materia.dataset.layout import OutputError, inspect
from materia.dataset.schema import INSTANCES
from materia.dataset.stats import collect
from materia.dataset.validate import validate
from stages.records import Box, Evidence, Link


def write(folder, *chunks):
    layout.write_info(str(folder / "out"), make_dataset(sum(map(len, chunks)), len(chunks), max(map(len, chunks))))
    for chunk, rows in enumerate(chunks):
        writer.write_chunk(str(folder / "out"), chunk, rows, provenance=PROVENANCE)
    return str(folder / "out")


@pytest.fixture
def linked(tmp_path):
    """Two linked samples and a rejection, and in a chunk of its own a sample without links."""
    first = [with_links(make_sample(tmp_path, 0)), make_rejection(1), with_links(make_sample(tmp_path, 2), second_best=0.5)]
    return write(tmp_path, first, [make_sample(tmp_path, 3)])


def test_every_instance_is_a_row_with_all_that_key_json_says_of_it(linked):
    dataset = materia.open_dataset(linked)
    table = dataset.instances()
    assert table.schema.equals(INSTANCES, check_metadata=True)
    rows = {(row["key"], row["number"]): row for row in table.to_pylist()}
    documents = [sample.document for sample in dataset]
    assert list(rows) == [(document.key, number) for document in documents for number in range(len(document.instances))]
    subject, face, thing, carried = (rows["clip-0000", number] for number in (0, 1, 4, 7))
    assert (subject["word"], subject["category"], subject["frame"], subject["track"]) == ("dog", "subject", 0, 1)
    assert (face["is_face"], face["parent"], face["track"], face["face_score"], face["overlap_share"]) == (
        True,
        0,
        1,
        0.875,
        None,
    )
    assert (thing["word"], thing["track"], thing["second_best"], thing["carried"]) == ("red ball", 0, None, False)
    assert (carried["frame"], carried["carried"]) == (2, True)
    assert [subject[f"box_{side}"] for side in ("x1", "y1", "x2", "y2")] == [15.75, 15.5, 45.75, 57.5]
    assert [subject[f"crop_{side}"] for side in ("x1", "y1", "x2", "y2")] == [16, 16, 45, 57]
    assert subject["box_area_share"] == pytest.approx(30 * 42 / (96 * 72), abs=1e-6)
    assert (subject["link_score"], subject["second_best"], subject["overlap_share"]) == (0.5, 0.97, 0.0625)
    assert [subject[f"evidence_{kind}"] for kind in ("motion", "appearance", "face")] == [0.25, 0.625, None]
    unlinked = rows["clip-0003", 0]
    assert [unlinked[name] for name in ("track", "link_score", "second_best", "face_score", "carried")] == [None] * 4 + [False]


def test_the_index_says_which_chosen_boxes_became_no_reference(linked):
    index = materia.open_dataset(linked).index
    assert index["dropped"].to_pylist() == [["odd_one"], ["odd_one"], []]
    assert index["n_dropped"].to_pylist() == [1, 1, 0]
    assert len(materia.open_dataset(linked, where="'odd_one' in dropped and n_dropped == 1")) == 2


SHARE = st.floats(0, 1, width=16)
MAYBE = st.none() | SHARE
SCORES = {"face_score": MAYBE, "overlap_share": MAYBE, "link_score": MAYBE}


@st.composite
def recorded(draw):
    """What stages may have said of the eight instances of a sample: scores of each, links and boxes of some words."""
    scores = [draw(st.fixed_dictionaries(SCORES)) for _ in range(8)]
    evidence = [draw(st.none() | st.builds(Evidence, motion=MAYBE, appearance=MAYBE, face=MAYBE)) for _ in range(8)]
    words = draw(st.permutations(["dog", "red ball"]).flatmap(lambda both: st.sampled_from([both, both[:1], []])))
    links = [Link(word=word, score=draw(MAYBE), second_best=draw(MAYBE)) for word in words]
    boxes = [
        Box(
            word=draw(st.sampled_from(["dog", "red ball"])),
            category="subject",
            frame=draw(st.integers(0, 2)),
            box_xyxy_px=(0, 0, 9, 9),
            score=draw(SHARE),
            chosen=draw(st.booleans()),
            carried=draw(st.booleans()),
            dropped=draw(
                st.none() | st.sampled_from(["nobody_seen", "odd_one", "low_mask_score", "small_mask", "somebody_elses"])
            ),
        )
        for _ in range(draw(st.integers(0, 4)))
    ]
    return scores, evidence, links, boxes


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recorded())
def test_whatever_stages_record_table_and_key_json_agree(tmp_path_factory, said):
    folder = tmp_path_factory.mktemp("said")
    sample = make_sample(folder, 0)
    scores, evidence, sample.links, sample.boxes = said
    for one, own, why in zip(sample.instances, scores, evidence, strict=True):
        one.evidence = why
        for name, value in own.items():
            setattr(one, name, value)
    dataset = materia.open_dataset(write(folder, [sample]))
    (document,) = (one.document for one in dataset)
    second_best = {link.word: link.second_best for link in document.links}
    taken = {(box.word, box.frame) for box in document.boxes if box.chosen and box.carried}
    for row, one in zip(dataset.instances().to_pylist(), document.instances, strict=True):
        plain = {name: row[name] for name in one.__struct_fields__ if name in row}
        assert plain == {name: getattr(one, name) for name in plain}
        assert len(plain) == 11
        kinds = ("motion", "appearance", "face")
        assert [row[f"evidence_{kind}"] for kind in kinds] == [getattr(one.evidence, kind, None) for kind in kinds]
        assert row["second_best"] == second_best.get(one.word)
        assert row["track"] == (list(second_best).index(one.word) if one.word in second_best else None)
        assert row["carried"] == ((one.word, one.frame) in taken)
    assert dataset.index["dropped"].to_pylist() == [[box.dropped for box in document.boxes if box.dropped]]
    assert not [message for message in messages(folder / "out") if "table" in message or "index" in message]


def test_a_filter_and_columns_choose_among_the_instances_of_the_datasets_own_samples(linked):
    dataset = materia.open_dataset(linked)
    assert len(dataset.instances()) == 24
    assert dataset.instances(where="is_face").column("parent").to_pylist() == [0, 2, 5] * 3
    worst = dataset.instances(where="not is_face and mask_score < 0.84", columns=["key", "number", "mask_score"])
    assert worst.column_names == ["key", "number", "mask_score"]
    assert worst.to_pylist() == [{"key": f"clip-000{row}", "number": 0, "mask_score": 0.8} for row in (0, 2, 3)]
    later = dataset.where("row > 0")
    assert set(later.instances()["key"].to_pylist()) == {"clip-0002", "clip-0003"}
    nothing = dataset.where("row == 3").instances(where="second_best > 0.9")
    assert (len(nothing), nothing.column_names) == (0, INSTANCES.names)
    with pytest.raises(FilterError, match="did you mean mask_score"):
        dataset.instances(where="mask_scor < 1")
    with pytest.raises(FilterError, match="caption is none of row, key, number"):
        dataset.instances(where="caption == ''")
    with pytest.raises(KeyError, match="elsewhere"):
        dataset.instances(columns=["elsewhere"])


def test_only_the_tables_of_the_datasets_samples_are_read(linked, tmp_path):
    dataset = materia.open_dataset(linked)
    path = tmp_path / "out" / "instances" / "000000.parquet"
    path.write_bytes(path.read_bytes() + b"damage")
    assert len(dataset.where("row == 3").instances()) == 8
    with pytest.raises(
        OutputError, match=r"instances/000000\.parquet is not the file that was committed; run: materia validate"
    ):
        dataset.instances()


def without_instances(out, number):
    """As an earlier version wrote a chunk: no table of instances, nor its columns in the index."""
    (out / "instances" / f"{number:06d}.parquet").unlink()
    path = out / "commits" / f"{number:06d}.json"
    record = json.loads(path.read_bytes())
    del record["files"][f"instances/{number:06d}.parquet"]
    path.write_text(json.dumps(record))
    index = out / "index" / f"{number:06d}.parquet"
    pq.write_table(pq.read_table(index).drop_columns(["ambiguous_words", "n_dropped", "dropped"]), index)
    rehash(out, number)


def test_an_output_of_schema_1_has_instances_too_made_from_its_documents():
    dataset = materia.open_dataset(str(OLD))
    rows = dataset.instances().to_pylist()
    told = [(sample.key, one.word, one.mask_score) for sample in dataset for one in sample.document.instances]
    assert [(row["key"], row["word"], row["mask_score"]) for row in rows] == told
    assert {row["track"] for row in rows} == {row["link_score"] for row in rows} == {None}
    stats = collect(str(OLD))
    assert (stats.instance_distributions, stats.ambiguous_words, stats.dropped) == ({}, None, {})


@pytest.mark.parametrize("old", [[0], [1], [0, 1]])
def test_chunks_of_an_earlier_version_are_read_beside_new_ones(linked, tmp_path, old):
    new = materia.open_dataset(linked).instances()
    for number in old:
        without_instances(tmp_path / "out", number)
    if len(old) == 2:
        (tmp_path / "out" / "instances").rmdir()
    assert [finding.message for finding in validate(linked).findings if finding.severity == "error"] == []
    assert inspect(linked).broken == []
    assert materia.open_dataset(linked).instances().equals(new)
    assert collect(linked).samples == 3


@pytest.mark.parametrize(("damage", "told"), [("gone", "is gone"), ("cut", "bytes, ")])
def test_a_table_that_is_gone_or_cut_makes_its_chunk_incomplete(linked, tmp_path, damage, told):
    path = tmp_path / "out" / "instances" / "000001.parquet"
    data = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(data[:-9])
    ((chunk, problem),) = inspect(linked).broken
    assert chunk == 1 and str(path) in problem and told in problem


def lie(column, value):
    def change(rows):
        rows[3][column] = value
        return rows

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lie("mask_score", 0.5), "the table of instances has, as number 3, mask_score 0.5, KEY.json and the tar give 0.85"),
        (lie("link_score", 0.5), "link_score 0.5, KEY.json and the tar give None"),
        (lie("carried", True), "carried True"),
        (lie("track", 7), "track 7"),
        (lie("number", 2), "number 2"),
        (lie("key", "clip-0002"), "the table of instances has 7 rows, KEY.json gives 8"),
        (lie("key", "stranger"), "instances/000000.parquet: is not in the index"),
        (lambda rows: rows[1:], "the table of instances has 7 rows, KEY.json gives 8"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "as number 0, number 1"),
    ],
)
def test_a_table_that_disagrees_with_key_json_is_found(linked, tmp_path, change, told):
    path = tmp_path / "out" / "instances" / "000000.parquet"
    pq.write_table(pa.Table.from_pylist(change(pq.read_table(path).to_pylist()), INSTANCES), path)
    rehash(tmp_path / "out")
    found = messages(tmp_path / "out")
    assert any(told in message for message in found), found


def test_a_table_of_other_columns_is_found(linked, tmp_path):
    path = tmp_path / "out" / "instances" / "000000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["track"]), path)
    rehash(tmp_path / "out")
    assert messages(tmp_path / "out") == ["instances/000000.parquet: has other columns than it should: track"]


def test_a_file_of_instances_that_no_record_names_is_a_stray(tmp_path):
    make_output(tmp_path / "out", tmp_path / "clips", ["s"])
    shutil.copy(tmp_path / "out" / "instances" / "000000.parquet", tmp_path / "out" / "instances" / "000007.parquet")
    assert messages(tmp_path / "out") == ["instances/000007.parquet: belongs to no committed chunk"]


def test_statistics_have_link_scores_ambiguous_words_and_dropped_references(linked, tmp_path):
    stats = collect(linked)
    assert (stats.ambiguous_words, stats.dropped) == (1, {"odd_one": 2})
    links = stats.instance_distributions["link_score"]
    assert (links.count, links.min, links.max, sum(links.histogram)) == (10, 0.5, 0.5 + 7 / 64, 10)
    assert {name: one.count for name, one in stats.instance_distributions.items()} == {
        "detector_score": 15,
        "mask_score": 15,
        "overlap_share": 10,
        "link_score": 10,
        "face_score": 6,
    }
    assert json.loads(msgspec.json.encode(stats))["dropped"] == {"odd_one": 2}
    told = [line.split() for line in CliRunner().invoke(main, ["stats", linked]).output.splitlines()]
    assert ["dropped", "references:", "odd_one", "2"] in told
    assert ["ambiguous", "words,", "for", "which", "another", "individual", "would", "have", "been", "as", "good:", "1"] in told
    table = told[told.index(["Distributions", "over", "instances"]) :]
    assert ["link", "score", "0.5", "0.5"] in [line[:4] for line in table]
