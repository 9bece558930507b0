"""Drawing the background again with a larger mask where a subject is left, and all clips of a call together."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from painted import RED, SIZE, figure_sample
from PIL import Image

from materia.dataset.sample_checks import Recipe, grow, redrawn
from stages import background as stage_module
from stages.background import CleanBackground
from stages.images import decode_mask
from stages.records import Rejection, Sample
from stages.settings import BackgroundSettings, LocaliseSettings

GROWS_PX = 2
"""A square of 3 dilates by 1 on every side, twice in `cleaner`."""


def cleaner(inpainter="painted:Filler", options=None, **values):
    values = {"dilate_px": 3, "dilate_times": 2, "retry_dilate": 2, "max_residual": 0.1} | values
    chosen = BackgroundSettings(backend=inpainter, options=options or {}, **values)
    stage = CleanBackground(chosen, LocaliseSettings(backend="painted:RedDetector"))
    stage.setup()
    stage.inpainter.calls, stage.detector.calls = [], []
    return stage


def pixels(sample):
    return np.asarray(Image.open(io.BytesIO(sample.background.png)))


def recomputed_hole(sample, chosen):
    """The hole as `materia validate` works it out from the record."""
    recipe = Recipe(chosen.dilate_px, chosen.dilate_times, chosen.retry_dilate)
    return grow(decode_mask(sample.instances[0].mask_rle), recipe.again(redrawn(sample.background.method)))


@pytest.mark.parametrize(("rim", "again"), [(1, 0), (GROWS_PX, 0), (GROWS_PX + 2, 1), (2 * GROWS_PX + 2, 2)])
def test_a_subject_that_is_left_is_drawn_again_with_a_mask_dilated_as_much_further(rim, again):
    stage = cleaner()
    [sample] = stage.process([figure_sample(rim=rim)])
    assert sample.background.method == ("filler", "filler+dilate1", "filler+dilate2")[again]
    assert sample.background.residual["figure"] <= 0.1
    assert stage.inpainter.calls == stage.detector.calls == [1] * (again + 1)


def test_outside_the_mask_of_the_drawing_that_stays_the_frame_is_kept_bit_for_bit():
    stage = cleaner()
    [sample] = stage.process([figure_sample(rim=GROWS_PX + 2)])
    hole = recomputed_hole(sample, stage.settings)
    assert (pixels(sample)[~hole] == sample.frames[1].rgb[~hole]).all()
    assert sample.background.masked_share == pytest.approx(hole.mean(), abs=1e-6)
    assert hole.sum() == (30 + 2 * GROWS_PX - 4) * (24 + 2 * GROWS_PX - 4)


def test_without_retry_dilate_it_is_drawn_once_and_the_residual_says_what_is_left():
    stage = cleaner(retry_dilate=0)
    [sample] = stage.process([figure_sample(rim=6)])
    assert (sample.background.method, stage.inpainter.calls) == ("filler", [1])
    assert sample.background.residual["figure"] > 0.1


def test_the_drawing_with_the_lowest_residual_stays_when_drawing_again_makes_it_worse():
    stage = cleaner(options={"colour": RED})
    [sample] = stage.process([figure_sample(height=8, width=8)])
    assert stage.inpainter.calls == [1, 1, 1]
    [once] = cleaner(options={"colour": RED}, retry_dilate=0).process([figure_sample(height=8, width=8)])
    assert sample.background == once.background and sample.background.residual["figure"] < 1


def test_of_equal_drawings_the_one_with_the_smallest_mask_stays():
    stage = cleaner(options={"colour": RED})
    [sample] = stage.process([figure_sample()])
    assert sample.background.residual["figure"] == 1.0
    assert sample.background.method == "filler" and stage.inpainter.calls == [1, 1, 1]


def test_a_larger_mask_that_would_leave_nothing_is_not_tried():
    sample = figure_sample(rim=6)
    first = recomputed_share(sample, dilate_times=2)
    stage = cleaner(max_masked_share=first + 1e-4)
    [row] = stage.process([sample])
    assert isinstance(row, Sample) and row.background.method == "filler" and stage.inpainter.calls == [1]
    [row] = cleaner(max_masked_share=first - 1e-4).process([figure_sample(rim=6)])
    assert isinstance(row, Rejection) and row.reason == "nothing_left"


def recomputed_share(sample, dilate_times):
    return grow(decode_mask(sample.instances[0].mask_rle), Recipe(3, dilate_times)).mean()


def test_a_mask_that_cannot_grow_is_drawn_once():
    stage = cleaner(dilate_px=1)
    [sample] = stage.process([figure_sample(rim=6)])
    assert sample.background.residual["figure"] > 0.1 and stage.inpainter.calls == [1]
    missed = figure_sample()
    missed.instances = []
    [sample] = (again := cleaner()).process([missed])
    assert (sample.background.masked_share, again.inpainter.calls, again.detector.calls) == (0, [], [1])
    assert (pixels(sample) == sample.frames[1].rgb).all()


def test_without_dilation_of_its_own_a_mask_is_dilated_once_more_each_time():
    [sample] = (stage := cleaner(dilate_times=0)).process([figure_sample(rim=2)])
    assert sample.background.method == "filler+dilate2"
    assert sample.background.masked_share == pytest.approx(recomputed_hole(sample, stage.settings).mean(), abs=1e-6)


def test_all_clips_are_inpainted_and_looked_at_together_and_only_those_that_need_it_again():
    stage = cleaner()
    full = figure_sample(2, place=(0, 0), height=SIZE[0], width=SIZE[1])
    rows = stage.process([figure_sample(0), figure_sample(1, rim=4), full, figure_sample(3, rim=6)])
    assert stage.inpainter.calls == stage.detector.calls == [3, 2, 1]
    assert [row.row if isinstance(row, Rejection) else row.clip.row for row in rows] == [0, 1, 2, 3]
    assert isinstance(rows[2], Rejection) and rows[2].reason == "nothing_left"


def test_no_more_pictures_are_held_together_than_fit(monkeypatch):
    monkeypatch.setattr(stage_module, "GROUP_PIXELS", 2 * SIZE[0] * SIZE[1])
    stage = cleaner()
    large = figure_sample(3, size=(300, 300))
    rows = stage.process([figure_sample(0), figure_sample(1), figure_sample(2), large, figure_sample(4)])
    assert stage.inpainter.calls == [2, 1, 1, 1] and [row.clip.row for row in rows] == [0, 1, 2, 3, 4]
    assert stage.process([]) == []


figures = st.builds(
    lambda top, left, height, width, rim: {"place": (top, left), "height": height, "width": width, "rim": rim},
    st.integers(0, 40), st.integers(0, 60), st.integers(16, 50), st.integers(16, 60), st.integers(0, 7),
)  # fmt: skip


@settings(max_examples=25)
@given(st.lists(figures, min_size=1, max_size=4), st.sampled_from(["painted:Filler", "opencv"]))
def test_together_or_one_by_one_every_clip_gets_the_same_background_and_it_keeps_its_rule(drawn, inpainter):
    stage = cleaner(inpainter)
    together = stage.process([figure_sample(row, **figure) for row, figure in enumerate(drawn)])
    for row, figure in enumerate(drawn):
        [alone] = stage.process([figure_sample(row, **figure)])
        assert together[row].background == alone.background
        hole = recomputed_hole(alone, stage.settings)
        assert (pixels(alone)[~hole] == alone.frames[1].rgb[~hole]).all()
        assert alone.background.masked_share == pytest.approx(hole.mean(), abs=1e-6)
        once = cleaner(inpainter, retry_dilate=0).process([figure_sample(row, **figure)])[0].background
        assert alone.background.residual["figure"] <= once.residual["figure"]
