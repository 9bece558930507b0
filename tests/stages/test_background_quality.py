"""What a background is worth: who is left in it, how sharp it is, and what is made of both."""

import cv2
import msgspec
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from painted import figure_sample
from vision import needs_weights, photograph_sample

from stages.backends import Detections, Inpainter
from stages.background import CleanBackground
from stages.background.quality import assess, residual_within, sharpness
from stages.images import encode_mask
from stages.localise import Localise
from stages.records import EntityWord, Link, Rejection, Sample
from stages.settings import BackgroundSettings, LocaliseSettings


class Idle(Inpainter):
    """Leaves everybody where they are."""

    method = "idle"

    def inpaint(self, images, masks, prompts):
        return images


sides = st.integers(1, 60)
shapes = st.tuples(sides, sides)


def place():
    """A photograph of rocks and grass, and a hole in it."""
    mask = np.zeros((300, 451), bool)
    mask[90:220, 150:240] = True
    return skimage.data.chelsea(), mask


def found(*scored):
    boxes = np.array([box for box, _ in scored], np.float32).reshape(-1, 4)
    return Detections(boxes, np.array([[score] for _, score in scored], np.float32).reshape(-1, 1))


@settings(max_examples=60)
@given(st.data())
def test_scores_are_finite_and_in_range_for_any_picture_mask_and_boxes(data):
    height, width = data.draw(shapes)
    picture = data.draw(hnp.arrays(np.uint8, (height, width, 3)))
    mask = data.draw(hnp.arrays(bool, (height, width)))
    borrowed = mask & data.draw(hnp.arrays(bool, (height, width)))
    corners = st.floats(-5, 70, width=32)
    boxes = data.draw(st.lists(st.tuples(st.tuples(corners, corners, corners, corners), st.floats(0, 1, width=32)), max_size=3))
    before = picture.copy()
    about = assess(picture, mask, borrowed, {"dog": data.draw(st.floats(0, 1))}, found(*boxes))
    assert (picture == before).all()
    for value in (about.overall, about.residual_at_large, 1.0 if about.sharpness is None else about.sharpness):
        assert type(value) is float and 0 <= value <= 1


@settings(max_examples=20)
@given(st.integers(0, 150), st.integers(0, 250), st.integers(60, 140), st.integers(60, 180))
def test_a_smear_is_less_sharp_than_the_place_itself_wherever_it_is(top, left, height, width):
    picture = skimage.data.grass()[:300, :451]
    picture = np.repeat(picture[..., None], 3, axis=2)
    mask = np.zeros((300, 451), bool)
    mask[top : top + height, left : left + width] = True
    smear = np.where(mask[..., None], cv2.GaussianBlur(picture, (0, 0), 4), picture)
    assert sharpness(smear, mask) < 0.5 * sharpness(picture, mask)
    nothing = np.zeros_like(mask)
    assert assess(smear, mask, nothing, {}, None).overall < assess(picture, mask, nothing, {}, None).overall


def test_speckles_in_a_smooth_place_are_no_better_than_a_smear():
    smooth, mask = np.full((300, 451, 3), 120, np.uint8), place()[1]
    noise = np.random.default_rng(0).integers(90, 150, smooth.shape).astype(np.uint8)
    assert sharpness(smooth, mask) == 1 and sharpness(np.where(mask[..., None], noise, smooth), mask) < 0.1


def test_what_is_sharp_is_the_same_in_every_size():
    picture, mask = place()
    larger = cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    assert sharpness(larger, np.kron(mask, np.ones((2, 2), bool)).astype(bool)) == pytest.approx(
        sharpness(picture, mask), abs=0.1
    )


def test_too_little_to_compare_tells_nothing():
    picture, mask = place()
    speck = np.zeros_like(mask)
    speck[50:56, 50:56] = True
    for own in (speck, np.zeros_like(mask), np.ones_like(mask)):
        assert sharpness(picture, own) is None


def test_somebody_is_left_who_is_seen_where_the_picture_was_replaced():
    _, mask = place()
    inside, half, touching, beside = (160, 100, 230, 210), (200, 100, 280, 210), (230, 100, 330, 210), (300, 100, 400, 210)
    assert residual_within(found((inside, 0.7), (half, 0.4), (beside, 0.9)), mask) == pytest.approx(0.7, abs=1e-4)
    assert residual_within(found((half, 0.4)), mask) == pytest.approx(0.4, abs=1e-4)
    for nobody in (found((beside, 0.9)), found((touching, 0.9)), found()):
        assert residual_within(nobody, mask) == 0


def test_nothing_is_worth_much_with_somebody_left_and_what_is_borrowed_is_worth_more_than_what_is_invented():
    picture, mask = place()
    nothing, box = np.zeros_like(mask), (160, 100, 230, 210)
    borrowed, invented = (assess(picture, mask, own, {"cat": 0.1}, found()) for own in (mask, nothing))
    assert borrowed.overall == pytest.approx(0.9) and borrowed.overall > invented.overall
    left = assess(picture, mask, mask, {"cat": 0.1}, found((box, 0.8)))
    assert left.overall == pytest.approx(0.2, abs=1e-3) == assess(picture, mask, mask, {"cat": 0.8}, found()).overall
    assert assess(picture, nothing, nothing, {}, None).overall == 1, "nothing was replaced"


def cleaned(sample, inpainter, detector="nanodet", **values):
    stage = CleanBackground(BackgroundSettings(backend=inpainter, **values), LocaliseSettings(backend=detector))
    stage.setup()
    [row] = stage.process([sample])
    stage.close()
    return row


def linked(sample):
    sample.links = [Link(word=entity.word, score=None, second_best=None) for entity in sample.entities[:1]]
    return sample


def astronaut():
    """A portrait whose caption names a cat, taken for the woman."""
    sample = linked(photograph_sample("astronaut", cat="subject"))
    mask = np.zeros((512, 512), bool)
    mask[5:, 5:385] = True
    sample.instances = [msgspec.structs.replace(figure_sample().instances[0], word="cat", mask_rle=encode_mask(mask))]
    return sample


@needs_weights
def test_a_person_who_is_left_is_seen_whatever_the_caption_names():
    left, gone = (cleaned(astronaut(), inpainter).background for inpainter in ("test_background_quality:Idle", "opencv"))
    assert left.residual["cat"] < 0.3 < 0.5 < left.residual_at_large and left.quality < 0.4
    assert gone.residual_at_large < 0.6 * left.residual_at_large
    nobody = cleaned(astronaut(), "test_background_quality:Idle", also=[]).background
    assert nobody.residual_at_large is None and nobody.residual == left.residual


@needs_weights
def test_a_smear_is_worth_less_than_texture():
    smear, texture = (cleaned(astronaut(), inpainter).background for inpainter in ("opencv", "patchmatch"))
    assert smear.sharpness < 0.5 * texture.sharpness


@needs_weights
def test_who_else_is_looked_for_does_not_change_what_words_get():
    """Two words and `also` would share out the boxes of one person."""
    sample = photograph_sample("astronaut", woman="subject", man="subject")
    also = [EntityWord(word="person", category="subject", spans=[])]
    stage = Localise(LocaliseSettings())
    stage.setup()
    image = sample.frames[1].rgb
    alone, [together, others] = (stage.detector.detect([image] * n, [sample.entities, also][:n]) for n in (1, 2))
    assert (alone[0].scores == together.scores).all() and others.scores.max() == together.unshared.max()
    stage.close()


@pytest.mark.parametrize("with_links", [True, False])
def test_a_background_that_is_worth_too_little_is_rejected_and_says_so(with_links):
    def row(least):
        sample = figure_sample(rim=6)
        return cleaned(
            linked(sample) if with_links else sample, "painted:Filler", "painted:RedDetector", also=[], min_quality=least
        )

    kept, rejected = row(0.0), row(0.9)
    assert isinstance(kept, Sample) and (kept.background.quality is not None) == with_links
    assert isinstance(rejected, Rejection) and (rejected.stage, rejected.reason) == ("background", "low_quality")
    assert "background.min_quality is 0.9" in rejected.message


def test_a_drawing_with_somebody_in_it_is_drawn_again_in_samples_with_links_too():
    values = {"dilate_px": 3, "dilate_times": 2, "retry_dilate": 2, "max_residual": 0.1}
    sample = cleaned(linked(figure_sample(rim=4)), "painted:Filler", "painted:RedDetector", **values)
    assert sample.background.residual["figure"] <= 0.1 and sample.background.method.startswith("filler+dilate")
