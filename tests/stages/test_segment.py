"""Masks: GrabCut on drawn and real pictures, crops, and the gate."""

import io
from typing import ClassVar

import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from vision import photograph_sample

import stages.segment
from stages.backends import Masks, Segmenter
from stages.images import crop_png, decode_mask, encode_mask, fill_holes, mask_extent
from stages.records import Box, Rejection, Sample
from stages.segment import Segment
from stages.segment.grabcut import GrabCut, clean
from stages.segment.tidy import tidy
from stages.settings import SegmentSettings

WOMAN = (20.0, 12.0, 370.0, 510.0)
masks = hnp.arrays(bool, (14, 11))
shares = st.sampled_from([0.0, 0.1, 0.5, 1.0])


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


@given(masks, shares, shares)
def test_tidying_keeps_the_largest_part_and_is_settled_after_once(mask, min_part, max_hole):
    tidied = tidy(mask, min_part, max_hole)
    assert (tidy(tidied, min_part, max_hole) == tidied).all()
    assert tidied.any() == mask.any()
    assert (tidied <= fill_holes(mask)).all()
    if not min_part and not max_hole:
        assert (tidied == mask).all()
    if max_hole == 0:
        assert (tidied <= mask).all()
    if min_part == 0:
        assert (tidied >= mask).all()


def test_specks_and_holes_go_by_their_share_of_the_mask():
    mask = np.zeros((40, 60), bool)
    mask[5:25, 5:25] = True  # 400 px
    mask[10:12, 10:12] = False  # a hole of 4 px
    mask[15:21, 15:21] = False  # and of 36
    mask[30:36, 30:36] = True  # a speck of 36
    mask[25, 25] = True  # one that touches by a corner belongs to the part
    without_speck = tidy(mask, 0.2, 0)
    assert not without_speck[30:36, 30:36].any() and without_speck[25, 25]
    filled = tidy(mask, 0, 0.02)
    assert filled[10:12, 10:12].all() and not filled[15:21, 15:21].any()
    assert tidy(mask, 1, 1)[5:25, 5:25].all()
    open_to_the_edge = np.ones((9, 9), bool)
    open_to_the_edge[0:4, 4] = False
    assert (tidy(open_to_the_edge, 0, 1) == open_to_the_edge).all()


class BoxesAsMasks(Segmenter):
    """A mask is its box, with a hole and a speck; remembers how many frames it was asked for at a time."""

    calls: ClassVar[list[int]] = []

    def segment(self, images, boxes):
        self.calls.append(len(images))
        return [
            Masks(np.stack([self._mask(i.shape[:2], b) for b in w]), np.ones(len(w)))
            for i, w in zip(images, boxes, strict=True)
        ]

    def _mask(self, size, box):
        x1, y1, x2, y2 = map(int, box.box_xyxy_px)
        mask = np.zeros(size, bool)
        mask[y1:y2, x1:x2] = True
        mask[y1 + 5, x1 + 5] = False
        mask[-1, -1] = True
        return mask


def run_boxes_as_masks(**settings):
    BoxesAsMasks.calls.clear()
    stage = Segment(SegmentSettings(backend="test_segment:BoxesAsMasks", **settings))
    clips = [boxed(), boxed(category="object"), boxed(box=(100.0, 100.0, 300.0, 300.0)), boxed()]
    clips[2].boxes += [Box(word="woman", category="subject", frame=0, box_xyxy_px=(5.0, 6.0, 50.0, 60.0), score=0.5)]
    return stage.process(clips), list(BoxesAsMasks.calls)


def test_frames_of_all_clips_are_segmented_together_within_bounded_memory(monkeypatch):
    together, calls = run_boxes_as_masks()
    assert calls == [5]
    monkeypatch.setattr(stages.segment, "GROUP_BYTES", 2 * 512 * 512)
    apart, calls = run_boxes_as_masks()
    assert calls == [2, 2, 1]
    assert [type(row).__name__ for row in together] == ["Sample", "Rejection", "Sample", "Sample"]
    assert [i.frame for i in together[2].instances] == [0, 1]
    assert [getattr(row, "instances", None) for row in together] == [getattr(row, "instances", None) for row in apart]


def test_the_rules_for_specks_and_holes_hold_for_every_segmenter():
    areas = [
        decode_mask(run_boxes_as_masks(**rules)[0][0].instances[0].mask_rle).sum()
        for rules in ({}, {"min_part_share": 0.1}, {"max_hole_share": 0.1}, {"min_part_share": 0.1, "max_hole_share": 0.1})
    ]
    assert np.subtract(areas, areas[0]).tolist() == [0, -1, 1, 0]
