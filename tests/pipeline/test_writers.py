"""Several starts on one output: side by side on other chunks, one after the other, one too many, one that was asleep."""

import itertools
import json
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import STUBS, contents, make_config, make_manifest, outcomes, start, wait_for
from stub_stages import BLIP, GATES

from materia import open_dataset
from materia.base import storage
from materia.dataset import layout
from materia.dataset.layout import Commit, FileHash, commits, committed, in_ledger, inspect, record_address, write_ledger
from materia.dataset.validate import validate
from pipeline.job import run_job
from pipeline.ledger import Ledger, spans
from pipeline.preflight import lease_folder, only_writer

CAPTIONS = ["a dog"] * 20 + ["a dog [blip]"] + ["a dog [nothing]"] * 3 + ["a dog"] * 11  # 5 chunks


@pytest.fixture
def manifest(tmp_path):
    return make_manifest(tmp_path / "clips", CAPTIONS)


@pytest.fixture
def small_ledger(monkeypatch):
    monkeypatch.setattr("materia.dataset.layout.LEDGER_CHUNKS", 2)
    monkeypatch.setattr("pipeline.ledger.LEDGER_CHUNKS", 2)


def run(manifest, out, **asked):
    return run_job(make_config(), input=manifest, output=str(out), engine="inline", stage_factory=STUBS, **asked)


def claims(out):
    return json.loads(storage.read_bytes(storage.join(lease_folder(str(out)), "claims.json")))["claims"]


def test_jobs_on_ranges_of_chunks_make_together_what_one_job_makes(manifest, tmp_path, small_ledger):
    out = tmp_path / "out"
    assert run(manifest, tmp_path / "whole").exit_code == 0
    assert run(manifest, out, chunks=(0, 0)).exit_code == 0  # plans, and that is all
    assert committed(str(out)) == set()
    for chunks, rows in (((3, None), 11), ((0, 1), 8), ((1, 3), 16)):
        result = run(manifest, out, chunks=chunks)
        assert (result.exit_code, result.rows) == (0, rows), result.message
    assert contents(out) == contents(tmp_path / "whole")
    assert in_ledger(str(out)) == [0, 1]
    said = [json.loads(path.read_text()) for path in sorted((out / "_run/lease").glob("0*.json"))]
    assert [one["told"]["chunks"] for one in said] == [[], [[3, 5]], [[0, 1]], [[1, 3]]]
    assert [(claim["first"], claim["end"]) for claim in claims(out)] == [(0, 0), (3, None), (0, 1), (1, 3)]


def test_a_second_job_on_the_same_chunks_is_refused_and_one_on_others_is_not(manifest, tmp_path):
    out = tmp_path / "out"
    assert run(manifest, out, chunks=(0, 0)).exit_code == 0
    with only_writer(str(out), (1, 3)):
        for chunks in ((0, None), (2, 4)):
            result = run(manifest, out, chunks=chunks)
            assert result.exit_code == 2 and "another job (chunks 1:3): " in result.message
        assert run(manifest, out, chunks=(0, 1)).exit_code == 0
        assert run(manifest, out, chunks=(3, 99)).exit_code == 0
    assert committed(str(out)) == {0, 3, 4}


def test_an_output_that_is_not_planned_is_claimed_as_a_whole(manifest, tmp_path):
    with only_writer(str(tmp_path / "out"), (1, 2)):
        assert run(manifest, tmp_path / "out", chunks=(3, 4)).exit_code == 2


def test_rows_that_failed_for_reasons_that_may_pass_are_tried_again(manifest, tmp_path, monkeypatch, small_ledger):
    assert run(manifest, tmp_path / "calm").exit_code == 0
    out, blip = tmp_path / "out", tmp_path / "blip"
    blip.touch()
    monkeypatch.setenv(BLIP, str(blip))
    assert run(manifest, out).samples == 31
    before = contents(out)
    assert run(manifest, out, retry_transient=True).samples == 31  # it did not help: nothing changed
    assert contents(out) == before
    blip.unlink()
    reader = open_dataset(str(out))
    assert run(manifest, out).samples == 31
    assert run(manifest, out, retry_transient=True).samples == 32
    assert outcomes_of_records(out) == outcomes(tmp_path / "calm")
    assert set(before) - set(contents(out)) == set(), "who has the old chunk open goes on with it"
    assert len(reader) == 31 and all(len(sample.frames) == 3 for sample in reader)
    assert len(open_dataset(str(out))) == 32
    assert {finding.message for finding in findings(out)} == {"belongs to no committed chunk"}

    assert run(manifest, out).exit_code == 0  # takes the files away that were replaced
    assert findings(out) == []
    assert {name for name in contents(out) if "-" in name} == {
        f"{folder}/000002-4.{kind}"
        for folder, kind in (("shards", "tar"), ("index", "parquet"), ("instances", "parquet"), ("rejects", "parquet"))
    }
    assert run(manifest, out, retry_transient=True).samples == 32
    assert [record.chunk for record in commits(str(out))] == [0, 1, 2, 3, 4] and in_ledger(str(out)) == [0, 1]


def findings(out):
    """Of files as such; the pictures of stubs are none."""
    return [finding for finding in validate(str(out)).findings if finding.key is None]


def outcomes_of_records(out):
    import pyarrow.parquet as pq

    found = {}
    for record in commits(str(out)):
        found |= dict.fromkeys(pq.read_table(out / record.path("index"))["row"].to_pylist(), "sample")
        rejects = pq.read_table(out / record.path("rejects"))
        found |= dict(zip(rejects["row"].to_pylist(), rejects["reason"].to_pylist(), strict=True))
    return found


def objects(out):
    """Every object of an output that must be equal between runs."""
    names = [storage.join(inside, name) if inside else name for inside, files in storage.walk(out) for name in files]
    return {name: storage.read_bytes(storage.join(out, name)) for name in names if not name.startswith("_run")}


def test_a_job_that_slept_while_another_took_over_damages_nothing(bucket, tmp_path, monkeypatch):
    manifest, out = make_manifest(tmp_path / "clips", ["a dog"] * 9 + ["a dog [gate]"] + ["a dog"] * 8), f"{bucket}/slept"
    assert run(manifest, f"{bucket}/calm").exit_code == 0
    monkeypatch.setenv(GATES, str(tmp_path))
    sleeper = start(manifest, out, "serial", lease_s=3)
    wait_for((tmp_path / "c0009.here").exists)
    sleeper.send_signal(signal.SIGSTOP)
    (tmp_path / "c0009.open").touch()
    result = run(manifest, out, force_lease=False)
    assert result.exit_code == 2 and "another job" in result.message  # it is there, though it does not answer
    assert run(manifest, out, force_lease=True).exit_code == 0
    done = objects(out)
    sleeper.send_signal(signal.SIGCONT)
    _, said = sleeper.communicate(timeout=100)
    assert sleeper.returncode == 5 and "taken over" in said
    assert objects(out) == done == objects(f"{bucket}/calm")
    assert [claim["ended"] for claim in claims(out)] == ["taken over by 2", "done"]


def test_two_starts_on_one_output_in_a_store_never_both_write(bucket, tmp_path):
    manifest, out = make_manifest(tmp_path / "clips", CAPTIONS), f"{bucket}/race"
    both = [start(manifest, out, "inline") for _ in range(2)]
    assert run(manifest, f"{bucket}/undisturbed").exit_code == 0
    ended = sorted((process.returncode, said) for process, (_, said) in [(one, one.communicate()) for one in both])
    held = [claim for claim in claims(out) if claim["ended"] == "done"]
    assert ended[0][0] == 0 and objects(out) == objects(f"{bucket}/undisturbed")
    assert (len(held) == 1 and ended[1][0] == 2 and "another job" in ended[1][1]) or (len(held) == 2 and ended[1][0] == 0), (
        ended
    )


def test_a_store_that_checks_no_conditions_is_said_and_needs_a_word(manifest):
    result = run(manifest, "memory://unguarded/out")
    assert result.exit_code == 2 and "--force-lease" in result.message
    assert run(manifest, "memory://unguarded/out", force_lease=True).exit_code == 0


def record(chunk, rows=8):
    files = {layout.relative_path(folder, chunk): FileHash(1, "0" * 64) for folder in ("index", "instances", "rejects")}
    return Commit(chunk=chunk, rows=rows, samples=0, rejections=rows, first_row=8 * chunk, files=files)


def write_record(out, chunk, rows=8):
    storage.atomic_write(record_address(out, chunk), layout.encode_record(record(chunk, rows)))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["commit", "again", "restart"]), st.integers(0, 8)), max_size=25), st.data())
def test_whatever_happens_the_ledger_says_what_the_records_say(tmp_path_factory, steps, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("materia.dataset.layout.LEDGER_CHUNKS", 3)
        patch.setattr("pipeline.ledger.LEDGER_CHUNKS", 3)
        out, truth = str(tmp_path_factory.mktemp("out")), {}
        ledger = Ledger(out, 9, ())
        for what, chunk in steps:
            if what == "restart":  # also after a crash at any point
                ledger = Ledger(out, 9, committed(out))
            elif what == "commit" and chunk not in truth:
                truth[chunk] = 8
                write_record(out, chunk)
                ledger.add(chunk)
            elif what == "again" and chunk in truth:
                ledger.remove([chunk])
                truth[chunk] += 1
                write_record(out, chunk, truth[chunk])
                if data.draw(st.booleans()):
                    ledger.add(chunk)
            assert {one.chunk: one.rows for one in commits(out)} == truth
        Ledger(out, 9, committed(out)).finish()
        assert {one.chunk: one.rows for one in commits(out)} == truth
        assert in_ledger(out) == [number for number in range(3) if {3 * number, 3 * number + 1, 3 * number + 2} <= truth.keys()]


def test_a_ledger_that_says_something_else_is_an_error(tmp_path, manifest, small_ledger):
    out = str(tmp_path / "out")
    assert run(manifest, out).exit_code == 0
    write_ledger(out, 1, [record(2), record(3)])
    assert [finding.file for finding in findings(out)] == ["commits/ledger/000001.jsonl"]
    assert inspect(out).whole == {0, 1, 4}


@given(st.sets(st.integers(0, 50)))
def test_spans_are_the_numbers_in_short(numbers):
    found = spans(numbers)
    assert [number for first, end in found for number in range(first, end)] == sorted(numbers)
    assert all(end < after for (_, end), (after, _) in itertools.pairwise(found))
