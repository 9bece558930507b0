"""Plans of many files: the same however the rows are cut, duplicates across files, what reading costs, Ray, a store."""

import json
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning import SETTINGS, SUFFIXES, all_rows, any_row, backwards, deduplicated, plan, told, write
from s3_server import SECRET, s3_server

from materia.base import storage
from pipeline.config import Config
from pipeline.plan import growth, make_plan, open_plan
from pipeline.sources import SourceError, find_source, read_rows
from pipeline.sources.settings import SourceSettings

cuts = st.lists(st.tuples(st.integers(0, 12), st.sampled_from(SUFFIXES)), max_size=6)


@contextmanager
def small_pieces(work_bytes=600, segment_rows=5, share_rows=4):
    """Works, segments and shares of the keys so small that a few rows make many of them."""
    with (
        mock.patch("pipeline.plan.reading._WORK_BYTES", work_bytes),
        mock.patch("pipeline.plan.segments._MOST_ROWS", segment_rows),
        mock.patch("pipeline.plan.duplicates._SHARE_ROWS", share_rows),
        mock.patch("pipeline.plan.tasks._WORTH_BYTES", 0),
    ):
        yield


def cut(folder: Path, rows, sizes) -> None:
    """Write rows as files of these sizes and formats, and one more for the rest."""
    folder.mkdir()
    at = 0
    for number, (size, suffix) in enumerate([*sizes, (len(rows), "jsonl")]):
        write(folder / f"part-{number:03d}.{suffix}", rows[at : at + size])
        at += size


@settings(max_examples=40)  # each waits for the disk
@given(rows=st.lists(any_row, max_size=40), sizes=cuts, as_folder=st.booleans(), limit=st.none() | st.integers(1, 40))
def test_the_same_rows_make_the_same_plan_however_they_are_cut(rows, sizes, as_folder, limit):
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        write(here / "m.jsonl", rows)
        whole = plan(here / "m.jsonl", here / "whole", limit=limit)
        cut(here / "parts", rows, sizes)
        as_folder = as_folder and all(suffix != "json" for _, suffix in sizes)  # of a folder these may describe videos
        address = here / "parts" if as_folder else here / "parts/part-*"
        with small_pieces():
            parted = plan(address, here / "parted", 7, 3, limit=limit, tasks=backwards)
        assert (parted.rows, parted.sha256, parted.extra) == (whole.rows, whole.sha256, whole.extra)
        assert all_rows(parted) == all_rows(whole)
        direct = list(read_rows(find_source(str(here / "m.jsonl"), SETTINGS), SETTINGS))[:limit]
        assert told(all_rows(whole)) == deduplicated(direct)
        assert open_plan(here / "parted") == parted


def test_a_large_parquet_file_is_read_in_shares_and_other_rows_are_another_hash(tmp_path):
    rows = [{"video": f"{n}.mp4", "caption": "A dog.", "id": f"c{n % 90}", "end": "3", "licence": "CC0"} for n in range(100)]
    write(tmp_path / "m.parquet", rows)
    whole = plan(tmp_path / "m.parquet", tmp_path / "whole")
    with small_pieces():
        shared = plan(tmp_path / "m.parquet", tmp_path / "shared", tasks=backwards)
    assert len(shared.segments) > 10 and len(whole.segments) == 1
    assert shared.sha256 == whole.sha256 and all_rows(shared) == all_rows(whole)
    assert [row.reason for row in all_rows(whole)[90:]] == ["duplicate_id"] * 10
    rows[1], rows[2] = rows[2], rows[1]
    write(tmp_path / "other.parquet", rows)
    assert plan(tmp_path / "other.parquet", tmp_path / "swapped").sha256 != whole.sha256


def test_clips_whose_keys_share_half_of_a_hash_are_no_duplicates(tmp_path, monkeypatch):
    write(tmp_path / "m.jsonl", [{"video": "a.mp4", "caption": "A dog.", "id": name} for name in "abcab"])
    halves = {"a": 1, "b": 1, "c": 1}
    digests = {name: np.array([high, number], "<u8").tobytes() for number, (name, high) in enumerate(halves.items())}

    class Colliding:
        def __init__(self, key, digest_size):
            self.digest = lambda: digests[key.decode()]

    monkeypatch.setattr("pipeline.plan.segments.hashlib.blake2b", Colliding)
    made = plan(tmp_path / "m.jsonl", tmp_path / "plan")
    assert [getattr(row, "reason", "ok") for row in all_rows(made)] == ["ok"] * 3 + ["duplicate_id"] * 2


def test_a_slice_costs_two_reads_at_first_and_one_from_then_on(tmp_path, monkeypatch):
    write(tmp_path / "m.jsonl", [{"video": f"{n}.mp4", "caption": "A dog."} for n in range(200)])
    made = plan(tmp_path / "m.jsonl", tmp_path / "plan", 64, 16)
    reads = []
    monkeypatch.setattr(storage, "read_bytes", lambda *args, read=storage.read_bytes: reads.append(args) or read(*args))
    made.read(0)
    assert len(reads) == 2
    made.read(9)
    assert len(reads) == 3


def test_a_broken_part_stops_the_planning_and_the_next_one_is_whole(tmp_path):
    cut(tmp_path / "parts", [{"video": f"{n}.mp4", "caption": "A dog."} for n in range(30)], [(10, "jsonl"), (10, "jsonl")])
    broken = tmp_path / "parts/part-009.parquet"
    broken.write_bytes(b"no Parquet")
    with small_pieces(), pytest.raises(SourceError, match="part-009"):
        plan(tmp_path / "parts", tmp_path / "plan")
    assert open_plan(tmp_path / "plan") is None and any((tmp_path / "plan/segments").iterdir())
    broken.unlink()
    made = plan(tmp_path / "parts", tmp_path / "plan")
    assert made.rows == 30 and len(list((tmp_path / "plan/segments").iterdir())) == 1


@pytest.fixture
def bucket(monkeypatch):
    with s3_server() as endpoint:
        monkeypatch.setattr(fsspec.config, "conf", {"s3": {"endpoint_url": endpoint, "key": "k", "secret": SECRET}})
        yield fsspec.filesystem("s3")


def test_parts_in_a_store_are_planned_there_and_what_comes_later_is_seen(bucket):
    rows = [{"video": f"{n}.mp4", "caption": "A dog.", "id": f"c{n % 40}"} for n in range(50)]
    files = ["".join(json.dumps(row) + "\n" for row in some).encode() for some in (rows[:25], rows[25:])]
    sources = SourceSettings(schemes=["file", "s3"])
    bucket.pipe_file("bucket/in/part-0.jsonl", files[0])
    first = make_plan("s3://bucket/in/part-*.jsonl", "s3://bucket/out/plan", sources, 16, 8)
    assert first.rows == 25
    bucket.pipe_file("bucket/in/part-1.jsonl", files[1])
    grown = growth(first, find_source("s3://bucket/in/part-*.jsonl", sources), sources)
    assert [(piece.file.name, piece.skip) for piece in grown.pieces] == [("part-1.jsonl", 0)]
    with small_pieces():
        make_plan("s3://bucket/in/", "s3://bucket/out/other", sources, 16, 8)
    found = all_rows(open_plan("s3://bucket/out/other"))
    assert [row.row for row in found] == list(range(50))
    assert [row.row for row in found if getattr(row, "reason", "") == "duplicate_id"] == list(range(40, 50))


@pytest.mark.ray
def test_ray_plans_the_same_and_says_what_is_wrong_with_a_file(tmp_path, ray_address):
    from pipeline.engine.ray_tasks import RayTasks

    rows = [{"video": f"{n}.mp4", "caption": "A dog.", "id": f"c{n % 90}", "end": "3", "licence": "CC0"} for n in range(100)]
    cut(tmp_path / "parts", rows, [(30, "parquet"), (30, "csv")])
    alone = plan(tmp_path / "parts", tmp_path / "alone")
    tasks = RayTasks(Config(), ray_address)
    try:
        with small_pieces(work_bytes=2000):
            shared = plan(tmp_path / "parts", tmp_path / "shared", tasks=tasks)
            shutil.copy(tmp_path / "parts/part-001.csv", tmp_path / "parts/part-009.parquet")
            with pytest.raises(SourceError, match=r"part-009\.parquet: damaged"):
                plan(tmp_path / "parts", tmp_path / "broken", tasks=tasks)
    finally:
        tasks.close()
    assert len(shared.segments) > len(alone.segments)
    assert shared.sha256 == alone.sha256 and all_rows(shared) == all_rows(alone)
