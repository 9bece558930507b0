"""Samples by number: the same bytes that plain webdataset reads, of committed chunks only, and clear errors."""

import copy
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import webdataset as wds
from samples import make_output

from materia.dataset.layout import OutputError
from materia.dataset.reader import Dataset
from trainer.data.loader import split


@pytest.fixture
def out(tmp_path: Path) -> str:
    make_output(tmp_path / "out", tmp_path / "clips", ["srs", "rr", "ss"])
    return str(tmp_path / "out")


def test_every_member_is_what_webdataset_reads(out: str) -> None:
    samples = Dataset(out)
    tars = sorted(str(path) for path in Path(out, "shards").iterdir())
    expected = {sample["__key__"]: sample for sample in wds.WebDataset(tars, shardshuffle=False)}
    assert [key.as_py() for key in samples.index["key"]] == list(expected)
    for number, key in enumerate(expected):
        read = samples.read(number, samples.members(number))
        assert read == {name: data for name, data in expected[key].items() if not name.startswith("__")}


def test_single_members_far_apart_are_read_alone(out: str) -> None:
    samples = Dataset(out)
    whole = samples.read(1, samples.members(1))
    for name in samples.members(1):
        assert samples.read(1, [name]) == {name: whole[name]}


def test_a_filter_renumbers_and_changes_the_hash(out: str) -> None:
    every = Dataset(out)
    last = every.index["key"][len(every) - 1].as_py()
    one = Dataset(out, where=f"key == '{last}'")
    assert len(one) == 1
    assert one.read(0, ["json"]) == every.read(len(every) - 1, ["json"])
    assert one.sha256 != every.sha256 == Dataset(out).sha256


def test_chunks_without_a_commit_record_do_not_exist(out: str) -> None:
    every = Dataset(out)
    first = min(Path(out, "commits").iterdir())
    first.unlink()
    assert 0 < len(Dataset(out)) < len(every)


def test_a_copy_for_a_loaders_worker_opens_its_own_files(out: str) -> None:
    samples = Dataset(out)
    before = samples.read(0, ["json"])
    other = copy.copy(samples)  # as it is handed to another process
    samples.close()
    assert other.read(0, ["json"]) == before == samples.read(0, ["json"])


def test_an_empty_filter_a_cut_shard_and_a_foreign_folder_are_told(out: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"admits none of the \d+ samples"):
        Dataset(out, where="subjects > 99")
    samples = Dataset(out)
    with pytest.raises(OutputError, match="no member 'mp3'"):
        samples.read(0, ["mp3"])
    shard = Path(out, str(samples.index["shard"][0]))
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(OutputError, match=f"{shard.name} ends before"):
        Dataset(out).read(0, samples.members(0))
    with pytest.raises(OutputError, match="elsewhere"):
        Dataset(str(tmp_path / "elsewhere"))
    index = next(Path(out, "index").iterdir())
    shutil.copy(__file__, index)
    with pytest.raises(OutputError, match="not the file that was committed"):
        Dataset(out)


def test_a_shard_of_another_output_and_an_unknown_schema_are_told(out: str, tmp_path: Path) -> None:
    samples = Dataset(out)
    shard = Path(samples.address(0))
    foreign = bytearray(shard.read_bytes())
    foreign[:8] = b"another."  # the first member's name
    shard.write_bytes(foreign)
    name = samples.members(0)[0]
    with pytest.raises(OutputError, match=f"{shard.name} is not the tar that its index describes: no {samples.key(0)}.{name}"):
        samples.read(0, [name])
    commit = min(Path(out, "commits").iterdir())
    commit.write_text(commit.read_text().replace('"schema": 2', '"schema": 3'))
    with pytest.raises(OutputError, match="written with schema 3, this version reads 1 and 2"):
        Dataset(out)
    commit.write_text("{")
    with pytest.raises(OutputError, match=f"{commit.name}.*materia validate"):
        Dataset(out)


def test_a_forked_process_does_not_move_the_place_in_a_file(out: str) -> None:
    """Two processes that seek and read one descriptor would get each other's bytes."""
    samples = Dataset(out)
    samples.read(0, ["json"])

    def places() -> list[tuple[str, int]]:
        return [(file.path, file.position) for file in psutil.Process().open_files() if file.path.startswith(out)]

    before = places()
    child = multiprocessing.get_context("fork").Process(target=samples.read, args=(1, samples.members(1)))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert places() == before
    assert len(before) == 1


def test_clips_of_one_video_are_held_out_together(tmp_path: Path) -> None:
    make_output(tmp_path / "out", tmp_path / "clips", ["sss", "sss"])  # a video for every two rows
    samples = Dataset(str(tmp_path / "out"))
    training, held_out = split(samples, 2)
    sources = samples.index["source_id"].to_pylist()
    assert len({sources[number] for number in held_out}) == 1
    assert not {sources[number] for number in held_out} & {sources[number] for number in training}


def test_of_the_first_samples_only_the_first_tables_are_read(out: str) -> None:
    every = Dataset(out)
    Path(out, "index", "000002.parquet").write_bytes(b"")
    first = Dataset(out, at_most=1)
    assert first.index["key"].to_pylist() == every.index["key"].to_pylist()[:1]
    with pytest.raises(OutputError, match="not the file that was committed"):
        Dataset(out)


def test_a_short_command_leaves_no_thread_of_arrow_at_work_when_it_ends(out: str) -> None:
    """Such a thread ended `materia stats` with SIGABRT after its last line, one time in ten."""
    script = """
import sys, psutil
from materia.dataset.stats import collect
from materia.dataset.reader import Dataset
from materia.dataset.stats_groups import collect_groups
from materia.dataset.stats_sweep import sweep
before = psutil.Process().num_threads()
collect(sys.argv[1])
collect(sys.argv[1], ["row > 0"])
collect_groups(sys.argv[1], "source_id")
sweep(sys.argv[1], "min_mask_score", ["row > 0"])
Dataset(sys.argv[1], where="row > 0").instances("mask_score > 0")
print(psutil.Process().num_threads() - before)
"""
    done = subprocess.run([sys.executable, "-c", script, out], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
