"""Folders as they are in the wild: every captioned video is a row or is told of, and what systems leave behind is neither."""

import os
import unicodedata
from pathlib import Path

import fsspec
import pytest
from reading import MEMORY, outcomes, read, touch

from pipeline.plan import make_plan
from pipeline.sources import SourceError, find_source, read_rows
from pipeline.sources.settings import SourceSettings
from stages.records import Clip

NFC, NFD = "café", unicodedata.normalize("NFD", "café")


def notices(folder: Path | str, settings: SourceSettings | None = None) -> list[str]:
    settings = settings or SourceSettings()
    told: list[str] = []
    list(read_rows(find_source(str(folder), settings), settings, told.append))
    return told


def captioned(folder: Path, *names: str) -> None:
    """Videos (empty files), each with a caption beside it, which is its name."""
    touch(folder, *names)
    for name in names:
        (folder / name).with_suffix(".txt").write_text(f"A dog. {name}")


ENDINGS = (
    *("3gp", "3g2", "mpg", "mpeg", "mpe", "flv", "f4v", "wmv", "asf", "m2ts", "mts", "ts", "ogv", "ogm", "vob", "m4v", "mov"),
    *("qt", "webm", "mkv", "avi", "gif", "mxf", "rmvb", "divx", "dv"),
)


@pytest.mark.parametrize("ending", [case for ending in ENDINGS for case in (ending, ending.upper(), ending.title())])
def test_every_captioned_video_is_a_row(tmp_path, ending):
    captioned(tmp_path, f"a.{ending}")
    (row,) = read(tmp_path)
    assert isinstance(row, Clip) and row.uri == f"a.{ending}" and notices(tmp_path) == []


@pytest.mark.parametrize("ending", ["txt", "TXT", "Txt", "json", "JSON", "Json"])
@pytest.mark.parametrize(
    "stems", [("B", "B"), ("b", "B"), ("B", "b"), (NFC, NFD), (NFD, NFC), (f"{NFC} {NFD}", NFD + " " + NFC)]
)
def test_a_caption_is_found_whatever_the_case_of_its_ending_and_the_form_of_its_name(tmp_path, stems, ending):
    touch(tmp_path, f"sub/{stems[0]}.mp4")
    content = "A dog." if ending.lower() == "txt" else '{"caption": "A dog."}'
    (tmp_path / f"sub/{stems[1]}.{ending}").write_text(content)
    (row,) = read(tmp_path)
    assert isinstance(row, Clip) and row.caption == "A dog." and row.uri == f"sub/{stems[0]}.mp4"
    assert notices(tmp_path) == []


def test_a_caption_of_exactly_the_videos_name_is_its_own_and_nobody_elses(tmp_path):
    captioned(tmp_path, "a.mp4", f"{NFC}.mp4", f"{NFD}.mp4")
    touch(tmp_path, "A.mp4", "a.webm")
    captions = {row.uri: row.caption for row in read(tmp_path)}
    assert captions == {
        "A.mp4": None,
        "a.mp4": "A dog. a.mp4",
        "a.webm": "A dog. a.mp4",
        f"{NFC}.mp4": f"A dog. {NFC}.mp4",
        f"{NFD}.mp4": f"A dog. {NFD}.mp4",
    }


def test_of_two_captions_the_one_with_the_usual_ending_is_taken_and_the_other_told(tmp_path):
    touch(tmp_path, "a.mp4", "a.TXT")
    (tmp_path / "a.txt").write_text("A dog.")
    assert read(tmp_path)[0].caption == "A dog."
    assert "'a.TXT'" in notices(tmp_path)[0]


def test_hidden_files_and_what_systems_leave_behind_are_no_rows_and_not_told(tmp_path):
    captioned(tmp_path, "a.mp4", "sub.folder/b.mp4")
    captioned(
        tmp_path, "._a.mp4", ".c.mp4", "sub.folder/._b.mp4", ".hidden/d.mp4", ".hidden/deeper/e.mp4", "sub.folder/.git/f.mp4"
    )
    captioned(tmp_path, "__MACOSX/a.mp4", "$RECYCLE.BIN/g.mp4", "@eaDir/h.mp4")
    touch(tmp_path, "Thumbs.db", "desktop.ini", ".DS_Store", "notes.pdf", "a.jpg")
    assert [row.uri for row in read(tmp_path)] == ["a.mp4", "sub.folder/b.mp4"]
    assert notices(tmp_path) == []


def test_a_hidden_folder_as_input_is_read(tmp_path):
    captioned(tmp_path, ".cache/videos/a.mp4")
    assert outcomes(read(tmp_path / ".cache/videos")) == ["ok"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_hidden_folder_that_may_not_be_listed_stops_nothing(tmp_path):
    captioned(tmp_path, "a.mp4", ".Trashes/b.mp4")
    (tmp_path / ".Trashes").chmod(0)
    assert outcomes(read(tmp_path)) == ["ok"]


def test_captions_without_a_video_are_told_in_one_line_with_what_stands_beside_them(tmp_path, capsys):
    captioned(tmp_path, "a.mp4", "b.xyz", "sub/c.video")
    touch(tmp_path, "B2.TXT", "fields.json")
    assert [row.uri for row in read(tmp_path)] == ["a.mp4"]
    (told,) = notices(tmp_path)
    for part in (
        "4 .txt or .json files without a video",
        "'b.txt' (beside 'b.xyz')",
        "'B2.TXT'",
        "'sub/c.txt' (beside 'c.video')",
    ):
        assert part in told
    make_plan(str(tmp_path), tmp_path / "plan", SourceSettings(), 16, 8)
    said = capsys.readouterr().err
    assert said.startswith("notice: ") and said.count("\n") == 1 and "'B2.TXT'" in said


def test_of_many_captions_without_a_video_a_few_are_named_and_all_counted(tmp_path):
    captioned(tmp_path, "a.mp4")
    for n in range(30):
        (tmp_path / f"x\x1b[31m{n}.txt").write_text("A dog.")
    (told,) = notices(tmp_path)
    assert "30 .txt or .json files" in told and told.count("x\\x1b") == 5 and ", ..." in told and "\x1b" not in told


def test_a_folder_whose_captions_have_no_known_videos_stops_and_says_so(tmp_path):
    captioned(tmp_path, "a.xyz", ".b.mp4")
    with pytest.raises(SourceError, match=r"holds no video .*but 1 .txt or .json files.*'a.txt' \(beside 'a.xyz'\)"):
        read(tmp_path)


def test_a_folder_in_an_object_store_is_read_alike():
    memory = fsspec.filesystem("memory")
    for name in (f"{NFC}.3gp", ".hidden/b.mp4", "._c.mp4", "sub/__MACOSX/d.mp4", "e.xyz"):
        memory.pipe_file(f"/wild/{name}", b"")
    for name in (f"{NFD}.TXT", "e.txt"):
        memory.pipe_file(f"/wild/{name}", b"A dog.")
    assert [(row.uri, row.caption) for row in read("memory://wild", MEMORY)] == [(f"{NFC}.3gp", "A dog.")]
    assert len(notices("memory://wild", MEMORY)) == 1
