"""A display matrix is obeyed as the ffmpeg program obeys it: all eight ways in which a picture can lie, mirrored ones too."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from clips import filtered, make_clip, with_matrix
from seen import apart, cut_row, frames_row, kept, of_cut, record, rejected

from stages.video import decode, frames_at, open_video, probe
from stages.video.orientation import Orientation, orientation_of_matrix

WAYS = {
    "upright": ((1, 0, 0, 1), []),
    "hflip": ((-1, 0, 0, 1), [("hflip", "")]),
    "vflip": ((1, 0, 0, -1), [("vflip", "")]),
    "half_turn": ((-1, 0, 0, -1), [("hflip", ""), ("vflip", "")]),
    "clockwise": ((0, 1, -1, 0), [("transpose", "clock")]),
    "anticlockwise": ((0, -1, 1, 0), [("transpose", "cclock")]),
    "transpose": ((0, 1, 1, 0), [("transpose", "cclock_flip")]),
    "antitranspose": ((0, -1, -1, 0), [("transpose", "clock_flip")]),
}
"""a, b, c, d of the matrix, and the filters that ffmpeg inserts for it (fftools/ffmpeg_filter.c)."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("matrix") / "plain.mp4", 40, options={"crf": "10"})


def as_ffmpeg_shows(path: Path, filters: list[tuple[str, str]]) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [filtered(frame, *filters, ("format", "rgb24")).to_ndarray() for frame in container.decode(video=0)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("several_shots", ["reject", "ignore"])
def test_frames_and_cuts_show_what_ffmpeg_shows(plain: Path, tmp_path: Path, way: str, several_shots: str) -> None:
    matrix, filters = WAYS[way]
    clip = with_matrix(plain, tmp_path / "a.mp4", *matrix)
    expected = as_ffmpeg_shows(clip, filters)
    for index, picture in record(frames_row(clip, several_shots=several_shots)).items():
        assert apart(picture, expected[index]) < 1.5
    for index, picture in of_cut(cut_row(clip, 0.5, 1.5)).items():
        assert apart(picture, expected[12 + index]) < 2


@pytest.mark.parametrize("way", WAYS)
def test_the_record_says_how_the_picture_lay(plain: Path, tmp_path: Path, way: str) -> None:
    matrix, filters = WAYS[way]
    clip = with_matrix(plain, tmp_path / "a.mp4", *matrix)
    video = kept(frames_row(clip)).video
    assert video is not None
    stored = as_ffmpeg_shows(plain, [])[0]
    turned = Orientation(video.rotation, video.mirrored).applied(stored)
    assert np.array_equal(turned, as_ffmpeg_shows(clip, filters)[0])
    assert (video.width, video.height) == turned.shape[1::-1]
    cut = kept(cut_row(clip, 0.5, 1.5)).video
    assert cut is not None and (cut.rotation, cut.mirrored) == (0, False)


def test_decord_is_kept_from_mirrored_files(plain: Path, tmp_path: Path) -> None:
    with open_video(with_matrix(plain, tmp_path / "a.mp4", -1, 0, 0, 1)) as video:
        assert not decode._decord_is_right(video)


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (1, 0, 0, 0), (0, 0, 0, 1)])
def test_a_matrix_without_area_counts_for_nothing(plain: Path, tmp_path: Path, matrix: tuple[int, ...]) -> None:
    frame = frames_at(with_matrix(plain, tmp_path / "a.mp4", *matrix), [0.5]).frames[0]
    assert np.array_equal(frame, frames_at(plain, [0.5]).frames[0])


def turn(degrees: float) -> tuple[float, float, float, float]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return cos, sin, -sin, cos


@pytest.mark.parametrize("degrees", [1, 12, 45, 100, 269, 359])
def test_an_angle_that_is_not_right_is_a_reason_to_reject(plain: Path, tmp_path: Path, degrees: int) -> None:
    row = rejected(frames_row(with_matrix(plain, tmp_path / "a.mp4", *turn(degrees))))
    assert row.reason == "unreadable"
    assert "display matrix" in row.message and "re-encode" in row.message


@pytest.mark.parametrize("degrees", [0.3, 90.4, 179.7, -89.6])
def test_angles_are_rounded_to_whole_degrees(plain: Path, tmp_path: Path, degrees: float) -> None:
    found = probe(with_matrix(plain, tmp_path / "a.mp4", *turn(degrees)))
    assert (found.rotation, found.tilt_deg) == (round(degrees / 90) * 90 % 360, 0)


@settings(max_examples=200)
@given(
    turns=st.integers(0, 3),
    mirrored=st.booleans(),
    scale=st.floats(0.01, 50),
    across=st.floats(0.5, 2),
    noise=st.tuples(*[st.floats(-0.003, 0.003)] * 4),
)
def test_the_picture_goes_where_the_matrix_sends_it(
    turns: int, mirrored: bool, scale: float, across: float, noise: tuple[float, ...]
) -> None:
    """Of a picture that is bright at its right end, or at its lower one, the bright end lies where the matrix maps it to."""
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][turns]
    a, b, c, d = (-cos, -sin, -sin, cos) if mirrored else (cos, sin, -sin, cos)
    ideal = np.array([[a, b], [c, d]])
    given_ = (ideal + np.array(noise).reshape(2, 2)) * scale * np.array([[1], [across]])
    (a, b), (c, d) = (given_ * 65536).round().astype(int).tolist()
    orientation = orientation_of_matrix((a, b, 0, c, d, 0, 0, 0, 1 << 30))
    assert orientation.tilt_deg == 0
    y, x = np.mgrid[-1:2, -1:2]
    for along, end in ((x, ideal[0]), (y, ideal[1])):  # where the stored x axis, y axis points
        shown = orientation.applied(along)
        assert shown[1 + int(end[1]), 1 + int(end[0])] == 1
