"""The manifest's other columns: their types are part of the plan, and from there every chunk of the index has them."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import STUBS, make_config, make_manifest

from materia import open_dataset
from materia.dataset.extra import extra_row
from materia.dataset.filters import FilterError
from materia.dataset.schema import extra_types
from pipeline.job import run_job
from pipeline.plan import make_plan, open_plan
from pipeline.sources.settings import SourceSettings
from stages.records import Clip

SETTINGS = SourceSettings()


def plan_of(folder, rows, name="m.jsonl", notices=None):
    path = Path(folder) / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = [] if notices is None else notices
    return make_plan(str(path), Path(folder) / "plan", SETTINGS, 4, 2, on_notice=told.append)


def row(number, **extra):
    return {"id": f"c{number}", "video": "a.mp4", "caption": "A dog."} | extra


def test_types_are_kept_in_the_plan(tmp_path):
    made = plan_of(tmp_path, [row(0, reviewer="anna", score=1), row(1, score=0.5, ok=True), row(2, tags=["a"])])
    assert made.extra == {"reviewer": "string", "score": "double", "ok": "bool", "tags": "string"}
    assert open_plan(tmp_path / "plan") == made


def test_columns_that_are_ours_are_not_among_them(tmp_path):
    made = plan_of(tmp_path, [row(0, start=0, end=1, source_id="x", key="mine", row=7)])
    assert made.extra == {"key": "string", "row": "int64"}


def test_rows_that_are_no_clips_have_no_say(tmp_path):
    made = plan_of(tmp_path, [row(0, n=1), row(1, n="two") | {"caption": ""}, row(2, n=3)])
    assert made.extra == {"n": "int64"}


def test_columns_of_a_csv_are_texts(tmp_path):
    (tmp_path / "m.csv").write_text("video,caption,reviewer,score\na.mp4,A dog.,anna,0.5\nb.mp4,A cat.,,1\n")
    made = make_plan(str(tmp_path / "m.csv"), tmp_path / "plan", SETTINGS, 4, 2)
    assert set(made.extra) == {"reviewer", "score"}


def test_a_plan_of_an_earlier_version_has_none(tmp_path):
    made = plan_of(tmp_path, [row(0, n=1)])
    path = tmp_path / "plan" / "plan.json"
    fields = json.loads(path.read_text())
    del fields["extra"]
    path.write_text(json.dumps(fields))
    assert open_plan(tmp_path / "plan") == replace(made, extra={})


def test_what_is_left_out_is_told_once(tmp_path):
    notices = []
    made = plan_of(tmp_path, [row(0, **{f"c{number}": 1 for number in range(101)}), row(1, notes="x" * 3000)], notices=notices)
    assert len(made.extra) == 100 and len(notices) == 1
    assert "'c100'" in notices[0] and "KEY.json" in notices[0]


any_row = st.dictionaries(
    st.text(max_size=4),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.lists(st.integers(), max_size=2),
    max_size=4,
)


@settings(max_examples=40)  # each waits for the disk
@given(st.lists(any_row, max_size=6))
def test_every_value_of_the_plan_has_its_columns_type(tmp_path_factory, rows):
    made = plan_of(tmp_path_factory.mktemp("plan"), [row(number) | extra for number, extra in enumerate(rows)])
    for clip in (clip for slice_ in range(made.n_slices) for clip in made.read(slice_) if isinstance(clip, Clip)):
        kept = extra_row(clip.extra, made.extra)
        assert all((kept[name] is None) == (clip.extra.get(name) is None) for name in made.extra)


def reviewed(folder, n_rows=20):
    """A manifest of stub clips, every other one with a reviewer."""
    manifest = Path(make_manifest(folder, ["a dog"] * n_rows))
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for number, fields in enumerate(rows):
        fields.update({"score": number} if number % 2 else {"reviewer": "anna", "score": number + 0.5})
    manifest.write_text("".join(json.dumps(fields) + "\n" for fields in rows))
    return str(manifest)


def run(manifest, out):
    return run_job(make_config(), input=manifest, output=str(out), engine="inline", stage_factory=STUBS)


def test_a_job_writes_them_to_every_chunk(tmp_path):
    assert run(reviewed(tmp_path), tmp_path / "out").exit_code == 0
    schemas = [pq.read_schema(path) for path in sorted((tmp_path / "out" / "index").iterdir())]
    assert len(schemas) == 3 and all(extra_types(schema) == {"reviewer": "string", "score": "double"} for schema in schemas)
    found = open_dataset(str(tmp_path / "out"), where="extra.reviewer == 'anna' and extra.score > 15")
    assert found.index["row"].to_pylist() == [16, 18]


def test_a_job_that_an_earlier_version_planned_goes_on_without_them(tmp_path):
    manifest, out = reviewed(tmp_path), tmp_path / "out"
    assert run(manifest, out).exit_code == 0
    plan = out / "_run" / "plan" / "plan.json"
    fields = json.loads(plan.read_text())
    del fields["extra"]
    plan.write_text(json.dumps(fields))
    (out / "commits" / "000002.json").unlink()
    assert run(manifest, out).exit_code == 0
    assert [bool(extra_types(pq.read_schema(path))) for path in sorted((out / "index").iterdir())] == [True, True, False]
    assert len(open_dataset(str(out))) == 20
    with pytest.raises(FilterError, match=r"extra\.score is not in every file"):
        open_dataset(str(out), where="extra.score > 1")
