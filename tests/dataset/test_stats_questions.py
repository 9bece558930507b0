"""`materia stats` asked further: of some rows, by groups, of thresholds, of two outputs. What it says is what Python counts."""

import json
import math
from collections import Counter
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import PROVENANCE, make_dataset, make_output, make_rejection, make_sample, with_links

from materia.cli.main import main
from materia.dataset import scan as scan_module
from materia.dataset.filters import FilterError
from materia.dataset.layers import remove_layer, write_layer
from materia.dataset.layout import write_info
from materia.dataset.reader import Dataset
from materia.dataset.stats import collect
from materia.dataset.stats_compare import compare
from materia.dataset.stats_groups import collect_groups
from materia.dataset.stats_sweep import MOST, sweep
from materia.dataset.word_counts import WordCount
from materia.dataset.writer import write_chunk

MADE = {"made_by": "anna", "version": "1"}
KINDS = ["ssrs", "rrr", "sss" * 8, "srsr"]
GRADED = dict(zip((0, 1, 3, 7, 8, 9, 10, 11, 12), "abc" * 3, strict=True))
"""Row -> grade of the layer."""


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    make_output(folder / "out", folder / "clips", KINDS)
    keys = Dataset(str(folder / "out")).index["key"].to_pylist()
    grades = pa.table({"key": keys[:9], "grade": list(GRADED.values()), "score": [number / 8 for number in range(9)]})
    write_layer(str(folder / "out"), "grades", grades, **MADE)
    return str(folder / "out")


@pytest.fixture(params=[1, 50_000], ids=["a chunk a batch", "one batch"])
def batches(request, monkeypatch):
    monkeypatch.setattr(scan_module, "ROWS", request.param)


def stats(*arguments):
    done = CliRunner().invoke(main, ["stats", *arguments])
    return done.exit_code, done.output


def rows_of(out, folder):
    return pq.read_table(f"{out}/{folder}").to_pylist()


@pytest.mark.parametrize(
    ("where", "samples", "rejections", "left_out"),
    [
        (["row < 9"], lambda row: row["row"] < 9, lambda row: row["row"] < 9, []),
        (["source_id in ('video-1', 'video-3')"], lambda row: row["source_id"] in ("video-1", "video-3"),
         lambda row: row["source_id"] in ("video-1", "video-3"), []),
        (["reason == 'no_subject'", "row > 4"], None, lambda row: row["row"] > 4, ["samples"]),
        (["reason == 'no_instance'"], None, lambda row: False, ["samples"]),
        (["frames_with_subject == 3", "row > 9"], lambda row: row["row"] > 9, None, ["rejections"]),
        (["grades.grade == 'a' or row > 30"], lambda row: row["row"] in (0, 7, 10) or row["row"] > 30, None, ["rejections"]),
        (["grades.key is null"], lambda row: row["row"] > 12, None, ["rejections"]),
        (["reason is not null", "residual < 1"], None, None, ["samples", "rejections"]),
    ],
)  # fmt: skip
def test_rows_are_those_that_the_filters_admit_and_can_ask(out, batches, where, samples, rejections, left_out):
    expected = [[row for row in rows_of(out, folder) if keep and keep(row)] for folder, keep in
                (("index", samples), ("rejects", rejections))]  # fmt: skip
    found = collect(out, where)
    assert (found.samples, found.rejections, found.left_out, found.where) == (*map(len, expected), left_out, where)
    assert found.input == found.samples + found.rejections
    assert found.instances == sum(row["n_instances"] for row in expected[0])
    assert found.flags == dict(Counter(flag for row in expected[0] for flag in row["flags"]))
    code, text = stats(out, *(part for one in where for part in ("--where", one)))
    assert code == 0 and "rows that are admitted by" in text and "not finished" not in text
    for kind in left_out:
        assert f"{kind} have no such column and are not counted" in text


def test_nothing_is_counted_otherwise_because_rows_are_read_together(out, batches):
    whole = collect(out)
    assert (whole.samples, whole.rejections, whole.chunks) == (29, 6, 4)
    assert whole.categories["subject"].top == [WordCount("dog", 29, 87)]
    assert whole.instance_distributions["mask_score"].count == 29 * 5
    assert collect(out, ["row >= 0"]).distributions == whole.distributions
    assert collect(out, ["row >= 0", "n_faces > 0"]).instance_distributions == whole.instance_distributions


def test_without_questions_the_json_has_what_it_had(out):
    names = [
        *("planned_rows", "planned_chunks", "chunks", "input", "samples", "rejections", "reasons", "instances", "faces"),
        *("categories", "frames_with_subject", "flags", "dropped", "ambiguous_words", "distributions"),
        *("instance_distributions", "duration_s", "bytes", "throughput"),
    ]
    assert list(json.loads(stats(out, "--json")[1])) == names
    assert list(json.loads(stats(out, "--json", "--where", "row > 0")[1])) == [*names, "where", "left_out"]


@pytest.mark.parametrize(
    ("by", "value", "of_rejections"),
    [
        ("source_id", lambda row: row["source_id"], lambda row: row["source_id"]),
        ("shard", lambda row: row["shard"], "shard"),
        ("row / 9 * 0 + n_faces", None, None),
        ("n_faces", lambda row: row["n_faces"], None),
        ("grades.grade", lambda row: GRADED.get(row["row"]), None),
    ],
)
def test_groups_add_up_to_what_python_counts(out, batches, by, value, of_rejections):
    if value is None:
        with pytest.raises(FilterError, match=r"--by .* holds a number, not a text or whole number or truth"):
            collect_groups(out, by)
        return
    index, rejects = rows_of(out, "index"), rows_of(out, "rejects")
    found = {group.value: group for group in collect_groups(out, by).groups}
    if of_rejections == "shard":
        chunks = [(f"shards/{chunk:06d}.tar", kinds.count("r")) for chunk, kinds in enumerate(KINDS)]
        lost = {shard: count for shard, count in chunks if count}
    else:
        lost = Counter(map(of_rejections, rejects)) if of_rejections else {}
    assert set(found) == {*map(value, index), *lost}
    for group in found.values():
        rows = [row for row in index if value(row) == group.value]
        assert group.samples == len(rows) and group.instances == sum(row["n_instances"] for row in rows)
        assert group.hours == pytest.approx(sum(row["duration_s"] for row in rows) / 3600, abs=1e-6)
        assert group.rejections == (lost.get(group.value, 0) if of_rejections else None)
        kept = len(rows) / (len(rows) + lost.get(group.value, 0)) if of_rejections else None
        assert group.kept_share == kept
        masks = [row["min_mask_score"] for row in rows]
        assert group.medians["min_mask_score"] == (pytest.approx(median(masks)) if masks else None)
        assert group.medians["min_link_score"] is None
    sizes = [group.samples + (group.rejections or 0) for group in collect_groups(out, by).groups]
    assert sizes == sorted(sizes, reverse=True)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("ab") | st.none(), st.floats(0, 1) | st.none()), min_size=29, max_size=29))
def test_medians_of_groups_are_pythons(out, rows):
    from materia.dataset.stats_groups import _medians

    groups = ["a", "b", None]
    found = _medians(
        pa.array([groups.index(group) for group, _ in rows]).to_numpy(),
        pa.array([math.nan if value is None else value for _, value in rows]).to_numpy(),
        3,
    )
    for place, group in enumerate(groups):
        values = [value for other, value in rows if other == group and value is not None]
        assert found[place] == pytest.approx(median(values)) if values else math.isnan(found[place])


VALUES = (
    st.none() | st.floats(-2, 2, width=16) | st.integers(-3, 3).map(float) | st.sampled_from([math.nan, math.inf, -math.inf])
)


def check_sweep(found, rows):
    """Against rows of (key, value)."""
    known = [(key, value) for key, value in rows if value is not None and not math.isnan(value)]
    assert (found.rows, found.missing) == (len(rows), len(rows) - len(known))
    assert len(found.thresholds) <= MOST
    values = [threshold.value for threshold in found.thresholds]
    assert values == sorted(set(values))
    if values:
        assert found.below + sum(threshold.to_next for threshold in found.thresholds) == len(known)

    def first(candidates, choose):
        found = choose((value for _, value in candidates), default=None)
        return next(((key, value) for key, value in candidates if value == found), None)

    for threshold in found.thresholds:
        at = threshold.value
        sides = {
            "at_least": ([r for r in known if r[1] >= at], [r for r in known if r[1] < at], min, max),
            "at_most": ([r for r in known if r[1] <= at], [r for r in known if r[1] > at], max, min),
        }
        for name, (kept, lost, nearest_kept, nearest_lost) in sides.items():
            side = getattr(threshold, name)
            assert (side.kept, side.lost) == (len(kept), len(lost))
            assert (side.kept_share, side.lost_share) == (len(kept) / len(rows), len(lost) / len(rows))
            for edge, expected in ((side.just_kept, first(kept, nearest_kept)), (side.just_lost, first(lost, nearest_lost))):
                assert (edge and (edge.key, edge.value)) == expected


@settings(max_examples=60)
@given(st.lists(VALUES, min_size=29, max_size=29), st.sampled_from([1, 50_000]))
def test_a_threshold_keeps_and_loses_what_python_counts_with_who_is_right_beside_it(out, values, size):
    keys = Dataset(out).index["key"].to_pylist()
    write_layer(out, "swept", pa.table({"key": keys, "x": pa.array(values, pa.float64())}), **MADE)
    scan_module.ROWS, before = size, scan_module.ROWS
    try:
        check_sweep(sweep(out, "swept.x"), list(zip(keys, values, strict=True)))
    finally:
        scan_module.ROWS = before
        remove_layer(out, "swept")


def test_thresholds_are_round_values_and_quantiles_or_all_values_there_are(out, batches):
    found = sweep(out, "row", ["row != 20"])
    check_sweep(found, [(row["key"], row["row"]) for row in rows_of(out, "index") if row["row"] != 20])
    assert {5, 10, 15, 20, 25, 30} <= {threshold.value for threshold in found.thresholds} and len(found.thresholds) >= 12
    few = sweep(out, "frames_with_subject")
    assert [(one.value, one.at_least.kept, one.at_most.kept) for one in few.thresholds] == [(3, 29, 29)]
    scores = sweep(out, "grades.score * 8")
    assert scores.missing == 20 and [one.value for one in scores.thresholds] == list(range(9))
    assert sweep(out, "residual", ["reason == 'no_subject'"]).left_out == ["samples"]


def test_instances_have_thresholds_too_faces_only_of_their_own_score(out, batches):
    own = [row for row in rows_of(out, "instances") if not row["is_face"]]
    found = sweep(out, "instances.mask_score")
    check_sweep(found, [(row["key"], row["mask_score"]) for row in own])
    edges = [edge for one in found.thresholds for edge in (one.at_least.just_kept, one.at_most.just_lost) if edge]
    assert edges and all(
        any((row["key"], row["number"], row["mask_score"]) == (edge.key, edge.number, edge.value) for row in own)
        for edge in edges
    )
    faces = sweep(out, "instances.face_score")
    assert (faces.rows, faces.missing, faces.thresholds) == (len(rows_of(out, "instances")), 29 * 8, [])
    assert sweep(out, "instances.area_share", ["row < 4"]).rows == 15


def test_two_outputs_are_compared_number_by_number(out, tmp_path):
    write_info(str(tmp_path / "out"), make_dataset(2, 1, 2))
    linked = with_links(make_sample(tmp_path, 1))
    other = make_rejection(2, stage="localise", reason="no_instance")
    write_chunk(str(tmp_path / "out"), 0, [linked, other], provenance=PROVENANCE)
    both = [collect(out), collect(str(tmp_path / "out"))]
    found = compare(["A", "B"], both).numbers
    told = {name: (pair.first, pair.second, pair.difference) for name, pair in found.items()}
    assert told["samples"] == (29, 1, -28) and told["input"] == (35, 2, -33)
    assert told["reasons.entities.no_subject.count"] == (6, 0, -6)
    assert told["reasons.localise.no_instance.share"] == (0, 0.5, 0.5)
    assert told["dropped.odd_one"] == (0, 1, 1) and told["ambiguous_words"] == (0, 1, 1)
    assert told["distributions.min_link_score.median"][0] is None and told["distributions.min_link_score.median"][1] > 0.4
    assert told["distributions.duration_s.median"] == (4.004, 4.004, 0)
    same = compare(["A", "A"], [both[0], both[0]]).numbers
    assert {pair.difference for pair in same.values()} == {0}
    code, text = stats(out, str(tmp_path / "out"))
    assert code == 0
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "sample 29 82.9 % 1 50.0 % -28 -32.9" in lines and "localise.no_instance 0 0.0 % 1 50.0 % +1 +50.0" in lines
    assert any(line.startswith("least link score ") for line in lines)
    data = json.loads(stats(out, str(tmp_path / "out"), "--json", "--where", "row < 3")[1])
    assert data["outs"] == [out, str(tmp_path / "out")] and data["where"] == ["row < 3"]
    assert data["numbers"]["samples"] == {"first": 2, "second": 1, "difference": -1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "residul < 1"], "did you mean residual?"),
        (["--where", "reasn == 'x'"], "did you mean reason?"),
        (
            ["--where", "reason == 'x' and residual < 1"],
            "only rejections have reason, and they have no residual; no row has both",
        ),
        (["--where", "grads.grade == 'a'"], "there is no layer grads; did you mean grades?"),
        (["--where", "row >"], "is no expression like"),
        (["--by", "souce_id"], "--by 'souce_id': souce_id is no column; did you mean source_id?"),
        (["--by", "grades.grad"], "--by 'grades.grad': the layer grades has no column grad; did you mean grades.grade?"),
        (["--by", "fps"], "--by 'fps': fps holds a number, not a text or whole number or truth"),
        (["--by", "flags"], "holds a list of texts"),
        (["--by", "members"], "--by 'members'"),
        (["--by", ""], "--by '' is no expression"),
        (["--by", "3"], "--by '3'"),
        (["--sweep", "caption"], "--sweep 'caption': caption holds a text, not a number or whole number"),
        (["--sweep", "instances.mask_scor"], "did you mean mask_score?"),
        (["--sweep", "instances.word"], "holds a text"),
        (["--sweep", "row", "--by", "row"], "--by and --sweep are different questions; ask one at a time"),
        (["--why", "--where", "row > 1"], "--why takes no --where"),
        (["--at-most"], "--at-most is of no use without --sweep"),
        (["other", "--by", "row"], "--by is of one output"),
        (["b", "c"], "two outputs are set side by side, not 3"),
        (["nowhere"], "nowhere is no output"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_a_line(out, options, message):
    code, text = stats(out, *options)
    lines = [line for line in text.splitlines() if line.lower().startswith("error")]
    assert code == 2 and len(lines) == 1 and message in lines[0]


def test_tables_show_the_largest_groups_and_both_directions(out, tmp_path):
    lines = [line.split() for line in stats(out, "--by", "shard")[1].splitlines()]
    assert lines[2][:6] == ["shards/000002.tar", "24", "24", "0", "100.0", "%"]
    assert ["shards/000001.tar", "3", "0", "3", "0.0", "%", "0", "0.00"] in [line[:8] for line in lines]
    many = stats(out, "--by", "key")[1]
    assert "35 groups by key" in many and "and 5 smaller groups: --json has all" in many
    assert len(json.loads(stats(out, "--by", "key", "--json")[1])["groups"]) == 35
    up, down = (stats(out, "--sweep", "grades.score", *more)[1] for more in ([], ["--at-most"]))
    assert "grades.score over 29 samples, 20 of them without a value (69.0 %)" in up
    assert "0.25 7 24.1 % 2 6.9 %" in " ".join(up.split()) and "0.25 3 10.3 % 6 20.7 %" in " ".join(down.split())


def test_nothing_that_a_layer_holds_moves_the_cursor(out):
    keys = Dataset(out).index["key"].to_pylist()
    write_layer(out, "evil", pa.table({"key": keys, "x": ["\x1b[31m[bold]x\u202e"] * 29}), **MADE)
    text = stats(out, "--by", "evil.x")[1]
    remove_layer(out, "evil")
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[31m[bold]x\\u202e" in text


def test_outputs_without_rows_have_answers_too(tmp_path):
    write_info(str(tmp_path), make_dataset(1, 1, 1))
    for options in ([], ["--by", "shard"], ["--sweep", "residual"], [str(tmp_path)], ["--where", "row > 0"]):
        assert stats(str(tmp_path), *options)[0] == 0
    write_chunk(str(tmp_path), 0, [make_rejection(0)], provenance=PROVENANCE)
    for options in ([], ["--by", "shard"], ["--sweep", "residual"], ["--sweep", "instances.frame"], [str(tmp_path)]):
        assert stats(str(tmp_path), *options)[0] == 0
    assert collect_groups(str(tmp_path), "shard").groups[0].kept_share == 0
