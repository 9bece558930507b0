"""The clean background: untouched pixels, the mask's recipe, the residual check."""

import io

import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis.extra import numpy as hnp
from PIL import Image
from vision import needs_weights, photograph_sample

from stages.background import CleanBackground, hole
from stages.background.opencv import OpenCVInpainter
from stages.images import encode_mask
from stages.localise import Localise
from stages.records import Instance, Rejection, Sample
from stages.settings import BackgroundSettings, LocaliseSettings


def masked_sample(mask, frame=1):
    sample = photograph_sample("astronaut", woman="subject", stage="background")
    sample.instances = [
        Instance(
            word="woman",
            category="subject",
            frame=frame,
            box_xyxy_px=(0.0, 0.0, 1.0, 1.0),
            detector_score=0.7,
            mask_rle=encode_mask(mask),
            mask_score=0.9,
            area_share=float(mask.mean()),
            crop_xyxy_px=(0, 0, 1, 1),
            png=b"",
        )
    ]
    return sample


def rectangle(top, bottom, left, right):
    mask = np.zeros((512, 512), bool)
    mask[top:bottom, left:right] = True
    return mask


def pixels(sample):
    return np.asarray(Image.open(io.BytesIO(sample.background.png)))


@pytest.fixture(scope="module")
def background():
    stage = CleanBackground(BackgroundSettings(), LocaliseSettings())
    stage.setup()
    yield stage
    stage.close()


@needs_weights
def test_outside_the_hole_the_background_is_the_frame_bit_for_bit(background):
    mask = rectangle(10, 512, 20, 370)
    [sample] = background.process([masked_sample(mask)])
    grown = hole([mask], (512, 512), 4, 3)
    frame = sample.frames[1].rgb
    assert (pixels(sample)[~grown] == frame[~grown]).all()
    assert (pixels(sample)[mask] != frame[mask]).any(axis=-1).mean() > 0.9
    assert sample.background.masked_share == pytest.approx(grown.mean(), abs=1e-6)
    assert sample.background.word == "stage"


@needs_weights
def test_the_residual_falls_when_the_subject_is_gone(background):
    [gone] = background.process([masked_sample(rectangle(5, 512, 5, 385))])
    [left] = background.process([masked_sample(rectangle(0, 40, 440, 500))])
    assert left.background.residual["woman"] > 0.5
    assert gone.background.residual["woman"] < 0.6 * left.background.residual["woman"]
    assert set(gone.background.residual) == {"woman"}


@needs_weights
def test_without_an_instance_on_the_middle_frame_it_is_the_frame_itself(background):
    [sample] = background.process([masked_sample(rectangle(0, 300, 0, 300), frame=0)])
    assert sample.background.masked_share == 0
    assert (pixels(sample) == sample.frames[1].rgb).all()


@needs_weights
def test_a_frame_that_is_all_subject_leaves_nothing(background):
    [row] = background.process([masked_sample(rectangle(0, 512, 0, 490))])
    assert isinstance(row, Rejection) and (row.stage, row.reason) == ("background", "nothing_left")
    assert "max_masked_share" in row.message


@needs_weights
def test_both_stages_of_a_process_share_one_detector(background):
    localise = Localise(LocaliseSettings())
    localise.setup()
    assert localise.detector is background.detector
    localise.close()
    assert isinstance(background.process([masked_sample(rectangle(0, 90, 0, 90))])[0], Sample)


def test_the_hole_is_the_union_dilated_three_times_without_holes():
    ring = rectangle(100, 200, 100, 200) & ~rectangle(120, 180, 120, 180)
    grown = hole([ring, rectangle(300, 301, 300, 301)], (512, 512), 4, 3)
    assert grown[100:200, 100:200].all(), "the hole of the ring is filled"
    assert grown[280:320, 280:320].sum() == (1 + 3 * 3) ** 2, "a pixel grows by 3 on every side three times"
    assert not hole([], (8, 8), 4, 3).any()


@given(hnp.arrays(bool, (17, 23)), hnp.arrays(np.uint8, (17, 23, 3)))
def test_inpainting_changes_the_hole_only_and_stays_within_the_known_colours(mask, image):
    filled = OpenCVInpainter().inpaint([image], [mask], [None])[0]
    assert filled.dtype == np.uint8 and (filled[~mask] == image[~mask]).all()
    if mask.any() and not mask.all():
        known = image[~mask]
        assert (filled[mask] >= known.min(axis=0).astype(int) - 1).all() and (
            filled[mask] <= known.max(axis=0).astype(int) + 1
        ).all()


def test_a_gradient_is_continued_through_the_hole():
    image = np.repeat(np.linspace(0, 255, 128).astype(np.uint8)[None, :, None], 96, axis=0).repeat(3, axis=2)
    mask = np.zeros((96, 128), bool)
    mask[40:56, 56:72] = True
    filled = OpenCVInpainter().inpaint([image], [mask], [None])[0]
    assert np.abs(filled[mask].astype(int) - image[mask]).mean() < 12


def test_a_real_hole_is_filled_alike_every_time():
    image, mask = skimage.data.astronaut(), rectangle(50, 300, 60, 260)
    assert (
        OpenCVInpainter().inpaint([image], [mask], [None])[0] == OpenCVInpainter().inpaint([image], [mask], ["room"])[0]
    ).all()
