"""A second look at boxes of people: photographs with a person and without one, and what that decides of a word's boxes."""

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from vision import needs_weights

from stages.frames import encode_jpeg
from stages.link import LinkInstances
from stages.link.movenet import INPUT_PX, MoveNet, letterbox
from stages.records import Box, Clip, EntityWord, Frame, Rejection, Sample, decode_rows, encode_rows
from stages.settings import LinkSettings, LocaliseSettings

pytestmark = needs_weights

ASTRONAUT, COFFEE = skimage.data.astronaut(), skimage.data.coffee()
HER_BOX = np.array([20, 12, 370, 510], np.float32)
HER, CUP = (20.0, 12.0, 370.0, 510.0), (602.0, 2.0, 1022.0, 422.0)


@pytest.fixture(scope="module")
def verifier():
    backend = MoveNet()
    assert backend.missing() == []
    backend.setup("cpu", 1)
    yield backend
    backend.close()


def score(verifier, image, box):
    ((found,),) = verifier.verify([image], [np.array([box], np.float32)])
    return float(found)


@pytest.mark.parametrize("scale", [1, 0.5, 0.2])
def test_a_person_is_seen_large_and_small_and_mirrored(verifier, scale):
    smaller = cv2.resize(ASTRONAUT, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    left, top, right, bottom = HER_BOX * scale
    mirrored = (smaller.shape[1] - right, top, smaller.shape[1] - left, bottom)
    assert score(verifier, smaller, HER_BOX * scale) > 0.6
    assert score(verifier, np.ascontiguousarray(smaller[:, ::-1]), mirrored) > 0.6


@pytest.mark.parametrize(
    ("photograph", "box"),
    [
        ("coffee", (150, 10, 430, 390)),
        ("chelsea", (0, 0, 440, 300)),
        ("rocket", (200, 50, 440, 420)),
        ("astronaut", (0, 0, 120, 300)),  # the flag beside her
        ("astronaut", (300, 250, 512, 512)),  # her arm
    ],
)
def test_nobody_is_seen_in_a_cup_a_cat_a_rocket_a_flag_and_in_an_arm(verifier, photograph, box):
    assert score(verifier, getattr(skimage.data, photograph)(), box) < 0.35


def test_answers_do_not_depend_on_what_else_is_asked(verifier):
    boxes = np.array([HER_BOX, (0, 0, 120, 300)], np.float32)
    both, none, one = verifier.verify([ASTRONAUT, COFFEE, ASTRONAUT], [boxes, boxes[:0], boxes[1:]])
    assert both.dtype == np.float32 and none.shape == (0,)
    assert both[1] == one[0]


@settings(max_examples=50)
@given(st.lists(st.floats(-20, 60, width=32), min_size=4, max_size=4), st.integers(1, 50), st.integers(1, 50))
def test_any_box_of_any_picture_has_a_place_in_the_input(sides, width, height):
    box = np.array([*np.minimum(sides[:2], sides[2:]), *np.maximum(sides[:2], sides[2:])], np.float32)
    blob, inner = letterbox(np.full((height, width, 3), 255, np.uint8), box)
    assert blob.shape == (1, INPUT_PX, INPUT_PX, 3) and blob.dtype == np.float32
    assert blob.min() >= -1 and blob.max() == 1
    assert (inner >= 0).all() and (inner <= INPUT_PX).all() and (inner[:2] <= inner[2:]).all()


def sample(her_score=0.45, cup_score=0.5, word="woman"):
    """Three times the astronaut beside a cup of coffee, and for the detector both are one, the cup rather."""
    picture = np.zeros((512, 1200, 3), np.uint8)
    picture[:, :512], picture[:400, 600:] = ASTRONAUT, COFFEE
    jpeg = encode_jpeg(picture, 95)
    boxes = [
        Box(word=word, category="subject", frame=frame, box_xyxy_px=place, score=found, chosen=place == CUP)
        for frame in range(3)
        for place, found in ((HER, her_score), (CUP, cup_score))
        if found
    ]
    return Sample(
        clip=Clip(row=0, key="k", source_id="s", uri="a.mp4", caption=f"A {word}"),
        entities=[EntityWord(word=word, category="subject", spans=[(2, 2 + len(word))])],
        frames=[Frame(percent=n, index=n, time_s=0.1 * n, jpeg=jpeg) for n in range(3)],
        boxes=boxes,
    )


def link(row, **people):
    stage = LinkInstances(LinkSettings(backend="colours", faces={"backend": "none"}, people=people), LocaliseSettings())
    assert stage.missing() == []
    stage.setup()
    (found,) = stage.process([row])
    stage.close()
    return found


def became(row):
    return {(box.box_xyxy_px, box.chosen, box.dropped) for box in row.boxes}


def test_a_word_shows_the_person_and_not_what_the_detector_took_for_one():
    row = link(sample())
    assert became(row) == {(HER, True, None), (CUP, False, "nobody_seen")}
    assert decode_rows(encode_rows([row])) == [row]
    assert became(link(sample(), backend="none")) == {(HER, False, None), (CUP, True, None)}


def test_what_the_detector_is_sure_of_is_believed():
    assert became(link(sample(cup_score=0.85))) == {(HER, False, None), (CUP, True, None)}
    assert became(link(sample(cup_score=0.85), min_score=0.56)) == {(HER, True, None), (CUP, False, "nobody_seen")}


def test_who_is_no_person_is_not_looked_at_again():
    assert became(link(sample(word="dog"))) == {(HER, False, None), (CUP, True, None)}


def test_a_clip_in_which_nobody_is_seen_is_rejected_and_says_so():
    row = link(sample(her_score=0))
    assert isinstance(row, Rejection) and (row.stage, row.reason) == ("link", "no_consistent_subject")
    assert "link.people.min_score 0.4" in row.message
    assert [(box["chosen"], box["dropped"]) for box in row.found["boxes"]] == [(False, "nobody_seen")] * 3


def test_links_as_published_load_no_verifier(monkeypatch):
    monkeypatch.setattr(MoveNet, "setup", lambda *_: pytest.fail("it was loaded"))
    stage = LinkInstances(LinkSettings(backend="none"), LocaliseSettings())
    assert stage.missing() == [] and not any(name.startswith("people.") for name in stage.identity())
    stage.setup()
    (row,) = stage.process([sample()])
    stage.close()
    assert became(row) == {(CUP, True, None)}
