"""A pixel belongs to one instance: what masks share is shared out, and what is mostly another's is no reference."""

import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lying_backends import ANSWER
from vision import photograph_sample

from stages.backends import Masks
from stages.images import decode_mask
from stages.records import Box, Link, Rejection
from stages.segment import Segment
from stages.segment.exclusive import share_out
from stages.settings import SegmentSettings

CAT = skimage.data.chelsea()  # ginger fur
COINS = np.dstack([skimage.data.coins()] * 3)  # grey


def box(word, *xyxy, score=0.7, category="subject", frame=1):
    return Box(word=word, category=category, frame=frame, box_xyxy_px=xyxy, score=score)


def rectangle(*xyxy, size=(300, 380)):
    mask = np.zeros(size, bool)
    x1, y1, x2, y2 = xyxy
    mask[y1:y2, x1:x2] = True
    return mask


@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9)),
    st.randoms(use_true_random=False),
    st.sampled_from([0.3, 0.5]),
)
def test_no_pixel_is_of_two_and_none_is_new(masks, random, score):
    rgb = np.frombuffer(random.randbytes(masks[0].size * 3), np.uint8).reshape(*masks[0].shape, 3)
    boxes = np.tile(np.array([0, 0, *masks.shape[:0:-1]], np.float32), (len(masks), 1))
    shared = share_out(rgb, masks, boxes, [score] * len(masks))
    assert (shared.masks.sum(axis=0) <= 1).all() and not (shared.masks & ~masks).any()
    alone = (masks.sum(axis=0) == 1) & masks
    for mask, own, share in zip(masks, alone, shared.overlap, strict=True):
        assert share == pytest.approx((mask & ~own).sum() / max(1, mask.sum()))


def test_what_two_masks_share_goes_to_the_one_that_it_looks_like():
    """A cat before coins, 150 px of each; the masks reach 60 px into one another."""
    picture = np.hstack([CAT[:300, 100:250], COINS[:300, :150]])
    cat, coins = rectangle(0, 20, 210, 280, size=(300, 300)), rectangle(90, 20, 300, 280, size=(300, 300))
    boxes = np.array([[0, 20, 210, 280], [90, 20, 300, 280]], np.float32)
    shared = share_out(picture, np.stack([cat, coins]), boxes, [0.4, 0.8])
    right = shared.masks[0][20:280, 90:150].sum() + shared.masks[1][20:280, 150:210].sum()
    assert right / (260 * 120) > 0.95, "though the detector is surer of the coins"


def test_a_thing_in_front_of_somebody_is_the_things():
    person, cup = rectangle(40, 20, 300, 290), rectangle(120, 150, 180, 210)
    boxes = np.array([[40, 20, 300, 290], [120, 150, 180, 210]], np.float32)
    for order in ([0, 1], [1, 0]):
        shared = share_out(CAT[:300, :380], np.stack([person, cup])[order], boxes[order], [0.9, 0.3])
        found = dict(zip(order, shared.masks, strict=True))
        assert (found[1] == cup).all() and (found[0] == person & ~cup).all()


def test_one_thing_that_two_words_took_is_whose_box_is_surer():
    """Nearly the same mask twice: a teddy bear that was also taken for a person."""
    bear, person = rectangle(40, 20, 300, 290), rectangle(50, 20, 310, 290)
    boxes = np.array([[40, 20, 300, 290], [50, 20, 310, 290]], np.float32)
    shared = share_out(CAT[:300, :380], np.stack([bear, person]), boxes, [0.3, 0.6])
    assert (shared.masks[1] == person).all() and not (shared.masks[0] & person).any()


def test_a_part_by_itself_in_anothers_box_is_left_out():
    """Two people apart; a strip of the second one's clothes, inside their box, came with the first one's mask."""
    first = rectangle(10, 20, 150, 290) | rectangle(240, 60, 270, 200)
    second = rectangle(280, 20, 370, 290)
    boxes = np.array([[10, 20, 270, 290], [230, 20, 370, 290]], np.float32)
    shared = share_out(CAT[:300, :380], np.stack([first, second]), boxes, [0.6, 0.6])
    assert (shared.masks[0] == rectangle(10, 20, 150, 290)).all()


def cut(boxes, masks, *, linked=True, **values):
    sample = photograph_sample("chelsea", woman="subject", bear="object")
    sample.boxes = boxes
    sample.links = [Link(word="woman", score=None, second_best=None)] if linked else []
    stage = Segment(SegmentSettings(backend="lying_backends:Liar", min_score=0.5, **values))
    drawn = np.stack([np.pad(mask, ((0, 0), (0, 451 - mask.shape[1]))) for mask in masks])
    ANSWER["is"] = [Masks(drawn, drawn.any(axis=(1, 2)).astype(np.float32))]
    [row] = stage.process([sample])
    return row


def reasons(row):
    return {box.word: box.dropped for box in row.boxes}


def test_an_instance_that_is_mostly_somebody_elses_is_dropped_and_the_box_says_so():
    boxes = [box("woman", 40, 20, 300, 290, score=0.9), box("bear", 40, 20, 300, 280, score=0.3, category="object")]
    row = cut(boxes, [rectangle(40, 20, 300, 290), rectangle(40, 20, 300, 280)])
    assert [instance.word for instance in row.instances] == ["woman"]
    assert row.instances[0].overlap_share == pytest.approx(260 / 270, abs=1e-4)
    assert reasons(row) == {"woman": None, "bear": "somebody_elses"}


def test_what_a_dropped_instance_took_from_others_is_theirs_again():
    """The bear is the woman, its mask goes on where the sofa is; the sofa has that again."""
    boxes = [
        box("woman", 40, 20, 240, 290, score=0.9),
        box("bear", 40, 20, 260, 290, score=0.3, category="object"),
        box("sofa", 0, 0, 380, 300, score=0.3, category="object"),
    ]
    masks = [rectangle(40, 20, 240, 290), rectangle(40, 20, 260, 290), rectangle(0, 0, 380, 300)]
    row = cut(boxes, masks)
    found = {instance.word: decode_mask(instance.mask_rle)[:, :380] for instance in row.instances}
    assert set(found) == {"woman", "sofa"}
    assert (found["woman"] | found["sofa"]).sum() == 300 * 380, "no pixel of it is nobody's"


def test_no_subject_alone_is_a_reason():
    boxes = [box("woman", 40, 20, 300, 280, score=0.3), box("bear", 40, 20, 300, 290, score=0.9, category="object")]
    row = cut(boxes, [rectangle(40, 20, 300, 280), rectangle(40, 20, 300, 290)])
    assert isinstance(row, Rejection)
    assert (row.stage, row.reason) == ("segment", "no_subject_alone")
    assert "segment.max_lost_share 0.6" in row.message
    assert {found["word"]: found.get("dropped") for found in row.found["boxes"]} == {"woman": "somebody_elses", "bear": None}


@pytest.mark.parametrize("values", [{"linked": False}, {"exclusive": False}])
def test_masks_may_stay_as_they_are_drawn(values):
    boxes = [box("woman", 40, 20, 300, 290), box("bear", 100, 100, 200, 290, category="object")]
    masks = [rectangle(40, 20, 300, 290), rectangle(100, 100, 200, 290)]
    row = cut(boxes, masks, **values)
    for instance, mask in zip(row.instances, masks, strict=True):
        assert (decode_mask(instance.mask_rle)[:, :380] == mask).all() and instance.overlap_share is None


def test_boxes_say_why_they_gave_no_instance():
    boxes = [box("woman", 40, 20, 300, 290), box("bear", 310, 20, 316, 26, category="object")]
    assert reasons(cut(boxes, [rectangle(40, 20, 300, 290), rectangle(310, 20, 316, 26)])) == {
        "woman": None,
        "bear": "small_mask",
    }
    assert reasons(cut(boxes, [rectangle(40, 20, 300, 290), np.zeros((300, 380), bool)])) == {
        "woman": None,
        "bear": "low_mask_score",
    }
