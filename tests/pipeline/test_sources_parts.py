"""Inputs of many manifest files: patterns and folders, which files they are, in which order, and where addresses start."""

import json
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import MEMORY, outcomes, read, touch

from pipeline.sources import SourceError, find_source, read_rows
from pipeline.sources.access import resolve
from pipeline.sources.settings import ColumnNames, SourceSettings

SETTINGS = SourceSettings()


def part(path: Path, *videos: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"video": video, "caption": "A dog."} for video in videos]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix in (".csv", ".tsv"):
        parted = {".csv": ",", ".tsv": "\t"}[path.suffix]
        path.write_text(f"video{parted}caption\n" + "".join(f"{video}{parted}A dog.\n" for video in videos))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def uris(address: Path | str, settings: SourceSettings = SETTINGS) -> list[str]:
    return [row.uri for row in read(address, settings)]


def test_a_pattern_gives_its_files_by_name_whatever_their_formats(tmp_path):
    part(tmp_path / "part-2.parquet", "c.mp4")
    part(tmp_path / "part-1.jsonl", "a.mp4", "b.mp4")
    part(tmp_path / "part-10.csv", "d.mp4")
    part(tmp_path / "other.jsonl", "no.mp4")
    assert uris(tmp_path / "part-*") == ["a.mp4", "b.mp4", "d.mp4", "c.mp4"]
    assert uris(tmp_path / "part-[12].*") == ["a.mp4", "b.mp4", "c.mp4"]


def test_a_folder_of_manifests_gives_all_of_them_but_not_what_is_unfinished_or_hidden(tmp_path):
    for name in ("b.jsonl", "a.parquet", "day=1/a.tsv", "_temporary/0/x.parquet", "_x.csv", ".y.csv"):
        part(tmp_path / name, f"{Path(name).stem}.mp4")
    touch(tmp_path, "_SUCCESS", "README.txt", "fields.json")
    assert uris(tmp_path) == ["a.mp4", "b.mp4", "day=1/a.mp4"]
    assert "'fields.json'; to read them, give a pattern" in find_source(str(tmp_path), SETTINGS).notice


def test_addresses_start_at_each_parts_own_folder_and_are_recorded_from_the_inputs_on(tmp_path):
    part(tmp_path / "one/m.jsonl", "x.mp4", "../shared/x.mp4", str(tmp_path / "two/x.mp4"))
    part(tmp_path / "two/m.jsonl", "x.mp4", "file:///far/x.mp4")
    touch(tmp_path, "one/x.mp4", "two/x.mp4", "shared/x.mp4")
    source = find_source(str(tmp_path / "*/m.jsonl"), SETTINGS)
    rows = list(read_rows(source, SETTINGS))
    assert [row.uri for row in rows] == ["one/x.mp4", "shared/x.mp4", "two/x.mp4", "two/x.mp4", "/far/x.mp4"]
    assert len({row.key for row in rows}) == 4
    assert source.root == str(tmp_path)
    found = [resolve(row, source.root, SETTINGS) for row in rows]
    assert outcomes(found) == ["ok", "ok", "ok", "ok", "outside_root"]
    assert [clip.address for clip in found[:3]] == [str(tmp_path / f"{name}/x.mp4") for name in ("one", "shared", "two")]


def test_rows_of_one_file_are_the_same_alone_by_pattern_and_in_a_folder(tmp_path):
    part(tmp_path / "m.jsonl", "a.mp4", "b/c.mp4")
    assert read(tmp_path / "m.jsonl") == read(tmp_path / "*.jsonl") == read(tmp_path)


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path):
    part(tmp_path / "part-[1].jsonl", "a.mp4")
    part(tmp_path / "part-1.jsonl", "b.mp4")
    assert uris(tmp_path / "part-[1].jsonl") == ["a.mp4"]


def test_a_folder_with_videos_and_a_manifest_is_its_videos_and_says_so(tmp_path):
    part(tmp_path / "manifest.jsonl", "a.mp4")
    touch(tmp_path, "a.mp4")
    (tmp_path / "a.txt").write_text("A cat.")
    told: list[str] = []
    (row,) = read_rows(find_source(str(tmp_path), SETTINGS), SETTINGS, told.append)
    assert row.caption == "A cat."
    assert len(told) == 1 and "'manifest.jsonl' is not read; to read it, give it as the input" in told[0]


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("none-*.jsonl", "no file has such a name"),
        ("folder*", "what has one is a folder"),
        ("m*", r"m\.xlsx: unknown format '\.xlsx'"),
    ],
)
def test_a_pattern_that_gives_nothing_to_read_stops_with_what_it_gives(tmp_path, pattern, message):
    touch(tmp_path, "m.xlsx", "folder/m.jsonl")
    with pytest.raises(SourceError, match=message):
        read(tmp_path / pattern)


def test_a_part_that_cannot_be_read_stops_with_its_name(tmp_path):
    part(tmp_path / "a.jsonl", "a.mp4")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(SourceError, match=r"b\.parquet: damaged"):
        read(tmp_path)


def test_parts_of_any_file_system_are_found():
    memory = fsspec.filesystem("memory")
    for name in ("day=2/m.csv", "day=1/m.csv"):
        memory.pipe_file(f"/parted/{name}", b"video,caption\na.mp4,A dog.\n")
    expected = ["day=1/a.mp4", "day=2/a.mp4"]
    assert uris("memory://parted", MEMORY) == uris("memory://parted/*/m.csv", MEMORY) == expected


def test_one_column_may_serve_as_several(tmp_path):
    part(tmp_path / "m.jsonl", "a.mp4")
    settings = SourceSettings(columns=ColumnNames(id="video", source_id="video"))
    (row,) = read(tmp_path / "m.jsonl", settings)
    assert (row.uri, row.id, row.source_id, row.extra) == ("a.mp4", "a.mp4", "a.mp4", {})
