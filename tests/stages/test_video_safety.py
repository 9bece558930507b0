"""A "video" can make FFmpeg open nothing but itself, and its name means nothing."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from clips import make_clip, read_number

from stages.video import VideoError, Watcher, frames_at, local_copy, probe

NAMES = [
    "http:x.mp4",
    "concat:a|b.mp4",
    "-i.mp4",
    "frame%03d.gif",
    "a#1?b&c.mp4",
    "a*b{1}[2].mp4",
    "file:x.mp4",
    "pipe:0",
    "-",
    "мяч ⚽ 足球 'q' \"d\".mp4",
    "new\nline.mp4",
    "subfile,,start,0,end,9,,:x.mp4",
]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("safe") / "clip.mp4", 30)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("relative", [False, True])
def test_any_name_is_just_a_file(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, relative: bool
) -> None:
    (tmp_path / name).write_bytes(clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    path = name if relative else str(tmp_path / name)
    assert read_number(frames_at(path, [0.5]).frames[0]) == 12
    assert read_number(frames_at(path, [0.5], Watcher(lambda index, picture: None, (64, 36))).frames[0]) == 12


def playlists(target: str) -> dict[str, str]:
    return {
        "hls": f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{target}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{target}'\n",
        "dash": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'><Period><AdaptationSet>"
        f"<Representation id='0'><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "subtitles": "1\n00:00:00,000 --> 00:00:02,000\nhello\n\n",
    }


@pytest.mark.parametrize("kind", playlists(""))
@pytest.mark.parametrize("extension", ["mp4", "m3u8", "ts"])
def test_a_playlist_opens_nothing_else(tmp_path: Path, kind: str, extension: str) -> None:
    """The file referred to is a FIFO: a writer can open it without blocking only while someone reads it."""
    secret = tmp_path / "secret.ts"
    os.mkfifo(secret)
    (tmp_path / f"list.{extension}").write_text(playlists(str(secret))[kind])
    outcome: list[Exception] = []

    def attempt() -> None:
        try:
            probe(tmp_path / f"list.{extension}")
        except VideoError as error:
            outcome.append(error)

    reader = threading.Thread(target=attempt, daemon=True)
    reader.start()
    reader.join(timeout=10)
    assert not reader.is_alive(), "the playlist's target was opened"
    assert [error.reason for error in outcome] == ["unreadable"]


@pytest.mark.parametrize("what", ["missing", "directory", "fifo", "empty", "device", "nul"])
def test_what_is_no_file_is_unreadable_at_once(tmp_path: Path, what: str) -> None:
    path = {"device": "/dev/zero", "nul": "a\0b"}.get(what, str(tmp_path / what))
    if what == "directory":
        Path(path).mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "empty":
        Path(path).touch()
    with pytest.raises(VideoError) as caught:
        probe(path)
    assert caught.value.reason == "unreadable"


def test_no_descriptor_is_left_open(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    before = sum(1 for _ in Path("/dev/fd").iterdir())
    for _ in range(5):
        frames_at(clip, [0.1, 0.9])
        with pytest.raises(VideoError):
            probe(tmp_path / "text.mp4")
    assert sum(1 for _ in Path("/dev/fd").iterdir()) == before


def test_a_local_video_is_used_where_it_lies(clip: Path) -> None:
    with local_copy(str(clip)) as copy:
        assert copy == clip
    assert clip.exists()
