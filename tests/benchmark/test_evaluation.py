"""The evaluation: what it calls near, how sure it is, and that it sees who looks at references and who does not."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import small_run

pytest.importorskip("skimage")

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from materia.base import intervals
from materia.benchmark import evaluation, metrics, statistics
from materia.benchmark.cases import Case, EvalOptions, read_cases
from materia.benchmark.evaluation import ClipScore
from materia.dataset.reader import Dataset
from tools import synthetic_world
from trainer.errors import TrainError

CONFIG = small_run.config(data={"fps": 2, "buckets": [{"frames": 4, "height": 64, "width": 64, "batch": 4}]})
COLOURS = arrays(np.uint8, st.tuples(st.integers(1, 40), st.just(3)))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("evaluation") / "out")
    synthetic_world.make(out, clips=12, seed=1)
    return out


@pytest.fixture(scope="module")
def cases(shards: str) -> list[Case]:
    return read_cases(Dataset(shards), CONFIG, CONFIG.data.buckets[0], EvalOptions(clips=12))


@given(COLOURS, COLOURS, COLOURS)
@settings(max_examples=30)
def test_the_distance_of_colours_is_a_distance(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    a, b, c = map(metrics.colours, (a, b, c))
    assert metrics.apart(a, a) == 0
    assert metrics.apart(a, b) == metrics.apart(b, a)
    assert metrics.apart(a, c) <= metrics.apart(a, b) + metrics.apart(b, c) + 1e-6


def test_the_distance_of_two_greys_is_their_difference_in_lightness() -> None:
    black, white = (metrics.colours(np.full((5, 3), value, np.uint8)) for value in (0, 255))
    assert metrics.apart(black, white) == pytest.approx(100, rel=0.02)


@given(COLOURS, st.randoms())
@settings(max_examples=20)
def test_where_in_a_region_a_colour_is_does_not_matter(rgb: np.ndarray, random: Callable) -> None:
    order = random.sample(range(len(rgb)), len(rgb))  # type: ignore[attr-defined]
    assert metrics.apart(metrics.colours(rgb), metrics.colours(rgb[order])) == pytest.approx(0, abs=1e-5)


def test_shares_have_wilsons_interval() -> None:
    assert intervals.wilson(8, 10) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert intervals.wilson(0, 10).low == pytest.approx(0, abs=1e-12)


def test_a_bootstrap_of_many_clips_is_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(3, 1, size=(1, 400))
    found = statistics.bootstrap(values, np.random.default_rng(1))
    half = 1.96 * values.std() / math.sqrt(400)
    assert found == pytest.approx((values.mean(), values.mean() - half, values.mean() + half), abs=0.02)


def test_runs_that_differ_make_the_interval_wider() -> None:
    clips = np.random.default_rng(0).normal(0, 1, size=200)
    alike, unlike = np.stack([clips] * 3), np.stack([clips - 1, clips, clips + 1])
    widths = [found.high - found.low for found in (statistics.bootstrap(v, np.random.default_rng(1)) for v in (alike, unlike))]
    assert widths[1] > 2 * widths[0]


def test_a_difference_of_pairs_is_surer_than_either_side(cases: list[Case]) -> None:
    noise = np.random.default_rng(0).integers(0, 60, size=(len(cases), *cases[0].own.video.shape))
    truth = np.stack([case.own.video for case in cases])
    dimmed = (truth - np.minimum(truth, noise)).astype(np.uint8)
    runs, others = ([evaluation.score(cases, own, np.roll(truth, 1, axis=0), _scorer(), seed=0)] for own in (dimmed, truth))
    difference, alone = evaluation.compare(runs, others), evaluation.summarise(runs)
    values = [evaluation.summarise(side)["margin"].value for side in (runs, others)]
    assert difference["margin"].value == pytest.approx(values[0] - values[1])
    assert difference["margin"].high < 0
    assert _width(difference["margin"]) < _width(alone["margin"])
    assert set(evaluation.compare(runs, runs).values()) == {(0, 0, 0)}


def test_shuffled_references_keep_words_and_show_someone_else(cases: list[Case]) -> None:
    for case in cases:
        assert case.own.caption == case.shuffled.caption
        for own, foreign in zip(case.own.references, case.shuffled.references, strict=True):
            assert (own.word, own.span) == (foreign.word, foreign.span)
            assert case.own.caption[slice(*own.span)] == own.word
            assert np.abs(own.pixels.astype(int) - foreign.pixels).mean() > 1


def test_the_truth_is_found_and_beats_other_clips(cases: list[Case]) -> None:
    truth = np.stack([case.own.video for case in cases])
    scores = evaluation.score(cases, truth, np.roll(truth, 1, axis=0), _scorer(), seed=0)
    summary = evaluation.summarise([scores])
    assert summary["distance"].high < 5 < summary["margin"].low
    assert summary["similarity_margin"].low > 0
    assert summary["found"].value == summary["assigned"].value == summary["motion"].value == 1


def test_who_ignores_references_has_no_margin(cases: list[Case]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, size=(len(cases), *cases[0].own.video.shape)).astype(np.uint8)
    summary = evaluation.summarise([evaluation.score(cases, noise, noise, _scorer(), seed=0)])
    assert summary["margin"] == summary["similarity_margin"] == (0, 0, 0)
    assert summary["found"].low < 1 / evaluation.CANDIDATES + 0.2


def test_subjects_that_changed_places_are_assigned_wrongly(cases: list[Case]) -> None:
    two = [case for case in cases if len(case.subjects) == 2]
    painted = []
    for case in two:
        video = case.own.video.copy()
        for subject, other in zip(case.subjects, reversed(case.subjects), strict=True):
            crop = other.crops[0]
            for frame, mask in subject.regions:
                video[frame][mask] = np.median(crop[crop[..., 3] > 0][:, :3], axis=0)
        painted.append(video)
    assert two
    scores = evaluation.score(two, np.stack(painted), np.stack(painted), _scorer(), seed=0)
    assert not any(clip.assigned for clip in scores)


def test_a_run_is_evaluated_and_read_back(shards: str, tmp_path: Path) -> None:
    small_run.run(shards, tmp_path / "run", data=CONFIG.data.model_dump(), stage={"steps": 1})
    options = EvalOptions(clips=4, steps=1, batch=3, scorer="small_run:Colours")
    found = evaluation.evaluate(str(tmp_path / "run"), shards, options)
    evaluation.write(found, options, str(tmp_path / "scores.json"))
    assert evaluation.read(str(tmp_path / "scores.json")) == found.scores
    assert [type(clip) for clip in found.scores] == [ClipScore] * 4
    assert found.scores == evaluation.evaluate(str(tmp_path / "run"), shards, options).scores
    own, foreign = found.rows[:2]
    assert own.truth is not None
    assert foreign.truth is None
    assert [word for word, _ in own.references] == [word for word, _ in foreign.references]
    assert Image.open(tmp_path / "scores.sheet.png").height > 8 * 144


def test_a_single_clip_cannot_be_shuffled(shards: str) -> None:
    with pytest.raises(TrainError, match="one clip"):
        read_cases(Dataset(shards, "row == 0"), CONFIG, CONFIG.data.buckets[0], EvalOptions())


def _width(interval: intervals.Interval) -> float:
    return interval.high - interval.low


def _scorer() -> small_run.Colours:
    return small_run.Colours()
