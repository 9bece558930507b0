"""Who is masked in part only is gone from the background all the same."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from painted import RedDetector, figure_sample
from PIL import Image
from vision import needs_weights, photograph_sample

from stages.backends import Detections
from stages.background import CleanBackground
from stages.background.leftover import SURE, found_again, unsure
from stages.images import decode_mask, encode_mask
from stages.records import Box, Instance, Link, Sample
from stages.settings import BackgroundSettings, LocaliseSettings

LINK = Link(word="cat", score=None, second_best=None)
CAT = (0.0, 20.0, 300.0, 300.0)
"""In the photograph of a cat; its nose and whiskers look out of it."""
SIZE = (300, 451)


def cat(mask_score, category="subject", **values):
    """A photograph of a cat, whose mask holds its forehead only."""
    sample = photograph_sample("chelsea", cat=category)
    forehead = np.zeros(SIZE, bool)
    forehead[60:120, 100:200] = True
    sample.boxes = [Box(word="cat", category=category, frame=1, box_xyxy_px=CAT, score=0.8, **values)]
    sample.links = [LINK]
    sample.instances = [
        Instance(
            word="cat", category=category, frame=1, box_xyxy_px=CAT, detector_score=0.8, mask_rle=encode_mask(forehead),
            mask_score=mask_score, area_share=float(forehead.mean()), crop_xyxy_px=(100, 60, 200, 120), png=b"",
        )
    ]  # fmt: skip
    return sample


def cleaned(sample, detector="nanodet", **values):
    stage = CleanBackground(BackgroundSettings(backend="opencv", **values), LocaliseSettings(backend=detector))
    stage.setup()
    [row] = stage.process([sample])
    stage.close()
    return row, np.asarray(Image.open(io.BytesIO(row.background.png)))


@needs_weights
@pytest.mark.parametrize("category", ["subject", "object"])
def test_an_animal_whose_mask_is_not_sure_is_gone(category):
    """Also where the caption names it as an object, if it was found without being asked for."""
    sample = cat(0.4, category)
    sample.bystanders = [Box(word="person", category="subject", frame=1, box_xyxy_px=CAT, score=0.6, chosen=False)]
    frame = sample.frames[1].rgb
    row, picture = cleaned(sample)
    mask = decode_mask(row.background.mask_rle)
    x1, y1, x2, y2 = map(int, CAT)
    assert mask[y1:y2, x1:x2].all() and not mask[:, 380:].all()
    assert (picture[~mask] == frame[~mask]).all()
    if category == "subject":
        kept, _ = cleaned(cat(0.95))
        assert row.background.residual["cat"] < 0.6 * kept.background.residual["cat"]


def test_a_sure_mask_is_left_as_it_is():
    assert not unsure(cat(SURE), SIZE).any()


def test_an_object_that_is_nobody_is_left_as_it_is():
    assert not unsure(cat(0.4, "object"), SIZE).any()


def test_who_has_no_mask_is_hidden_by_the_box():
    sample = cat(0.9, dropped="low_mask_score")
    sample.instances = []
    assert unsure(sample, SIZE)[100, 50] and not unsure(sample, SIZE)[100, 400]


def test_where_all_that_may_be_missing_would_leave_too_little_less_is_taken():
    full, _ = cleaned(cat(0.7), "painted:RedDetector")
    most = full.background.masked_share - 0.01
    row, _ = cleaned(cat(0.7), "painted:RedDetector", max_masked_share=most)
    bare, _ = cleaned(cat(0.95), "painted:RedDetector")
    assert isinstance(row, Sample) and bare.background.masked_share < row.background.masked_share <= most


@needs_weights
@pytest.mark.parametrize("published", [{"linked": False}, {"also": []}])
def test_the_published_mask_stays(published):
    """Whatever the score: the mask is the instances', dilated."""
    linked = published.get("linked", True)
    settings = {"also": published["also"]} if "also" in published else {}
    backgrounds = []
    for score in (0.3, 0.95):
        sample = cat(score)
        sample.links = [LINK] if linked else []
        backgrounds.append(cleaned(sample, borrow=False, **settings)[0].background)
    assert backgrounds[0] == backgrounds[1]
    assert backgrounds[0].mask_rle is None and backgrounds[0].masked_share < 0.08


def figure():
    """A red figure whose mask is sure, but misses a quarter of it, on the right."""
    sample = figure_sample(height=30, width=24)
    [instance] = sample.instances
    mask = decode_mask(instance.mask_rle).copy()
    mask[:, 58:] = False
    sample.instances = [replace(instance, mask_rle=encode_mask(mask), mask_score=0.95)]
    sample.links = [LINK]
    return sample


def test_who_is_found_beside_what_was_replaced_is_masked_and_drawn_again():
    values = {"backend": "painted:Filler", "dilate_px": 3, "dilate_times": 1}
    stage = CleanBackground(BackgroundSettings(**values), LocaliseSettings(backend="test_leftover:Finder"))
    stage.setup()
    [row] = stage.process([figure()])
    mask = decode_mask(row.background.mask_rle)
    assert mask[30:60, 40:64].all() and row.background.residual == {"figure": 0.0}
    assert stage.inpainter.calls == [1, 1]


class Finder(RedDetector):
    """Finds all that is red, in the box around it and a little more."""

    def _one(self, image, n_words):
        y, x = np.nonzero((image[..., 0] > 150) & (image[..., 1] < 100))
        box = [x.min() - 4, y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 1, 1]
        return Detections(np.array([box], np.float32), np.full((1, n_words), float(len(x) > 20), np.float32))


boxes = st.tuples(*[st.floats(-5, 60)] * 4).map(lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])))


@given(st.lists(st.tuples(boxes, st.floats(0, 1)), max_size=6), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_what_is_found_again_is_boxes_in_part_replaced_whose_score_is_above(found, seed, above):
    mask = np.random.default_rng(seed).random((40, 50)) < 0.3
    xyxy = np.array([box for box, _ in found], np.float32).reshape(-1, 4)
    scores = np.array([[score] for _, score in found], np.float32).reshape(-1, 1)
    left = found_again([Detections(xyxy, scores)], mask, above)
    assert left.shape == mask.shape
    assert not left.any() or (scores > above).any()
    assert (left & mask).any() == left.any()
    assert not found_again([Detections(xyxy, scores)], np.zeros_like(mask), above).any()
    assert not found_again([Detections(xyxy, scores)], np.ones_like(mask), above).any()
