"""The frozen plan of a job: the same rows as a direct read, cut into chunks and slices, whole or absent."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.plan import Plan, growth, make_plan, open_plan
from pipeline.sources import SourceError, find_source, read_rows
from pipeline.sources.settings import SourceSettings
from stages.records import Clip, Rejection

REPOSITORY = Path(__file__).resolve().parents[2]
SETTINGS = SourceSettings()


def manifest(path: Path, n_rows: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"id": f"c{row}", "video": f"{row}.mp4", "caption": f"Dog {row}.", "licence": "CC0"} for row in range(n_rows))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def plan(path: Path | str, folder: Path | str, rows_per_chunk: int = 16, rows_per_slice: int = 8) -> Plan:
    return make_plan(str(path), folder, SETTINGS, rows_per_chunk, rows_per_slice)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def found(plan: Plan, path: Path) -> tuple[str, list[tuple[str, int]]]:
    """What became of the input: which planned rows are gone, and new rows as (file, how many before them)."""
    grown = growth(plan, find_source(str(path), SETTINGS), SETTINGS)
    return grown.problem, [(piece.file.name, piece.skip) for piece in grown.pieces]


def all_rows(plan: Plan) -> list[Clip | Rejection]:
    return [row for index in range(plan.n_slices) for row in plan.read(index)]


@settings(max_examples=40)  # each waits for the disk
@given(n_rows=st.integers(0, 60), rows_per_chunk=st.integers(1, 20), rows_per_slice=st.integers(1, 25))
def test_chunks_and_slices_hold_every_row_once_in_order_and_slices_never_cross_chunks(n_rows, rows_per_chunk, rows_per_slice):
    with tempfile.TemporaryDirectory() as scratch:
        made = plan(manifest(Path(scratch) / "m.jsonl", n_rows), Path(scratch) / "plan", rows_per_chunk, rows_per_slice)
        assert made.rows == n_rows and made.n_chunks == -(-n_rows // rows_per_chunk)
        seen = []
        for chunk in range(made.n_chunks):
            rows = [row.row for index in made.slices_of(chunk) for row in made.read(index)]
            assert rows == list(range(made.first_row(chunk), min(made.first_row(chunk) + rows_per_chunk, n_rows)))
            assert {made.chunk_of(index) for index in made.slices_of(chunk)} == {chunk}
            assert all(0 < len(made.read(index)) <= rows_per_slice for index in made.slices_of(chunk))
            seen += rows
        assert seen == list(range(n_rows))
        assert made.n_slices == sum(len(made.slices_of(chunk)) for chunk in range(made.n_chunks))


any_line = st.one_of(
    st.binary(max_size=30),
    st.fixed_dictionaries(
        {"video": st.sampled_from(["a.mp4", "b.mp4", 7]), "caption": st.sampled_from(["A dog.", "A cat.", ""])},
        optional={"id": st.sampled_from(["x", "y.z", 1, None]), "start": st.sampled_from([0, 1, -1])},
    ).map(lambda row: json.dumps(row).encode()),
)


@settings(max_examples=60)
@given(st.lists(any_line, max_size=20))
def test_the_plan_holds_what_a_direct_read_gives_with_the_first_of_equal_keys_kept(lines):
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "m.jsonl"
        path.write_bytes(b"\n".join(lines))
        planned = all_rows(plan(path, Path(scratch) / "plan", 7, 3))
        keys: dict[str, int] = {}
        for row, direct in zip(planned, read_rows(find_source(str(path), SETTINGS), SETTINGS), strict=True):
            if isinstance(direct, Clip) and direct.key in keys:
                assert isinstance(row, Rejection) and row.reason == "duplicate_id"
                assert (row.row, row.key, row.id) == (direct.row, direct.key, direct.id)
                assert f"row {keys[direct.key]} " in row.message
            else:
                assert row == direct
            if isinstance(direct, Clip):
                keys.setdefault(direct.key, direct.row)


def test_a_key_taken_by_a_rejected_row_is_still_free(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"id": "a", "video": "a.mp4", "caption": ""}\n{"id": "a", "video": "a.mp4", "caption": "A dog."}\n')
    first, second = all_rows(plan(path, tmp_path / "plan"))
    assert first.reason == "empty_caption" and isinstance(second, Clip)


def test_an_empty_manifest_is_a_plan_of_no_rows(tmp_path):
    made = plan(manifest(tmp_path / "m.jsonl", 0), tmp_path / "plan")
    assert (made.rows, made.n_chunks, made.n_slices) == (0, 0, 0)
    assert open_plan(tmp_path / "plan") == made
    with pytest.raises(IndexError):
        made.read(0)


def test_a_plan_is_opened_as_it_was_made_and_never_made_twice(tmp_path):
    path = manifest(tmp_path / "m.jsonl")
    assert open_plan(tmp_path / "plan") is None
    made = plan(path, tmp_path / "plan")
    assert open_plan(tmp_path / "plan") == made
    with pytest.raises(FileExistsError):
        plan(path, tmp_path / "plan")
    assert files(tmp_path / "plan") == ["plan.json", "segments/0-000000-000.rows"]


def test_the_hash_is_of_the_content_wherever_it_lies_and_however_it_is_cut(tmp_path):
    here = plan(manifest(tmp_path / "here/m.jsonl"), tmp_path / "plan1")
    there = plan(shutil.copytree(tmp_path / "here", tmp_path / "else/where") / "m.jsonl", tmp_path / "plan2", 100, 32)
    other = plan(manifest(tmp_path / "here/other.jsonl", 99), tmp_path / "plan3")
    assert here.sha256 == there.sha256 != other.sha256
    assert all_rows(here) == all_rows(there)


def test_a_changed_input_is_noticed(tmp_path):
    path = manifest(tmp_path / "m.jsonl")
    made = plan(path, tmp_path / "plan")
    assert found(made, path) == ("", [])
    os.utime(path, ns=(1, 1))
    assert found(made, path) == ("", [])
    path.write_text(path.read_text().replace("Dog 7.", "Cat 7."))
    problem, _ = found(made, path)
    assert "m.jsonl" in problem
    path.unlink()
    with pytest.raises(SourceError):
        found(made, path)


def test_a_changed_folder_is_noticed(tmp_path):
    for name in ("videos/b.mp4", "videos/b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("A dog.")
    made = plan(tmp_path / "videos", tmp_path / "plan")
    assert found(made, tmp_path / "videos") == ("", [])
    (tmp_path / "videos/c.mp4").touch()
    assert found(made, tmp_path / "videos") == ("", [("", 1)])
    (tmp_path / "videos/a.mp4").touch()
    assert found(made, tmp_path / "videos")[0]


def test_an_input_that_grows_while_it_is_read_makes_no_plan(tmp_path):
    path = manifest(tmp_path / "m.jsonl", 10)

    def grow(_: int) -> None:
        with path.open("a") as file:
            file.write("{}\n")

    with pytest.raises(SourceError, match="changed while it was read"):
        make_plan(str(path), tmp_path / "plan", SETTINGS, 16, 8, grow)
    assert open_plan(tmp_path / "plan") is None


def test_a_planning_that_is_killed_leaves_no_plan_and_the_next_one_is_whole(tmp_path):
    path = manifest(tmp_path / "m.jsonl", 25_000)
    script = (
        "import os, sys; from pipeline.plan import make_plan; from pipeline.sources.settings import SourceSettings\n"
        "make_plan(sys.argv[1], sys.argv[2], SourceSettings(), 16, 8, lambda rows: os.kill(os.getpid(), 9))"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path), str(tmp_path / "plan")], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert any((tmp_path / "plan").iterdir()) and open_plan(tmp_path / "plan") is None
    again, undisturbed = plan(path, tmp_path / "plan"), plan(path, tmp_path / "other")
    assert files(tmp_path / "plan") == files(tmp_path / "other")
    for name in files(tmp_path / "plan"):
        assert (tmp_path / "plan" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert again.sha256 == undisturbed.sha256


def test_progress_tells_the_rows_read_so_far(tmp_path):
    told: list[int] = []
    make_plan(str(manifest(tmp_path / "m.jsonl", 25_000)), tmp_path / "plan", SETTINGS, 16, 8, told.append)
    assert told == sorted(told) and len(told) == 3 and told[-1] == 25_000


def test_memory_does_not_grow_with_the_manifest(tmp_path):
    def peak_bytes(n_rows: int) -> int:
        path = manifest(tmp_path / f"{n_rows}.jsonl", n_rows)
        tracemalloc.start()
        plan(path, tmp_path / f"plan{n_rows}", 1000, 16)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(100)  # imports
    assert peak_bytes(10_000) < peak_bytes(1_000) + 2**20


def test_a_plan_can_lie_on_another_file_system(tmp_path):
    path = manifest(tmp_path / "m.jsonl")
    remote, local = plan(path, "memory://job/plan"), plan(path, tmp_path / "plan")
    assert fsspec.filesystem("memory").exists("/job/plan/plan.json")
    assert open_plan("memory://job/plan") == remote
    assert all_rows(remote) == all_rows(local) and remote.sha256 == local.sha256
