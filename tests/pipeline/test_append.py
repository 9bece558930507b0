"""`materia run --append`: what an input has gained becomes a further part of the plan, and what was committed stays."""

import hashlib
import itertools
import json
import os
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import STUBS, contents, make_config, make_manifest, outcomes
from planning import SETTINGS, SUFFIXES, all_rows, any_row, plan, told, write

from materia import open_dataset
from materia.dataset.validate import validate
from pipeline.job import run_job
from pipeline.plan import extend_plan, growth, open_plan
from pipeline.sources import find_source


def extend(made, address):
    source = find_source(str(address), SETTINGS)
    grown = growth(made, source, SETTINGS)
    assert grown.problem == ""
    return extend_plan(made, source, grown.pieces, SETTINGS) if grown.pieces else made


steps = st.lists(st.tuples(st.booleans(), st.lists(any_row, max_size=9)), min_size=1, max_size=4)


@settings(max_examples=30)  # each waits for the disk
@given(suffix=st.sampled_from(SUFFIXES), start=st.lists(any_row, min_size=1, max_size=20), steps=steps)
def test_appended_rows_get_the_next_numbers_and_chunks_and_meet_all_earlier_keys(suffix, start, steps):
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        files = {here / f"in/part-0.{suffix}": list(start)}
        (here / "in").mkdir()
        write(*next(iter(files.items())))
        made = plan(here / "in/part-*", here / "plan", 7, 3)
        rows, part_sizes = list(start), [len(start)]
        for number, (new_file, more) in enumerate(steps):
            path = here / f"in/part-{number + 1}.jsonl" if new_file else list(files)[-1]
            files[path] = [*files.get(path, []), *more]
            write(path, files[path])
            os.utime(path, (number, number))
            before, made = made, extend(made, here / "in/part-*")
            rows += more
            part_sizes += [len(more)] if len(made.parts) > len(before.parts) else []
            for chunk in range(before.n_chunks):
                assert made.first_row(chunk) == before.first_row(chunk) and made.slices_of(chunk) == before.slices_of(chunk)
        write(here / "whole.jsonl", rows)
        assert told(all_rows(made)) == told(all_rows(plan(here / "whole.jsonl", here / "fresh")))
        assert open_plan(here / "plan") == made and [part.rows for part in made.parts] == part_sizes
        sizes = [size for part in part_sizes for size in [*[7] * (part // 7), part % 7] if size]
        chunks = [[row for slice_ in made.slices_of(chunk) for row in made.rows_of(slice_)] for chunk in range(made.n_chunks)]
        assert [len(chunk) for chunk in chunks] == sizes and list(itertools.chain(*chunks)) == list(range(len(rows)))
        assert all(made.chunk_of(slice_) == chunk for chunk in range(made.n_chunks) for slice_ in made.slices_of(chunk))


# Jobs


def add(manifest: str, captions: list[str], first: int = 100) -> None:
    with Path(manifest).open("a") as file:
        for number, caption in enumerate(captions, first):
            file.write(json.dumps({"id": f"c{number:04d}", "video": "clip.mp4", "caption": caption}) + "\n")


def run(manifest, out, append=False, **more):
    return run_job(
        make_config(), input=str(manifest), output=str(out), engine="inline", stage_factory=STUBS, append=append, **more
    )


@pytest.fixture
def manifest(tmp_path):
    return make_manifest(tmp_path / "clips", ["a dog"] * 12)


def is_whole(out: Path) -> bool:
    """Whether the records of the output agree; what its stub samples hold is nothing that `validate` would like."""
    return not [finding for finding in validate(str(out)).findings if not finding.file.startswith("shards/")]


def without_info(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(out).items() if name != "dataset.json"}


def test_an_output_goes_on_with_added_rows_and_what_was_there_stays_byte_for_byte(manifest, tmp_path):
    out = tmp_path / "out"
    assert run(manifest, out).exit_code == 0
    before = without_info(out)
    add(manifest, ["a cat", "", "a cat"])
    add(manifest, ["a dog"], first=3)  # a key of an earlier part
    refused = run(manifest, out)
    assert refused.exit_code == 4 and "not as it was" in refused.message and "give --append" in refused.message
    result = run(manifest, out, append=True)
    assert (result.exit_code, result.rows, result.samples, result.rejections) == (0, 16, 14, 2), result.message
    after = without_info(out)
    assert {name: after[name] for name in before} == before
    assert {name for name in after if name.startswith("commits/")} == {f"commits/00000{n}.json" for n in range(3)}
    assert outcomes(out)[13] == "empty_caption" and outcomes(out)[15] == "duplicate_id"
    assert is_whole(out) and len(open_dataset(str(out))) == 14
    assert run(manifest, out).exit_code == run(manifest, out, append=True).exit_code == 0
    assert without_info(out) == after


def test_where_the_old_rows_fill_their_chunks_it_is_the_output_of_one_run(tmp_path):
    manifest = make_manifest(tmp_path / "clips", ["a dog"] * 8)
    assert run(manifest, tmp_path / "out").exit_code == 0
    add(manifest, ["a cat"] * 5)
    assert run(manifest, tmp_path / "out", append=True).exit_code == 0
    assert run(manifest, tmp_path / "fresh").exit_code == 0
    assert without_info(tmp_path / "out") == without_info(tmp_path / "fresh")


def test_a_first_start_may_say_append(manifest, tmp_path):
    assert run(manifest, tmp_path / "out", append=True).exit_code == 0
    assert run(manifest, tmp_path / "fresh").exit_code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("append", [False, True])
def test_rows_that_changed_are_refused_and_the_old_input_goes_on(manifest, tmp_path, append):
    assert run(manifest, tmp_path / "out").exit_code == 0
    old = Path(manifest).read_text()
    Path(manifest).write_text(old.replace("a dog", "a cat", 1))
    add(manifest, ["a cat"])
    result = run(manifest, tmp_path / "out", append=append)
    assert result.exit_code == 4 and "not its first ones any more" in result.message and manifest in result.message
    Path(manifest).write_text(old)
    assert run(manifest, tmp_path / "out", append=append).exit_code == 0


def test_a_range_of_chunks_is_not_appended_to_but_goes_on_after_a_touch(manifest, tmp_path):
    assert run(manifest, tmp_path / "out").exit_code == 0
    os.utime(manifest, (1, 1))
    assert run(manifest, tmp_path / "out", chunks=(1, 2)).exit_code == 0
    refused = run(manifest, tmp_path / "out", append=True, chunks=(1, 2))
    assert refused.exit_code == 2 and "without --range" in refused.message


def test_a_part_that_is_gone_is_refused_by_name(tmp_path):
    manifest = Path(make_manifest(tmp_path / "clips", ["a dog"] * 4))
    (tmp_path / "clips/more.jsonl").write_text('{"video": "clip.mp4", "caption": "a cat"}\n')
    assert run(tmp_path / "clips/m*.jsonl", tmp_path / "out").rows == 5
    manifest.unlink()
    result = run(tmp_path / "clips/m*.jsonl", tmp_path / "out", append=True)
    assert result.exit_code == 4 and "manifest.jsonl is gone" in result.message


def test_an_unfinished_output_takes_new_files_whatever_their_names(tmp_path):
    make_manifest(tmp_path / "clips", ["a dog"] * 12)
    out = tmp_path / "out"
    assert run(tmp_path / "clips/m*.jsonl", out).exit_code == 0
    finished = without_info(out)
    (out / "commits/000001.json").unlink()
    (tmp_path / "clips/m.jsonl").write_text('{"video": "clip.mp4", "caption": "a cat"}\n')
    assert run(tmp_path / "clips/m*.jsonl", out).exit_code == 4
    assert run(tmp_path / "clips/m*.jsonl", out, append=True).rows == 13
    after = without_info(out)
    assert {name: after[name] for name in finished} == finished and is_whole(out)


def test_with_a_limit_no_more_rows_than_that_are_taken(manifest, tmp_path):
    assert run(manifest, tmp_path / "out", limit=14).rows == 12
    add(manifest, ["a cat"] * 5)
    assert run(manifest, tmp_path / "out", append=True).exit_code == 4
    assert run(manifest, tmp_path / "out", append=True, limit=14).rows == 14
    add(manifest, ["a cat"] * 5, first=200)
    assert run(manifest, tmp_path / "out", limit=14).rows == 14


def test_killed_between_plan_and_dataset_json_the_next_start_does_the_rest(manifest, tmp_path, monkeypatch):
    assert run(manifest, tmp_path / "out").exit_code == 0
    add(manifest, ["a cat"])

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("pipeline.opening.replace_info", die)
        run(manifest, tmp_path / "out", append=True)
    assert run(manifest, tmp_path / "out").rows == 13
    assert is_whole(tmp_path / "out")


def test_columns_that_the_index_has_not_are_told_and_its_files_stay_alike(manifest, tmp_path, capsys):
    out = tmp_path / "out"
    rows = [json.loads(line) | {"score": 1} for line in Path(manifest).read_text().splitlines()]
    Path(manifest).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(manifest, out).exit_code == 0
    more = [{"id": "new", "video": "clip.mp4", "caption": "a cat", "score": 0.5, "mood": "calm"}]
    Path(manifest).write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))
    capsys.readouterr()
    assert run(manifest, out, append=True).exit_code == 0
    assert "'score', 'mood'; KEY.json has them" in capsys.readouterr().err
    assert [sample.document.extra for sample in open_dataset(str(out))][-1] == {"score": 0.5, "mood": "calm"}
    assert len(open_dataset(str(out), where="extra.score > 0")) == 12


def earlier(out: Path) -> None:
    """Make an output's plan look as earlier versions wrote it."""
    made = open_plan(str(out / "_run/plan"))
    digest = hashlib.sha256(b"".join(map(msgspec.msgpack.encode, all_rows(made)))).hexdigest()
    stamp = {"files": 1, "bytes": 1, "sha256": "0" * 64}
    names = ("input", "root", "rows", "rows_per_chunk", "rows_per_slice", "extra", "limit")
    fields = {name: getattr(made, name) for name in names} | {"sha256": digest, "stamp": stamp}
    (out / "_run/plan/plan.json").write_text(json.dumps(fields))
    for segment in (out / "_run/plan/segments").iterdir():
        segment.unlink()
    (out / "_run/plan/rows.msgpack").touch()
    info = json.loads((out / "dataset.json").read_text()) | {"plan_sha256": digest}
    (out / "dataset.json").write_text(json.dumps(info))


def test_an_output_that_an_earlier_version_planned_goes_on_and_can_grow(manifest, tmp_path):
    out = tmp_path / "out"
    assert run(manifest, out).exit_code == 0
    finished = contents(out)
    earlier(out)
    (out / "commits/000001.json").unlink()
    add(manifest, ["a cat"])
    assert run(manifest, out, append=True).exit_code == 4  # which rows are new, the old plan does not say
    Path(manifest).write_text("".join(Path(manifest).read_text().splitlines(keepends=True)[:12]))
    assert run(manifest, out).exit_code == 0
    assert contents(out) == finished and not (out / "_run/plan/rows.msgpack").exists()
    add(manifest, ["a cat"])
    assert run(manifest, out, append=True).rows == 13
