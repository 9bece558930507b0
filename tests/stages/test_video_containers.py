"""Every container that a folder of videos may hold is read right, and none opens anything but itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from clips import make_clip, read_number
from seen import cut_row, frames_row, kept, of_cut, record

from materia.dataset.documents import Container
from stages.video import frames_at, open_video
from stages.video.source import DEMUXERS

FILES = {
    "a.3gp": ("mp4", {"codec": "libx264"}),
    "h263.3gp": ("mp4", {"codec": "h263", "size": (176, 144), "fps": 25}),
    "mpeg2.mpg": ("mpg", {"codec": "mpeg2video", "options": {"bf": "2", "b": "4M"}, "container": "mpeg"}),
    "no_b.mpg": ("mpg", {"codec": "mpeg2video", "options": {"b": "4M"}, "container": "mpeg"}),
    "dvd.mpg": ("mpg", {"codec": "mpeg2video", "options": {"bf": "2", "b": "4M"}, "container": "vob"}),
    "mpeg1.mpg": ("mpg", {"codec": "mpeg1video", "options": {"bf": "2", "b": "4M"}, "container": "mpeg"}),
    "h264.flv": ("flv", {"options": {"preset": "fast", "x264-params": "bframes=3"}}),
    "sorenson.flv": ("flv", {"codec": "flv", "options": {"b": "4M"}}),
    "wmv2.wmv": ("wmv", {"codec": "wmv2", "options": {"b": "4M"}, "container": "asf"}),
    "wmv1.wmv": ("wmv", {"codec": "wmv1", "options": {"b": "4M"}, "container": "asf"}),
    "h264.m2ts": (
        "ts",
        {
            "options": {"preset": "fast", "x264-params": "bframes=3"},
            "container": "mpegts",
            "muxer": {"mpegts_m2ts_mode": "1"},
        },
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("containers")
    for name, (_, arguments) in FILES.items():
        make_clip(folder / name, **arguments)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_every_frame_is_found_at_its_time(folder: Path, name: str) -> None:
    with open_video(folder / name) as video:
        assert video.probe.n_frames == 60
        assert video.probe.fps == pytest.approx(FILES[name][1].get("fps", 24), rel=0.01)
        decoded = frames_at(video, [time + 0.001 for time in video.probe.times_s])
    assert [read_number(rgb) for rgb in decoded.frames] == list(range(60))


@pytest.mark.parametrize("name", FILES)
def test_it_is_named_by_a_word_of_the_contract_and_cut(folder: Path, name: str) -> None:
    video = kept(frames_row(folder / name)).video
    assert video is not None and video.container == FILES[name][0]
    assert video.container in get_args(Container)
    row = cut_row(folder / name, 0.5, 2.0)
    first = read_number(record(row)[min(record(row))]) - min(record(row))
    assert first in (11, 12, 13)  # times of WMV and MPEG are in milliseconds, or begin with a delay
    assert {index: read_number(rgb) for index, rgb in of_cut(row).items()} == {i: first + i for i in record(row)}


def test_only_demuxers_that_follow_no_reference_are_allowed() -> None:
    following = {"hls", "dash", "concat", "concatf", "image2", "sdp", "rtsp", "lavfi", "imf", "vobsub", "applehttp"}
    assert not following & set(DEMUXERS.split(","))
