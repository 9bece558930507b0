"""Interlaced frames are deinterlaced like `bwdif=mode=send_frame`, wherever they are shown; progressive ones are left alone."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import av
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from clips import joined, make_clip, make_interlaced
from seen import apart, cut_row, frames_row, kept, of_cut, record

from stages.video import decode, frames_at, open_video
from stages.video.fields import with_neighbours

KINDS = {
    "h264.mp4": {},
    "h264.mkv": {},
    "mpeg2.ts": {"codec": "mpeg2video"},
    "mpeg2.mpg": {"codec": "mpeg2video", "container": "mpeg"},
    "part2.avi": {"codec": "mpeg4"},
}


def plainly(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def through_bwdif(frames: list[av.VideoFrame]) -> list[np.ndarray]:
    """As the ffmpeg program does it: all frames through one filter; those that are progressive pass."""
    graph = av.filter.Graph()
    source = graph.add_buffer(template=None, width=frames[0].width, height=frames[0].height, format=frames[0].format,
                              time_base=frames[0].time_base)  # fmt: skip
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")).configure()
    for frame in [*frames, None]:
        graph.vpush(frame)
    return [graph.vpull().to_ndarray(format="rgb24") for _ in frames]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("several_shots", ["flag", "ignore"])
def test_frames_of_record_are_deinterlaced_and_flagged(tmp_path: Path, name: str, several_shots: str) -> None:
    clip = make_interlaced(tmp_path / name, **KINDS[name])
    frames = plainly(clip)
    assert all(frame.interlaced_frame for frame in frames)
    row = frames_row(clip, several_shots=several_shots)
    assert "interlaced" in kept(row).flags
    expected = through_bwdif(frames)
    for index, shown in record(row).items():
        assert apart(shown, expected[index]) < 1.5
        assert apart(shown, frames[index].to_ndarray(format="rgb24")) > 3


@pytest.mark.parametrize("name", KINDS)
def test_a_cut_is_deinterlaced(tmp_path: Path, name: str) -> None:
    clip = make_interlaced(tmp_path / name, **KINDS[name])
    expected = through_bwdif(plainly(clip))
    row = cut_row(clip, 0.5, 1.5, several_shots="flag")
    assert kept(row).video.n_frames == 24
    for index, shown in of_cut(row).items():
        assert apart(shown, expected[12 + index]) < 3
    with av.open(io.BytesIO(kept(row).media)) as container:
        assert not any(frame.interlaced_frame for frame in container.decode(video=0))


def test_training_decodes_what_the_frames_show(tmp_path: Path) -> None:
    from trainer.data.items import decode as decode_item

    clip = make_interlaced(tmp_path / "a.mp4")
    expected = through_bwdif(plainly(clip))
    wanted = [0, 3, 4, 5, 20, 39]
    pictures = decode_item(clip.read_bytes(), [index / 24 + 0.001 for index in wanted], 144, 192)
    for index, shown in zip(wanted, pictures, strict=True):
        assert apart(shown, expected[index]) < 0.5


@pytest.mark.parametrize("first", ["progressive", "interlaced"])
@pytest.mark.parametrize("container", ["ts", "mp4"])
@pytest.mark.parametrize("several_shots", ["flag", "ignore"])
def test_of_mixed_content_only_the_interlaced_frames_change(
    tmp_path: Path, first: str, container: str, several_shots: str
) -> None:
    parts = [make_clip(tmp_path / "p.mp4", 40), make_interlaced(tmp_path / "i.mp4")]
    clip = joined(tmp_path / f"mixed.{container}", *(parts if first == "progressive" else parts[::-1]))
    frames = plainly(clip)
    assert {frame.interlaced_frame for frame in frames} == {True, False}
    expected = through_bwdif(frames)
    row = frames_row(clip, several_shots=several_shots)
    assert "interlaced" in kept(row).flags
    for index, shown in record(row).items():
        assert apart(shown, expected[index]) < 1.5


@pytest.mark.parametrize("container", ["mp4", "ts"])
def test_progressive_content_is_left_as_it_is(tmp_path: Path, container: str) -> None:
    clip = make_clip(tmp_path / f"a.{container}", 40)
    assert "interlaced" not in kept(frames_row(clip)).flags
    assert apart(frames_at(clip, [0.5]).frames[0], plainly(clip)[12].to_ndarray(format="rgb24")) == 0


def test_decord_is_kept_from_interlaced_files(tmp_path: Path) -> None:
    with open_video(make_interlaced(tmp_path / "a.mp4")) as video:
        assert not decode._decord_is_right(video)


def test_neighbours_stay_within_the_video() -> None:
    assert with_neighbours([0, 5, 6, 9], 10) == [0, 1, 4, 5, 6, 7, 8, 9]
    assert with_neighbours([0], 1) == [0]
