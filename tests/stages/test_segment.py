"""Masks: GrabCut on drawn and real pictures, crops, and the gate."""

import io

import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis.extra import numpy as hnp
from PIL import Image
from vision import photograph_sample

from stages.images import crop_png, decode_mask, encode_mask, fill_holes, mask_extent
from stages.records import Box, Rejection, Sample
from stages.segment import Segment
from stages.segment.grabcut import GrabCut, clean
from stages.settings import SegmentSettings

WOMAN = (20.0, 12.0, 370.0, 510.0)
masks = hnp.arrays(bool, (14, 11))


def boxed(category="subject", box=WOMAN):
    sample = photograph_sample("astronaut", woman=category)
    sample.boxes = [Box(word="woman", category=category, frame=1, box_xyxy_px=box, score=0.7)]
    return sample


def box(word, *xyxy):
    return Box(word=word, category="object", frame=0, box_xyxy_px=xyxy, score=0.7)


@pytest.fixture(scope="module")
def segment():
    stage = Segment(SegmentSettings())
    stage.setup()
    yield stage
    stage.close()


@given(masks)
def test_run_length_codes_give_the_mask_back(mask):
    assert (decode_mask(encode_mask(mask)) == mask).all()


@given(masks)
def test_filling_holes_only_adds_and_leaves_none(mask):
    filled = fill_holes(mask)
    assert (filled >= mask).all()
    assert (fill_holes(filled) == filled).all()


@given(masks)
def test_a_clean_mask_has_no_specks(mask):
    cleaned = clean(mask)
    assert not cleaned.any() or cleaned.sum() >= 9


def test_a_drawn_disc_is_cut_out_exactly():
    y, x = np.mgrid[:200, :300]
    disc = (x - 150) ** 2 + (y - 100) ** 2 < 60**2
    picture = np.where(disc[..., None], (200, 40, 30), (60, 120, 70)).astype(np.uint8)
    (masks,) = GrabCut().segment([picture], [[box("ball", 88, 38, 212, 162)]])
    found, scores = masks.masks, masks.scores
    assert (found[0] & disc).sum() / (found[0] | disc).sum() > 0.95
    assert scores[0] > 0.8


def test_a_box_without_area_has_no_mask():
    boxes = [box("ball", 10, 10, 10, 10), box("ball", 500, 500, 512, 501)]
    (masks,) = GrabCut().segment([skimage.data.astronaut()], [boxes])
    found, scores = masks.masks, masks.scores
    assert not found.any() and (scores == 0).all()


def test_the_woman_of_the_portrait_is_cut_out(segment):
    [sample] = segment.process([boxed()])
    assert isinstance(sample, Sample)
    [instance] = sample.instances
    mask = decode_mask(instance.mask_rle)
    assert mask[150, 220] and mask[400, 200], "face and suit belong to her"
    assert not mask[60, 40] and not mask[60, 480], "the flag and the wall do not"
    assert mask[100, 150:165].any() and mask[250, 200], "hair and the dark ring of the suit belong to her too"
    assert instance.area_share == pytest.approx(mask.mean(), abs=1e-6)


def test_a_crop_has_the_pixels_of_the_frame_and_alpha_of_the_mask(segment):
    [sample] = segment.process([boxed()])
    [instance] = sample.instances
    mask = decode_mask(instance.mask_rle)
    x1, y1, x2, y2 = instance.crop_xyxy_px
    assert tuple(mask_extent(mask)) == instance.crop_xyxy_px
    crop = np.asarray(Image.open(io.BytesIO(instance.png)))
    assert (crop[..., :3] == sample.frames[1].rgb[y1:y2, x1:x2]).all()
    assert (crop[..., 3] == np.where(mask[y1:y2, x1:x2], 255, 0)).all()


def test_masks_are_the_same_whatever_was_segmented_before(segment):
    [first] = segment.process([boxed()])
    segment.process([boxed(box=(100.0, 100.0, 300.0, 300.0))])
    [again] = segment.process([boxed()])
    assert first.instances == again.instances


def test_a_clip_without_a_good_subject_mask_is_rejected_with_the_scores():
    stage = Segment(SegmentSettings(min_score=0.99))
    stage.setup()
    [row] = stage.process([boxed()])
    assert isinstance(row, Rejection) and row.reason == "low_mask_score"
    assert 0 < row.found["scores"]["woman"] < 0.99


def test_an_object_alone_does_not_keep_a_clip(segment):
    [row] = segment.process([boxed(category="object")])
    assert isinstance(row, Rejection) and row.reason == "low_mask_score"


def test_crops_encode_to_the_same_bytes():
    image = skimage.data.astronaut()
    mask = np.ones(image.shape[:2], bool)
    assert crop_png(image, mask, (5, 6, 50, 60)) == crop_png(image, mask, (5, 6, 50, 60))
