"""Times of a range are those of players, and frames are found where the times of packets mislead."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from clips import make_clip, read_number
from seen import cut_row, frames_row, kept, of_cut, record, rejected

from stages.video import frames_at, open_video, probe

B_FRAMES = {"preset": "fast", "x264-params": "bframes=3:b-adapt=0:scenecut=0"}
CONTAINERS = ["mp4", "mov", "mkv", "ts", "flv"]


def numbers(path: Path, start_s: float | None = None, end_s: float | None = None) -> list[int]:
    with open_video(path, start_s, end_s) as video:
        return [read_number(rgb) for rgb in frames_at(video, video.probe.times_s).frames]


def with_sound(source: Path, target: Path, late_s: float, seconds: float = 6.0) -> Path:
    """The pictures of `source` begin `late_s` after a tone does."""
    with av.open(str(source)) as given_, av.open(str(target), "w") as output:
        video = output.add_stream_from_template(given_.streams.video[0])
        sound = output.add_stream("aac", rate=48000, layout="mono")
        tone = np.sin(np.arange(48000 * seconds, dtype=np.float32)[None] / 20) * 0.3
        for first in range(0, tone.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone[:, first : first + 1024]), "fltp", "mono")
            frame.sample_rate, frame.pts = 48000, first
            output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
        for packet in given_.demux(video=0):
            if packet.size:
                late = round(Fraction(late_s) / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + late, packet.dts + late, video
                output.mux(packet)
    return target


def as_played(path: Path, start_s: float, end_s: float) -> list[int]:
    """Numbers of the pictures that are shown from `start_s` to `end_s` after the container's start."""
    with av.open(str(path)) as container:
        zero = Fraction(container.start_time, 1_000_000)
        shown = [(frame.pts * frame.time_base - zero, frame) for frame in container.decode(video=0)]
    found = [frame for time, frame in shown if start_s - 1e-3 <= time < end_s - 1e-3]
    return [read_number(frame.to_ndarray(format="rgb24")) for frame in found]


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("late")
    plain = make_clip(folder / "plain.mp4", 96, options=B_FRAMES)
    return {name: with_sound(plain, folder / f"late.{name}", late_s=2.0) for name in CONTAINERS}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(("start_s", "end_s"), [(2.5, 4.0), (1.0, 3.0), (0.0, 3.0), (3.25, 9.0)])
def test_a_range_counts_from_the_start_of_the_container(
    late: dict[str, Path], container: str, start_s: float, end_s: float
) -> None:
    path = late[container]
    expected = as_played(path, start_s, end_s)
    assert numbers(path, start_s, end_s) == expected
    assert expected[0] == pytest.approx(max(0, start_s - 2) * 24, abs=2)  # two frames: an AAC encoder begins before time 0
    row = frames_row(path, start_s, end_s)
    assert [read_number(rgb) for rgb in record(row).values()] == [expected[index] for index in record(row)]


def test_the_cut_begins_where_players_begin(late: dict[str, Path]) -> None:
    expected = as_played(late["mp4"], 2.5, 4.0)
    row = cut_row(late["mp4"], 2.5, 4.0)
    assert kept(row).video.n_frames == len(expected)
    assert {index: read_number(rgb) for index, rgb in of_cut(row).items()} == {i: expected[i] for i in record(row)}


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_whole_clip_begins_with_its_first_picture(late: dict[str, Path], container: str) -> None:
    found = probe(late[container])
    assert (found.n_frames, found.times_s[0], found.duration_s) == (96, 0.0, pytest.approx(4.0, abs=0.002))


def test_a_range_before_the_first_picture_is_too_short(late: dict[str, Path]) -> None:
    assert rejected(frames_row(late["mp4"], 0.0, 1.5)).reason == "too_short"


def test_a_limit_counts_from_the_first_picture(late: dict[str, Path]) -> None:
    with open_video(late["mp4"], limit_s=2.0) as video:
        assert 2.5 < video.probe.duration_s < 3.5


def without_order(source: Path, target: Path) -> Path:
    """The stream copied as raw H.264 is: packets in their order, a picture's time of showing that of its decoding."""
    with av.open(str(source)) as given_, av.open(str(target), "w") as output:
        copy = output.add_stream_from_template(given_.streams.video[0])
        packets = [packet for packet in given_.demux(video=0) if packet.size]
        for number, packet in enumerate(packets):
            packet.pts = packet.dts = round(number / (24 * packet.time_base))
            packet.stream = copy
            output.mux(packet)
    return target


RAW = {
    "h264": ("libx264", B_FRAMES),
    "hevc": ("libx265", {"preset": "fast", "x265-params": "log-level=none:pools=1:bframes=3"}),
}


@pytest.mark.parametrize("codec", RAW)
@pytest.mark.parametrize("container", ["mp4", "mov", "mkv", "ts"])
def test_raw_streams_copied_into_a_container_are_decoded(tmp_path: Path, codec: str, container: str) -> None:
    encoder, options = RAW[codec]
    source = make_clip(tmp_path / "source.mp4", 98, codec=encoder, options=options)
    clip = without_order(source, tmp_path / f"raw.{container}")
    found = probe(clip)
    assert (found.n_frames, found.fps) == (98, pytest.approx(24, rel=1e-3))
    assert numbers(clip) == list(range(98))
    assert numbers(clip, 1.0, 3.0)[:1] == [24]
    row = frames_row(clip)
    assert [read_number(rgb) for rgb in record(row).values()] == list(record(row))
    row = cut_row(clip, 1.0, 3.0)
    assert {index: read_number(rgb) for index, rgb in of_cut(row).items()} == {index: 24 + index for index in record(row)}


def test_a_clip_that_could_have_b_frames_and_has_none_keeps_its_key_frames(tmp_path: Path) -> None:
    """It looks like raw H.264, but can be entered anywhere: only the checking costs."""
    options = {"preset": "fast", "x264-params": "bframes=3:b-adapt=2:b-bias=-100:scenecut=0"}
    noise = np.random.default_rng(0).integers(0, 255, (48, 144, 192, 3), np.uint8)
    clip = make_clip(tmp_path / "a.mp4", pictures=noise, options=options)
    with open_video(clip) as video:
        assert not video.timeline.by_order and len(video.timeline.keys) == 4


@settings(max_examples=15)
@given(late_s=st.integers(0, 40).map(lambda tenths: tenths / 10), start_s=st.floats(0, 5), length_s=st.floats(0.2, 4))
def test_whatever_the_offset_a_range_is_what_is_played(
    tmp_path_factory: pytest.TempPathFactory, late_s: float, start_s: float, length_s: float
) -> None:
    folder = tmp_path_factory.mktemp("offset")
    clip = with_sound(make_clip(folder / "a.mp4", 48, size=(128, 96)), folder / "late.mp4", late_s)
    expected = as_played(clip, start_s, start_s + length_s)
    if not expected:
        return
    found = numbers(clip, start_s, start_s + length_s)
    assert abs(len(found) - len(expected)) <= 2  # a frame within a millisecond of either end may be in or out
    assert set(found) >= set(expected[1:-1])
