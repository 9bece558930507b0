"""Cuts and dissolves are found; motion, flashes and light changes are not taken for them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from clips import picture

from stages.settings import FramesSettings
from stages.shots import find_cuts
from stages.shots.colours import Colours


def scene(night: bool, n: int) -> list[np.ndarray]:
    """Without the strip of numbers."""
    return [picture(number, 64, 48, night)[:36] for number in range(n)]


def cuts(glimpses: list[np.ndarray], fps: float = 25) -> list[float]:
    defaults = FramesSettings()
    times_s = np.arange(len(glimpses)) / fps
    pictures = np.stack(glimpses).astype(np.uint8)
    return find_cuts(Colours(), "c", times_s, pictures, defaults.shot_threshold, defaults.dissolve_threshold)


def mixed(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    return (a * (1 - share) + b * share).astype(np.uint8)


def test_one_calm_shot_has_no_cut() -> None:
    assert cuts(scene(False, 60)) == []


def test_a_hard_cut_is_found_where_it_is() -> None:
    assert cuts(scene(False, 20) + scene(True, 20)) == [20 / 25]


def test_cutting_away_and_back_is_two_cuts() -> None:
    assert cuts(scene(False, 20) + scene(True, 15) + scene(False, 20)) == [20 / 25, 35 / 25]


def test_a_cut_between_very_few_frames_is_found() -> None:
    assert cuts(scene(False, 3) + scene(True, 3), fps=4) == [3 / 4]


@pytest.mark.parametrize("length", [10, 16, 24])
def test_a_dissolve_is_found_in_its_middle(length: int) -> None:
    a, b = scene(False, 60), scene(True, 60)
    dissolve = [mixed(a[30 + i], b[i], (i + 1) / (length + 1)) for i in range(length)]
    found = cuts(a[:30] + dissolve + b[length:])
    assert found
    assert all(30 / 25 <= time <= (30 + length) / 25 for time in found)


def test_a_flash_is_no_cut() -> None:
    glimpses = scene(False, 40)
    glimpses[20] = np.full_like(glimpses[20], 250)
    assert cuts(glimpses) == []


def test_fading_to_black_and_back_to_the_same_scene_is_no_cut() -> None:
    glimpses = [glimpse for glimpse in scene(False, 15) for _ in range(4)]
    faded = [mixed(glimpse, np.zeros_like(glimpse), max(0, 1 - abs(i - 30) / 10)) for i, glimpse in enumerate(glimpses)]
    assert cuts(faded) == []


def test_a_fast_pan_is_no_cut() -> None:
    rng = np.random.default_rng(0)
    wide = np.kron(rng.integers(0, 256, (6, 80, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    assert cuts([wide[:, 5 * i : 5 * i + 64] for i in range(60)]) == []


def test_slides_that_change_all_the_time_do_not_raise() -> None:
    assert cuts(scene(False, 1)) == []
    assert isinstance(cuts(scene(False, 1) + scene(True, 1)), list)
    assert cuts([np.zeros((36, 64, 3), np.uint8)] * 10) == []
