"""Whatever a backend answers, its clips become samples, or `internal_error` by a sentence that says what is wrong.

Seen through the stages, with a backend that answers as it is told; the same in one batch with others and alone.
"""

import time

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lying_backends import ANSWER
from painted import SIZE, figure_sample

from stages.answers import BadAnswer, detect, segment
from stages.backends import Detections, Masks
from stages.background import CleanBackground
from stages.entities import Entities
from stages.faces import Faces
from stages.link import LinkInstances
from stages.localise import Localise
from stages.records import Box, Clip, Rejection, Sample
from stages.segment import Segment
from stages.settings import BackgroundSettings, EntitiesSettings, FacesSettings, LinkSettings, LocaliseSettings, SegmentSettings

LIAR = "lying_backends:Liar"
HEIGHT, WIDTH = SIZE
NAN, INF = float("nan"), float("inf")


def floats(values):
    return np.array(values, np.float32)


def boxed(row=0):
    sample = figure_sample(row)
    box = Box(word="figure", category="subject", frame=1, box_xyxy_px=(40.0, 30.0, 64.0, 60.0), score=0.7)
    sample.boxes = [box, box]
    return sample


def women(row=0):
    """As `boxed_twice`, of a person."""
    sample = boxed_twice(row)
    sample.boxes = [msgspec.structs.replace(box, word="woman") for box in sample.boxes]
    return sample


def boxed_twice(row=0):
    """In two frames of three."""
    sample = boxed(row)
    sample.boxes = [sample.boxes[0], msgspec.structs.replace(sample.boxes[0], frame=2)]
    return sample


def of_a_woman(row=0):
    sample = figure_sample(row)
    sample.instances[0].word = "woman"
    return sample


def worded(row=0):
    return Sample(clip=Clip(row=row, key=f"k{row}", source_id="s", uri="u", caption="A dog runs."))


def processed(stage, samples, given):
    ANSWER["is"] = given
    stage.setup()
    try:
        return stage.process(samples)
    finally:
        stage.close()


def localise():
    return Localise(LocaliseSettings(backend=LIAR))


def background():
    return CleanBackground(BackgroundSettings(backend=LIAR), LocaliseSettings(backend="painted:RedDetector"))


def watched_by_liar():
    return CleanBackground(BackgroundSettings(backend="painted:Filler"), LocaliseSettings(backend=LIAR))


def link():
    return LinkInstances(LinkSettings(backend=LIAR, faces={"backend": "none"}), LocaliseSettings())


def link_faces():
    return LinkInstances(
        LinkSettings(backend="colours", faces={"backend": LIAR}, people={"backend": "none"}), LocaliseSettings()
    )


def link_people():
    return LinkInstances(
        LinkSettings(backend="colours", faces={"backend": "none"}, people={"backend": LIAR}), LocaliseSettings()
    )


def segmenting():
    return Segment(SegmentSettings(backend=LIAR))


def faces():
    return Faces(FacesSettings(backend=LIAR))


def entities():
    return Entities(EntitiesSettings(backend=LIAR))


def each(answer):
    """The same answer for every image or request of a call, made anew."""
    return lambda first, *others: [answer() for _ in first]


BOX, SCORE = [[1, 2, 30, 40]], [[0.9]]


def detections(boxes=BOX, scores=SCORE):
    return each(lambda: Detections(floats(boxes), floats(scores)))


ANY_CALL = [
    (None, "None; want a list"),
    (lambda *asked: (answer for answer in ()), "a generator; want a list"),
    ("text", "a str; want a list"),
    ({}, "a dict; want a list"),
    (lambda *asked: [], "0 answers for "),
    (lambda first, *others: [1] * (len(first) + 1), " answers for "),
]
DETECTIONS = [
    (detections(scores=[[0.9] * 5] * 3), "scores of shape (3, 5); want (1, 1) float for 1 box and 1 word"),
    (detections(scores=[0.9]), "scores of shape (1,); want (1, 1) float"),
    (detections(boxes=[1, 2, 30, 40]), "boxes_xyxy_px of shape (4,); want (n, 4) float"),
    (detections(boxes=[[1, 2, 30, 40, 0]]), "boxes_xyxy_px of shape (1, 5)"),
    (detections(boxes=[], scores=[]), "boxes_xyxy_px of shape (0,)"),
    (detections(scores=[[NAN]]), "the score nan; want scores in [0, 1]"),
    (detections(scores=[[INF]]), "the score inf"),
    (detections(scores=[[1.5]]), "the score 1.5"),
    (detections(scores=[[-1]]), "the score -1"),
    (detections(boxes=[[NAN, 2, 30, 40]]), "the box (nan, 2, 30, 40); want finite numbers"),
    (detections(boxes=[[30, 2, 1, 40]]), "the box (30, 2, 1, 40); want x1, y1, x2, y2 with x1 <= x2 and y1 <= y2"),
    (detections(boxes=[[-1, 2, 30, 40]]), f"the box (-1, 2, 30, 40); want boxes clipped to the picture of {WIDTH}x{HEIGHT}"),
    (detections(boxes=[[1, 2, 30, HEIGHT + 1]]), "clipped to the picture"),
    (each(lambda: None), "None for an image; want stages.backends.Detections"),
    (each(lambda: (floats(BOX), floats(SCORE))), "a tuple for an image"),
    (each(lambda: Detections(BOX, SCORE)), "a list for boxes_xyxy_px; want a numpy array"),
    (each(lambda: Detections(np.array(BOX), floats(SCORE))), "boxes_xyxy_px of dtype int64; want (n, 4) float"),
    (each(lambda: Detections(floats(BOX), np.array(SCORE, object))), "scores of dtype object"),
]
DESCRIPTIONS = [
    (lambda images, boxes: [None for _ in images], "None for descriptions; want a numpy array"),
    (lambda images, boxes: [floats([1, 0]) for _ in images], "descriptions of shape (2,)"),
    (lambda images, boxes: [np.ones((len(own) + 1, 2), np.float32) for own in boxes], "descriptions of shape ("),
    (lambda images, boxes: [np.ones((len(own), 2), int) for own in boxes], "descriptions of dtype int64"),
    (lambda images, boxes: [np.full((len(own), 2), NAN, np.float32) for own in boxes], "numbers that are not finite"),
    (lambda images, boxes: [np.ones((len(own), 2 + n % 3), np.float32) for n, own in enumerate(boxes)], "of 3 and 4 numbers"),
]


def in_each_box(face):
    return lambda images, boxes: [[face] * len(own) for own in boxes]


RECOGNISED = [
    (lambda images, boxes: [None for _ in images], "None; want a list of one answer for each of the boxes"),
    (lambda images, boxes: [[None] * (len(own) + 1) for own in boxes], "answers for 0 boxes; want one for each"),
    (in_each_box(0.5), "a float for a face; want a numpy array (d,) float or None"),
    (in_each_box(floats([[1, 0]])), "a face of shape (1, 2); want (d,) float or None"),
    (in_each_box(np.array([1, 0])), "a face of dtype int64"),
    (in_each_box(floats([3, 4])), "a face of length 5; want 1"),
    (in_each_box(floats([NAN, 0])), "a face of length nan; want 1"),
    (lambda images, boxes: [[np.eye(2 + n % 3)[0] for _ in own] for n, own in enumerate(boxes)], "faces of 3 and 4 numbers"),
]
ALL = np.ones((2, HEIGHT, WIDTH), bool)
MASKS = [
    (each(lambda: None), "None for an image; want stages.backends.Masks"),
    (each(lambda: Masks(ALL[:1], floats([1, 1]))), f"masks of shape (1, {HEIGHT}, {WIDTH}); want (2, {HEIGHT}, {WIDTH}) bool"),
    (each(lambda: Masks(ALL.transpose(0, 2, 1), floats([1, 1]))), f"masks of shape (2, {WIDTH}, {HEIGHT})"),
    (each(lambda: Masks(ALL[:, None], floats([1, 1]))), f"masks of shape (2, 1, {HEIGHT}, {WIDTH})"),
    (each(lambda: Masks(ALL.astype(np.uint8), floats([1, 1]))), "masks of dtype uint8"),
    (each(lambda: Masks(ALL, floats([1]))), "scores of shape (1,); want (2,) float for 2 boxes"),
    (each(lambda: Masks(ALL, floats([1, NAN]))), "the score nan"),
    (each(lambda: Masks(ALL, [1.0, 1.0])), "a list for scores"),
]
PICTURE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
PICTURES = [
    (each(lambda: None), "None for a picture"),
    (each(lambda: PICTURE[:-1]), f"a picture of shape ({HEIGHT - 1}, {WIDTH}, 3); want ({HEIGHT}, {WIDTH}, 3) uint8"),
    (each(lambda: PICTURE[..., 0]), f"a picture of shape ({HEIGHT}, {WIDTH})"),
    (each(lambda: PICTURE / 255), "a picture of dtype float64"),
    (each(PICTURE.tolist), "a list for a picture"),
]
FACE = floats([1, 2, 30, 40])
A_FACE = [
    (3, "an int; want (box, score) or None"),
    ((FACE,), "a tuple; want (box, score)"),
    ((None, 0.9), "None for a box; want a numpy array (4,) float"),
    ((FACE[None], 0.9), "a box of shape (1, 4)"),
    ((FACE.astype(int), 0.9), "a box of dtype int64"),
    ((FACE, None), "None for a score; want a float"),
    ((FACE, FACE), "a ndarray for a score"),
    ((FACE, NAN), "the score nan"),
    ((FACE, 2.0), "the score 2"),
    ((FACE[::-1].copy(), 0.9), "want x1, y1, x2, y2 with"),
    ((FACE + 1000, 0.9), "clipped to the picture"),
]
VERIFIED = [
    (each(lambda: None), "None for scores; want a numpy array (0,) float for 0 boxes"),
    (lambda images, boxes: [np.ones((len(own), 1)) for own in boxes], "scores of shape (0, 1)"),
    (lambda images, boxes: [np.ones(len(own), int) for own in boxes], "scores of dtype int64"),
    (lambda images, boxes: [np.full(len(own), NAN) for own in boxes], "the score nan"),
    (lambda images, boxes: [np.full(len(own), 1.2) for own in boxes], "the score 1.2"),
]
TEXTS = [
    (each(lambda: None), "None; want text or an exception"),
    (each(lambda: b"{}"), "a bytes; want text"),
    (each(lambda: {"dog": "animal"}), "a dict; want text"),
]
CASES = [
    *[(localise, figure_sample, "localise", "localise", "detect", *case) for case in ANY_CALL + DETECTIONS],
    *[(watched_by_liar, figure_sample, "background", "localise", "detect", *case) for case in ANY_CALL + DETECTIONS],
    *[(link, boxed_twice, "link", "link", "describe", *case) for case in ANY_CALL + DESCRIPTIONS],
    *[(link_faces, women, "link", "link.faces", "recognise", *case) for case in ANY_CALL + RECOGNISED],
    *[(link_people, women, "link", "link.people", "verify", *case) for case in ANY_CALL + VERIFIED],
    *[(segmenting, boxed, "segment", "segment", "segment", *case) for case in ANY_CALL + MASKS],
    *[(background, figure_sample, "background", "background", "inpaint", *case) for case in ANY_CALL + PICTURES],
    *[(faces, of_a_woman, "faces", "faces", "detect_face", *case) for case in A_FACE],
    *[(entities, worded, "entities", "entities", "generate", *case) for case in ANY_CALL + TEXTS],
]


@pytest.mark.parametrize(("make", "sample", "name", "section", "method", "given", "said"), CASES)
def test_a_bad_answer_rejects_its_clip_by_a_sentence(make, sample, name, section, method, given, said):
    (row,) = processed(make(), [sample()], given)
    assert isinstance(row, Rejection)
    assert (row.stage, row.reason) == (name, "internal_error")
    assert row.message.startswith(f"{section}.backend {LIAR}: {method} gave ")
    assert said in row.message
    together = processed(make(), [sample(0), sample(1), sample(2)], given)
    assert [(other.row, other.message) for other in together] == [(n, row.message) for n in range(3)]


RIGHT = [
    (localise, figure_sample, detections()),
    (localise, figure_sample, each(lambda: Detections(floats(BOX).astype(np.float64), floats(SCORE).astype(np.float16)))),
    (localise, figure_sample, detections(boxes=[[0, 0, WIDTH, HEIGHT]], scores=[[1.00001]])),
    (watched_by_liar, figure_sample, detections(boxes=np.zeros((0, 4)), scores=np.zeros((0, 1)))),
    (link, boxed_twice, lambda images, boxes: [np.eye(2, dtype=np.float32)[: len(own)] for own in boxes]),
    (link, boxed_twice, lambda images, boxes: [np.eye(2)[: len(own)] if len(own) else np.zeros((0, 0)) for own in boxes]),
    (link_faces, women, in_each_box(None)),
    (link_faces, women, in_each_box(floats([0.6, 0.8]))),
    (link_faces, boxed_twice, in_each_box("of nobody")),
    (link_people, women, lambda images, boxes: [np.ones(len(own)) for own in boxes]),
    (segmenting, boxed, each(lambda: Masks(ALL, floats([1, 0.5])))),
    (segmenting, boxed, lambda images, boxes: (Masks(ALL, floats([1, 0.5])),) * len(images)),
    (background, figure_sample, each(lambda: PICTURE)),
    (faces, of_a_woman, None),
    (faces, of_a_woman, (FACE, 0.9)),
    (faces, of_a_woman, [FACE, np.float32(0.9)]),
    (entities, worded, each(lambda: '{"dog":"animal"}')),
]


@pytest.mark.parametrize(("make", "sample", "given"), RIGHT)
def test_what_the_protocol_promises_is_taken(make, sample, given):
    assert all(isinstance(row, Sample) for row in processed(make(), [sample(0), sample(1)], given))


def test_a_bad_answer_costs_no_other_clip():
    samples = [figure_sample(0), figure_sample(1, size=(64, 64), place=(10, 10)), figure_sample(2)]

    def given(images, words):
        score = [[NAN if image.shape[0] == 64 else 0.9] for image in images]
        return [Detections(floats(BOX), floats([one])) for one in score]

    rows = processed(localise(), samples, given)
    assert [isinstance(row, Sample) for row in rows] == [True, False, True]


def test_an_exception_in_the_place_of_an_answer_is_the_models_own():
    (row,) = processed(entities(), [worded()], each(lambda: RuntimeError("no luck")))
    assert (row.reason, row.message) == ("internal_error", "the language model failed: RuntimeError: no luck")


anything = st.recursive(
    st.none() | st.booleans() | st.floats(width=32) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=6,
)
arrays = st.lists(st.floats(width=32), max_size=12).flatmap(
    lambda values: st.sampled_from([(-1,), (-1, 4), (-1, 1), (1, -1)]).map(lambda shape: (values, shape))
)


def _array(drawn):
    values, shape = drawn
    n = len(values) - len(values) % 4
    return np.array(values[:n], np.float32).reshape(shape) if n else np.zeros((0, 4), np.float32)


image = np.zeros((30, 40, 3), np.uint8)
answers = anything | st.builds(Detections, anything | arrays.map(_array), anything | arrays.map(_array))


@given(st.lists(answers, max_size=2) | anything)
def test_any_answer_of_a_detector_is_right_or_a_bad_answer(given):
    class Told:
        def detect(self, images, words):
            return given

    try:
        (found,) = detect(Told(), "a detector", [image], [["word"]])
    except BadAnswer as bad:
        assert str(bad).startswith("a detector: detect gave ") and "\n" not in str(bad) and len(str(bad)) < 400
        return
    boxes, scores = found.boxes_xyxy_px, found.scores
    assert boxes.shape == (len(boxes), 4) and scores.shape == (len(boxes), 1)
    assert np.isfinite(boxes).all() and (boxes[:, :2] <= boxes[:, 2:]).all()
    assert (scores >= -0.001).all() and (scores <= 1.001).all()


def test_looking_at_answers_takes_no_time():
    """Of a slice of 1080p with the 900 boxes of GroundingDINO, and masks of ten boxes: well below a millisecond a picture."""
    picture = np.zeros((1080, 1920, 3), np.uint8)
    found = Detections(np.tile(floats([1, 2, 30, 40]), (900, 1)), np.full((900, 8), 0.5, np.float32))
    masks = Masks(np.zeros((10, 1080, 1920), bool), np.full(10, 0.5, np.float32))

    class Told:
        def detect(self, images, words):
            return [found] * len(images)

        def segment(self, images, boxes):
            return [masks] * len(images)

    began = time.process_time()
    detect(Told(), "d", [picture] * 48, [["w"] * 8] * 48)
    segment(Told(), "s", [picture] * 48, [["b"] * 10] * 48)
    assert time.process_time() - began < 48 * 0.001
