"""Masks by U2-Netp: real photographs, and GrabCut's masks where the network sees something else."""

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from materia.base.weights.files import weights_path
from stages.backends import build_backend
from stages.boxes import iou
from stages.images import mask_extent
from stages.records import Box
from stages.segment.grabcut import GrabCut
from stages.segment.u2netp import U2Netp

pytestmark = pytest.mark.skipif(
    not (weights_path("u2netp.onnx").is_file() and weights_path("person_mask.onnx").is_file()),
    reason="run `materia models pull --config local --set segment.backend=u2netp` first",
)


def boxed(*xyxy, word="cup"):
    return Box(word=word, category="object", frame=0, box_xyxy_px=xyxy, score=0.7)


@pytest.fixture(scope="module")
def u2netp():
    segmenter = build_backend("segment", "u2netp", {})
    segmenter.setup("cpu", 1)
    yield segmenter
    segmenter.close()


@pytest.fixture(scope="module")
def grabcut():
    segmenter = GrabCut()
    segmenter.setup("cpu", 1)
    yield segmenter
    segmenter.close()


def test_the_cat_is_cut_out_where_colours_do_not_tell(u2netp, grabcut):
    given = [skimage.data.chelsea()], [[boxed(25.0, 5.0, 451.0, 300.0, word="cat")]]
    [masks], [by_colour] = u2netp.segment(*given), grabcut.segment(*given)
    [mask], [score] = masks.masks, masks.scores
    assert mask[60:280, 100:280].mean() > 0.98, "brow, cheek and nose belong to it"
    assert not mask[100:280, 400:440].any() and score > 0.6
    assert by_colour.masks[0][60:280, 100:280].mean() < 0.9 and by_colour.scores[0] < score


def test_a_plain_picture_has_grabcuts_mask_and_score(u2netp, grabcut):
    picture = np.full((60, 80, 3), 128, np.uint8)
    given = [picture], [[boxed(0.0, 0.0, 80.0, 60.0), boxed(10.0, 10.0, 10.0, 10.0)]]
    ours, theirs = u2netp.segment(*given)[0], grabcut.segment(*given)[0]
    assert (ours.masks == theirs.masks).all() and (ours.scores == theirs.scores).all()


@settings(max_examples=6)
@given(st.integers(0, 500), st.integers(0, 300), st.integers(1, 300), st.integers(1, 300))
def test_a_mask_fits_its_box_no_worse_than_grabcuts(u2netp, grabcut, x, y, width, height):
    box = boxed(float(x), float(y), float(min(x + width, 600)), float(min(y + height, 400)))
    given = [skimage.data.coffee()], [[box]]
    [ours], [theirs] = u2netp.segment(*given), grabcut.segment(*given)
    assert fit(ours.masks[0], box) >= fit(theirs.masks[0], box) and 0 <= ours.scores[0] <= 1


def fit(mask, box):
    return float(iou(mask_extent(mask)[None], np.array([box.box_xyxy_px]))[0, 0]) if mask.any() else 0.0


def test_what_results_depend_on_are_both_networks(u2netp):
    assert u2netp.identity().keys() == {"weights", "person_mask"} and not u2netp.missing()
    assert [weights.address for weights in u2netp.weights()] == ["packaged://u2netp.onnx", "packaged://person_mask.onnx"]


def test_it_says_so_when_it_was_not_set_up():
    with pytest.raises(RuntimeError, match="before setup"):
        U2Netp().segment([skimage.data.coffee()], [[boxed(200.0, 10.0, 300.0, 300.0)]])
