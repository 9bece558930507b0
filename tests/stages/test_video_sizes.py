"""A picture that changes its size within a clip is never stretched: it is scaled, shown with bars, or a reason to reject."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from clips import joined, make_clip, picture, read_number
from seen import apart, cut_row, frames_row, kept, record, rejected

from stages.video import decode, frames_at, open_video

CONTAINERS = ["ts", "mkv", "mp4"]


def two_sizes(folder: Path, container: str, first: tuple[int, int], second: tuple[int, int]) -> Path:
    """Pictures 0-47 in the first size, then 0-47 in the second."""
    parts = [make_clip(folder / f"{n}.mp4", 48, size=size, options={"crf": "10"}) for n, size in enumerate((first, second))]
    return joined(folder / f"both.{container}", *parts)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("several_shots", ["flag", "ignore"])
def test_another_shape_is_a_reason_to_reject(tmp_path: Path, container: str, several_shots: str) -> None:
    clip = two_sizes(tmp_path, container, (192, 144), (256, 144))
    row = rejected(frames_row(clip, several_shots=several_shots))
    assert row.reason == "several_sizes"
    assert "192x144" in row.message and "start and end" in row.message


@pytest.mark.parametrize("container", CONTAINERS)
def test_each_part_is_a_clip_of_its_own(tmp_path: Path, container: str) -> None:
    clip = two_sizes(tmp_path, container, (192, 144), (256, 144))
    for start_s, end_s, size in ((0.1, 1.9, (192, 144)), (2.2, 3.9, (256, 144))):
        row = cut_row(clip, start_s, end_s)
        video = kept(row).video
        assert video is not None and (video.width, video.height) == size
        assert all(rgb.shape[1::-1] == size for rgb in record(row).values())


def test_a_cut_that_meets_another_shape_is_rejected(tmp_path: Path) -> None:
    """Frames 5-95 % lie before the change, so only the cut sees it."""
    clip = two_sizes(tmp_path, "ts", (192, 144), (144, 144))
    row = cut_row(clip, 0.0, 2.05)
    assert rejected(row).reason == "several_sizes"


@pytest.mark.parametrize("container", CONTAINERS)
def test_another_size_of_the_same_shape_is_scaled(tmp_path: Path, container: str) -> None:
    clip = two_sizes(tmp_path, container, (192, 144), (384, 288))
    row = cut_row(clip, 0.0, 9.0, several_shots="ignore")
    assert all(rgb.shape == (144, 192, 3) for rgb in record(row).values())
    assert [read_number(rgb) for rgb in record(row).values()] == [index % 48 for index in record(row)]


@pytest.mark.parametrize(("second", "inner"), [((256, 144), (192, 108)), ((144, 256), (81, 144)), ((96, 144), (96, 144))])
def test_training_gets_bars_rather_than_a_stretched_picture(
    tmp_path: Path, second: tuple[int, int], inner: tuple[int, int]
) -> None:
    clip = two_sizes(tmp_path, "mp4", (192, 144), second)
    frame = frames_at(clip, [3.0]).frames[0]
    left, top = (192 - inner[0]) // 2, (144 - inner[1]) // 2
    inside = frame[top : top + inner[1], left : left + inner[0]]
    assert apart(inside, picture(24, *inner)) < 8
    assert frame.astype(int).sum() == inside.astype(int).sum()


def test_decord_is_kept_from_a_wanted_frame_of_another_size(tmp_path: Path) -> None:
    with open_video(two_sizes(tmp_path, "mp4", (192, 144), (384, 288))) as video:
        assert decode._stays_alike(video, [0, 40])
        assert decode._stays_alike(video, [0, 60])  # scaled, as decord does
    with open_video(two_sizes(tmp_path, "mkv", (192, 144), (256, 144))) as video:
        assert not decode._stays_alike(video, [0, 60])
        assert np.array_equal(frames_at(video, [0.5]).frames[0].shape, (144, 192, 3))


def test_a_later_picture_may_not_be_larger_than_any_that_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["stages.video.probe"], "MAX_PIXELS", 200 * 150)
    row = rejected(frames_row(two_sizes(tmp_path, "ts", (192, 144), (384, 288))))
    assert row.reason == "unreadable"
