"""Boxes: the word-to-box rule, the word table, and the detector on real photographs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from vision import needs_weights, photograph_sample

from stages.boxes import iou
from stages.localise import Localise, best_boxes
from stages.localise.nanodet import SAME_BOX_IOU, decode_boxes, distinct, letterbox, share_out
from stages.localise.vocabulary import class_names, classes_of, head_phrase, is_human
from stages.records import Rejection, Sample, decode_rows, encode_rows
from stages.settings import LocaliseSettings

unit = st.floats(0, 1, width=32)
score_matrices = hnp.arrays(np.float32, st.tuples(st.integers(0, 12), st.integers(0, 5)), elements=unit)


@given(score_matrices)
def test_every_box_serves_at_most_one_word_and_that_is_its_best(scores):
    boxes, best = best_boxes(scores)
    taken = boxes[boxes >= 0]
    assert len(set(taken.tolist())) == len(taken)
    for word, box in enumerate(boxes):
        if box >= 0:
            assert scores[box].argmax() == word
            assert best[word] == scores[box, word] > 0


@given(score_matrices)
def test_a_word_keeps_the_best_of_the_boxes_that_are_its_own(scores):
    boxes, best = best_boxes(scores)
    for word in range(scores.shape[1]):
        own = [scores[n, word] for n in range(len(scores)) if scores[n].argmax() == word]
        assert best[word] == max([0, *own])
        assert (boxes[word] == -1) == (best[word] == 0)


def test_ties_go_to_the_lower_index():
    boxes, _ = best_boxes(np.array([[0.5, 0.5], [0.5, 0.5], [0.1, 0.5]], np.float32))
    assert boxes.tolist() == [0, 2]


def test_the_table_names_the_80_classes_once():
    assert len(set(class_names())) == len(class_names()) == 80


@pytest.mark.parametrize(
    ("word", "category", "expected"),
    [
        ("Man in a red hat", "subject", ["person"]),
        ("paraglider pilot", "subject", ["person"]),
        ("welder", "subject", ["person"]),
        ("welder", "object", []),
        ("green-capped bottle", "object", ["bottle"]),
        ("beige teddy bear", "object", ["teddy bear"]),
        ("hot dog", "object", ["hot dog"]),
        ("brown dog", "subject", ["dog"]),
        ("fluffy brown and cream cat", "subject", ["cat"]),
        ("large, shaggy dog", "subject", ["dog"]),
        ("piece of cake", "object", ["cake"]),
        ("bat", "subject", []),
        ("bat", "object", ["baseball bat"]),
        ("sea lion", "subject", []),
        ("elk", "subject", ["horse", "sheep", "cow"]),
        ("red convertible", "object", ["car"]),
        ("violin", "object", []),
        ("", "object", []),
        ("of", "subject", []),
    ],
)
def test_the_head_of_a_phrase_decides_its_classes(word, category, expected):
    assert sorted(class_names()[i] for i in classes_of(word, category)) == sorted(expected)


@given(st.text(max_size=60), st.sampled_from(["subject", "object"]))
def test_any_text_has_classes_or_none(word, category):
    assert all(0 <= i < 80 for i in classes_of(word, category))
    head_phrase(word)


def test_humans_are_told_from_animals():
    assert is_human("little girl", "subject")
    assert not is_human("poodle", "subject")


def boxes_strategy(n):
    corner = hnp.arrays(np.float32, (n, 2), elements=st.floats(0, 100, width=32))
    size = hnp.arrays(np.float32, (n, 2), elements=st.floats(0, 50, width=32))
    return st.tuples(corner, size).map(lambda cs: np.concatenate([cs[0], cs[0] + cs[1]], axis=1))


@given(boxes_strategy(12), hnp.arrays(np.float32, 12, elements=unit))
def test_surviving_boxes_are_best_first_and_their_anchors_do_not_overlap(boxes, scores):
    kept, fused = distinct(boxes, scores)
    assert len(fused) == len(kept)
    assert (np.diff(scores[kept]) <= 0).all()
    overlaps = iou(boxes[kept], boxes[kept])
    assert (overlaps[~np.eye(len(kept), dtype=bool)] <= SAME_BOX_IOU).all()


@given(boxes_strategy(8), hnp.arrays(np.float32, 8, elements=unit), st.integers(1, 4))
def test_words_of_one_class_get_distinct_boxes_in_caption_order(boxes, scores, n_words):
    shared = share_out(boxes, np.repeat(scores[:, None], n_words, axis=1), [(0,)] * n_words)
    found, best = best_boxes(shared)
    assert (np.diff(best) <= 0).all()
    chosen = [box for box in found if box >= 0]
    overlaps = iou(boxes[chosen], boxes[chosen])
    assert (overlaps[~np.eye(len(chosen), dtype=bool)] <= SAME_BOX_IOU).all()


def test_words_of_other_classes_do_not_compete():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9]], np.float32)
    scores = np.array([[0.9, 0.2], [0.1, 0.8]], np.float32)
    assert (share_out(boxes, scores, [(0,), (16,)]) == scores).all()


def test_letterbox_keeps_the_aspect_and_centres():
    blob, scale, left, top = letterbox(np.full((100, 200, 3), 255, np.uint8))
    assert blob.shape == (1, 3, 416, 416)
    assert (scale, left, top) == (2.08, 0, 104)
    assert (blob[0, :, 103] == 0).all() and (blob[0, :, 104] > 1).all()


def test_box_bins_are_distances_in_strides():
    bins = np.full((13 * 13, 44), -50, np.float32)
    bins[:, [1, 11 + 2, 22 + 3, 33 + 4]] = 50  # left 1, top 2, right 3, bottom 4
    assert decode_boxes(bins, 32)[14].tolist() == [48 - 32, 48 - 64, 48 + 96, 48 + 128]


@pytest.fixture(scope="module")
def localise():
    stage = Localise(LocaliseSettings())
    stage.setup()
    yield stage
    stage.close()


@needs_weights
def test_a_woman_is_found_in_a_portrait_and_a_cat_in_a_close_up(localise):
    [portrait] = localise.process([photograph_sample("astronaut", woman="subject", rocket="object")])
    [close_up] = localise.process([photograph_sample("chelsea", cat="subject")])
    assert isinstance(portrait, Sample) and isinstance(close_up, Sample)
    women, cats = ([box for box in sample.boxes if box.chosen] for sample in (portrait, close_up))
    assert [(box.word, box.frame) for box in women] == [("woman", frame) for frame in range(3)]
    assert iou(np.array([women[1].box_xyxy_px]), np.array([[20.0, 10, 370, 510]]))[0, 0] > 0.8
    assert iou(np.array([cats[1].box_xyxy_px]), np.array([[0.0, 0, 440, 300]]))[0, 0] > 0.8


@needs_weights
def test_candidates_are_few_distinct_and_the_best_first(localise):
    [row] = localise.process([photograph_sample("coffee", person="subject", cup="subject", spoon="object")])
    assert decode_rows(encode_rows([row])) == [row]  # numbers of numpy's do not travel
    for word, frame in {(box.word, box.frame) for box in row.boxes}:
        own = [box for box in row.boxes if (box.word, box.frame) == (word, frame)]
        scores = [box.score for box in own if not box.chosen]
        assert len(own) <= 5 and [box.chosen for box in own][1:] == [False] * len(own[1:])
        assert scores == sorted(scores, reverse=True) and all(score > 0.2 for score in scores)
        places = np.array([box.box_xyxy_px for box in own])
        assert (iou(places, places) - np.eye(len(own)) <= 0.61).all()


@needs_weights
def test_a_false_caption_finds_nothing_and_says_what_was_looked_for(localise):
    [row] = localise.process([photograph_sample("astronaut", elephant="subject", violin="object")])
    assert isinstance(row, Rejection)
    assert (row.stage, row.reason) == ("localise", "no_instance")
    assert set(row.found["scores"]) == {"elephant", "violin"}
    assert "elephant" in row.message and "min_score" in row.message


@needs_weights
def test_boxes_lie_in_the_picture_and_are_the_same_every_time(localise):
    samples = [photograph_sample("coffee", person="subject", cup="subject", spoon="object") for _ in range(2)]
    first, second = localise.process(samples)
    assert first.boxes == second.boxes != []
    for box in first.boxes:
        x1, y1, x2, y2 = box.box_xyxy_px
        assert 0 <= x1 < x2 <= 600 and 0 <= y1 < y2 <= 400


@needs_weights
@pytest.mark.parametrize("limits", [{"min_area_share": 0.9}, {"max_area_share": 0.003}])
def test_boxes_outside_the_area_limits_are_dropped(limits):
    stage = Localise(LocaliseSettings(**limits))
    stage.setup()
    [row] = stage.process([photograph_sample("astronaut", woman="subject")])
    stage.close()
    assert isinstance(row, Rejection)
