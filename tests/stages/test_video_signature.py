"""What is said of a file that is no video, or only a part of one: what it is, and nothing of what it holds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from clips import make_clip

from stages.video import VideoError, open_video
from stages.video.signature import HEAD_BYTES, mp4_problem, told

MISSING = "whose index (moov) is missing: the file is cut off or was not finished"
LAYOUTS = {
    "last.mp4": {},
    "first.mp4": {"muxer": {"movflags": "faststart"}},
    "pieces.mp4": {"muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "last.mov": {},
}
HTML = b"<!DOCTYPE html>\n<html><body>403 secret-token Forbidden</body></html>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    for name, arguments in LAYOUTS.items():
        make_clip(folder / name, **arguments)
    return folder


def problem(path: Path, data: bytes, *span: float) -> VideoError:
    path.write_bytes(data)
    with pytest.raises(VideoError) as caught, open_video(path, *span):
        pass
    return caught.value


def moov_of(data: bytes) -> range:
    """From the index's header to its end."""
    start = data.index(b"moov") - 4
    return range(start, start + int.from_bytes(data[start : start + 4]))


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_mp4_cut_before_or_within_its_index_says_so_wherever_it_is_cut(folder: Path, tmp_path: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    moov = moov_of(data)
    for length in {16, 24, 40, moov.start // 2, moov.start - 1, moov.start, moov.start + 7}:
        if 16 <= length < moov.start + 8:
            error = problem(tmp_path / "x.mp4", data[:length])
            kind = "a MOV" if name.endswith("mov") else "an MP4"
            assert (error.reason, str(error)) == ("unreadable", f"{kind} {MISSING}")
    for length in range(moov.start + 8, moov.stop - 120, 37):
        error = problem(tmp_path / "x.mp4", data[:length])
        assert error.reason == "unreadable"
        assert "(moov) is cut off" in str(error)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_whole_one_lacks_nothing(folder: Path, name: str) -> None:
    assert mp4_problem(str(folder / name)) is None


def test_one_cut_right_behind_its_index_is_cut_off(folder: Path, tmp_path: Path) -> None:
    data = (folder / "first.mp4").read_bytes()
    cut = data[: moov_of(data).stop + 100]
    assert "an MP4 that is cut off, at " in str(problem(tmp_path / "x.mp4", cut))
    in_range = problem(tmp_path / "x.mp4", cut, 1.0, 2.0)
    assert in_range.reason == "too_short" and "cut off" in str(in_range)


def test_a_range_outside_a_whole_video_is_just_that(folder: Path, tmp_path: Path) -> None:
    error = problem(tmp_path / "x.mp4", (folder / "last.mp4").read_bytes(), 50.0, 60.0)
    assert error.reason == "too_short" and "cut off" not in str(error)


def test_one_whose_index_was_never_written_lacks_it(folder: Path, tmp_path: Path) -> None:
    data = (folder / "last.mp4").read_bytes()
    zeroed = data[: moov_of(data).start].ljust(len(data) + 5000, b"\0")
    assert str(problem(tmp_path / "x.mp4", zeroed)).endswith(MISSING)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\0" * 5_000_000, "nothing but zeros"),
        (b"\0" * 9, "nothing but zeros"),
        (b"\0", "only 1 byte"),
        (HTML, "an HTML page"),
        (b"\xef\xbb\xbf\r\n  " + HTML.lower(), "an HTML page"),
        (b"<!-- a remark -->\n<html lang=de>caf\xe9", "an HTML page"),
        (b"<head><title>x</title></head>" + b"y" * 9000, "an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
        (b'{"error": "not found"}', "JSON"),
        (b"A caption that stands in the wrong file.\n", "plain text"),
        ("Ein H\u00fcndchen l\u00e4uft. ".encode() * 400, "plain text"),
        ("Ein H\u00fcndchen.".encode("utf-16"), "plain text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n", "git lfs pull"),
        (b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1/secret.ts\n", "a playlist"),
        (b"\xff\xd8\xff\xe0" + b"\x11" * 64, "a JPEG picture"),
        (b"PK\x03\x04" + b"\x99" * 64, "a ZIP archive"),
        (b"\0\0\0\x1cftypheic" + b"\0" * 64, "a HEIF or AVIF picture"),
        (b"\x1aE\xdf\xa3" + b"\x99" * 64, "a Matroska or WebM file"),
        (b"\x91\x92\x93\x94\xfe\xdc" * 99, "no video container that is read here"),
    ],
)
def test_what_is_no_video_is_called_what_it_is_and_not_quoted(tmp_path: Path, data: bytes, said: str) -> None:
    error = problem(tmp_path / "x.mp4", data)
    assert error.reason == "unreadable"
    assert said in str(error)
    assert "secret" not in str(error) and "caption" not in str(error)


first_bytes = st.sampled_from([b"", HTML, b"\0\0\0\x20ftypisom", b"\0\0\0\1mdat", b"{", b"\x1aE\xdf\xa3", b"G" + b"\0" * 187])


@settings(max_examples=200)
@given(first=first_bytes, data=st.binary(max_size=64), times=st.sampled_from([1, 200]))
def test_of_any_bytes_one_short_line_is_said(first: bytes, data: bytes, times: int, tmp_path_factory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.mp4"
    path.write_bytes(first + data * times)
    said = told(str(path))
    assert said.isprintable() and len(said) < 200


def test_a_file_of_nothing_but_headers_of_boxes_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(b"\0\0\0\x08free" * 1_000_000)
    assert told(str(path)).endswith(MISSING)


def test_text_is_text_wherever_a_character_lies_across_the_bytes_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(b"a" * (HEAD_BYTES - 1) + "\u00e9".encode() + b"a")
    assert "plain text" in told(str(path))
