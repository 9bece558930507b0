"""Which candidates of the three frames show the same individual, and one choice for all words of a clip."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from stages.frames import encode_jpeg
from stages.link import LinkInstances, groups
from stages.link.carry import carry
from stages.link.choice import LINK_WEIGHT, NO_LINK, NONE, choices_of, choose
from stages.link.colours import Colours
from stages.link.evidence import weigh
from stages.records import Box, Clip, EntityWord, Frame, Motion, Rejection, Sample, decode_rows, encode_rows
from stages.settings import LinkSettings, LocaliseSettings

PAIRS = [(0, 1), (1, 2), (0, 2)]


@st.composite
def clips(draw):
    """Fits of a few words to a few boxes of three frames, links between the boxes, and which boxes show one thing."""
    sizes = draw(st.lists(st.integers(0, 3), min_size=3, max_size=3))
    share = st.floats(0, 1, width=32).map(lambda value: round(value, 2))
    words = draw(st.integers(1, 3))
    fits = [[np.array(draw(st.lists(share, min_size=n, max_size=n)), np.float32) - 0.3 for n in sizes] for _ in range(words)]
    links = {
        (f, g): np.array(draw(st.lists(share, min_size=sizes[f] * sizes[g], max_size=sizes[f] * sizes[g]))).reshape(
            sizes[f], sizes[g]
        )
        for f, g in PAIRS
    }
    same = []
    for n in sizes:
        alike = np.eye(n, dtype=bool)
        for a, b in itertools.combinations(range(n), 2):
            alike[a, b] = alike[b, a] = draw(st.booleans())
        same.append(alike)
    return fits, links, same


def value_of(fit, links, boxes):
    taken = [(f, b) for f, b in enumerate(boxes) if b != NONE]
    value = sum(float(fit[f][b]) for f, b in taken)
    return value + sum(LINK_WEIGHT * (links[f, g][a, b] - NO_LINK) for (f, a), (g, b) in itertools.combinations(taken, 2))


def clash(all_boxes, same):
    return any(
        a[f] != NONE and b[f] != NONE and same[f][a[f], b[f]] for a, b in itertools.combinations(all_boxes, 2) for f in range(3)
    )


@settings(max_examples=60)
@given(clips())
def test_the_choice_is_the_best_of_all_that_are_possible(clip):
    fits, links, same = clip
    words = [choices_of(fit, [np.ones(len(part), bool) for part in fit], links) for fit in fits]
    chosen = choose(words, same)
    assert not clash(chosen, same)
    everything = [list(itertools.product(*[[NONE, *range(len(part))] for part in fit])) for fit in fits]
    best = max(
        sum(value_of(fit, links, boxes) for fit, boxes in zip(fits, combination, strict=True))
        for combination in itertools.product(*everything)
        if not clash(combination, same)
    )
    assert sum(value_of(fit, links, boxes) for fit, boxes in zip(fits, chosen, strict=True)) == pytest.approx(best, abs=1e-3)
    assert all(np.array_equal(a, b) for a, b in zip(chosen, choose(words, same), strict=True))


def test_twelve_words_of_one_class_and_five_individuals_are_chosen_quickly():
    fit = [np.full(5, 0.5, np.float32)] * 3
    links = {pair: np.where(np.eye(5, dtype=bool), 1.0, 0.1) for pair in PAIRS}
    word = choices_of(fit, [np.ones(5, bool)] * 3, links)
    chosen = choose([word] * 12, [np.eye(5, dtype=bool)] * 3)
    found = sorted(tuple(boxes.tolist()) for boxes in chosen)
    assert found == [(NONE,) * 3] * 7 + [(n,) * 3 for n in range(5)]


def test_a_box_that_no_surer_one_supports_is_not_taken():
    fit, sure = [np.array([0.1], np.float32)] * 3, [np.array([False])] * 3
    assert choices_of(fit, sure, {pair: np.ones((1, 1)) for pair in PAIRS}).boxes.tolist() == [[NONE] * 3]
    sure[1] = np.array([True])
    assert choices_of(fit, sure, {pair: np.ones((1, 1)) for pair in PAIRS}).boxes[0].tolist() == [0, 0, 0]


NO_FACES = np.full((2, 2), np.nan, np.float32)
LEFT, RIGHT = (10.0, 20.0, 60.0, 110.0), (100.0, 20.0, 150.0, 110.0)


def test_motion_tells_where_a_box_went_and_says_nothing_without_points():
    boxes = np.array([LEFT, RIGHT], np.float32)
    x, y = np.meshgrid(np.arange(12, 60, 6), np.arange(22, 110, 6))
    start = np.stack([x.ravel(), y.ravel()], 1).astype(np.float32)
    crossing = np.concatenate([start, start + np.float32([90, 0])], 1)
    alike = np.full((2, 2), 0.5, np.float32)
    found = weigh(boxes, boxes, crossing, None, alike, NO_FACES[:2, :2])
    assert found.motion[0, 1] == 1 and found.motion[0, 0] == 0
    assert found.score[0, 1] > 0.7 > 0.3 > found.score[0, 0]
    silent = weigh(boxes, boxes, np.zeros((0, 4), np.float32), None, alike, NO_FACES[:2, :2])
    assert np.isnan(silent.motion).all() and silent.score == pytest.approx(0.5)


def test_place_counts_as_far_as_the_camera_allows():
    boxes, alike = np.array([LEFT], np.float32), np.full((1, 1), 0.5, np.float32)
    panned = boxes + np.array([80, 0, 80, 0], np.float32)
    pan = np.array([[1.0, 0, 80], [0, 1, 0]])
    points = np.zeros((0, 4), np.float32)
    still = weigh(boxes, panned, points, np.array([[1.0, 0, 0], [0, 1, 0]]), alike, NO_FACES[:1, :1]).score[0, 0]
    assert weigh(boxes, panned, points, pan, alike, NO_FACES[:1, :1]).score[0, 0] > 0.6 > 0.5 > still


def test_a_face_decides_against_looks_and_place_but_not_alone_against_everything():
    boxes, still = np.array([LEFT], np.float32), np.array([[1.0, 0, 0], [0, 1, 0]])
    none, one = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
    points = np.zeros((0, 4), np.float32)
    assert weigh(boxes, boxes, points, still, one, none).score < 0.3 < 0.7 < weigh(boxes, boxes, points, None, none, one).score
    inside = np.tile(np.float32([35, 65]), (30, 2))
    followed = weigh(boxes, boxes, inside, still, one, none)
    assert followed.motion == 1 and followed.score > 0.4, "somebody who turned away looks like another"


def picture(left, right):
    """Two "people": rectangles of three colours each, before grey."""
    pixels = np.full((120, 160, 3), 127, np.uint8)
    for box, colours in ((LEFT, left), (RIGHT, right)):
        x1, y1, x2, y2 = map(int, box)
        for part, colour in zip(np.array_split(np.arange(y1, y2), 3), colours, strict=True):
            pixels[part[:, None], np.arange(x1, x2)[None]] = colour
    return pixels


ANNA = [(60, 40, 20), (200, 30, 40), (20, 30, 90)]
BERT = [(230, 200, 150), (30, 140, 60), (200, 200, 210)]


def test_colours_tell_people_apart_and_know_them_again():
    recogniser = Colours()
    boxes = np.array([LEFT, RIGHT], np.float32)
    first, second = recogniser.describe([picture(ANNA, BERT), picture(BERT, ANNA)], [boxes, boxes])
    assert np.linalg.norm(first, axis=1) == pytest.approx(1)
    low, high = recogniser.alike
    assert first[0] @ second[1] > high and first[0] @ second[0] < low
    (none,) = recogniser.describe([picture(ANNA, BERT)], [np.zeros((0, 4), np.float32)])
    assert none.shape == (0, first.shape[1])
    odd = np.array([[-5, -5, 3, 3], [159.6, 119.7, 160, 120], [30, 30, 30, 30]], np.float32)
    assert np.isfinite(recogniser.describe([picture(ANNA, BERT)], [odd])[0]).all()


def sample(boxes, words=("woman", "man"), motion=()):
    """Anna is left, then right, then left; Bert where she is not. `boxes`: (word, frame, box, score, chosen)."""
    pictures = [picture(ANNA, BERT), picture(BERT, ANNA), picture(ANNA, BERT)]
    return Sample(
        clip=Clip(row=0, key="k", source_id="s", uri="a.mp4", caption="A woman and a man"),
        entities=[EntityWord(word=word, category="subject", spans=[(0, 1)]) for word in words],
        frames=[
            Frame(percent=p, index=p, time_s=p / 10, jpeg=encode_jpeg(pixels, 95))
            for p, pixels in zip((5, 50, 95), pictures, strict=True)
        ],
        boxes=[Box(word=w, category="subject", frame=f, box_xyxy_px=b, score=s, chosen=c) for w, f, b, s, c in boxes],
        motion=list(motion),
    )


def everybody():
    """The published choice takes who is left for the woman and who is right for the man."""
    return [
        (word, frame, box, 0.8 if (box == LEFT) == (word == "woman") else 0.7, (box == LEFT) == (word == "woman"))
        for word in ("woman", "man")
        for frame in range(3)
        for box in (LEFT, RIGHT)
    ]


def by_colours(localise=LocaliseSettings(), **settings):  # noqa: B008
    painted = {"backend": "colours", "faces": {"backend": "none"}, "people": {"backend": "none"}}
    return LinkInstances(LinkSettings(**{**painted, **settings}), localise)


def link(one, **settings):
    stage = by_colours(**settings)
    stage.setup()
    (row,) = stage.process([one])
    stage.close()
    return row


def chosen(row):
    return {(box.word, box.frame): box.box_xyxy_px for box in row.boxes if box.chosen}


def test_each_word_is_one_individual_though_they_change_places():
    row = link(sample(everybody()))
    assert chosen(row) == {
        ("woman", 0): LEFT, ("woman", 1): RIGHT, ("woman", 2): LEFT, ("man", 0): RIGHT, ("man", 1): LEFT, ("man", 2): RIGHT
    }  # fmt: skip
    assert len(row.boxes) == 12  # the others stay on record
    assert {link.word: link.score > 0.7 for link in row.links} == {"woman": True, "man": True}
    assert all(box.link_score > 0.7 and box.evidence.appearance > 0.7 for box in row.boxes if box.chosen)
    assert all(box.link_score is None for box in row.boxes if not box.chosen)
    assert decode_rows(encode_rows([row])) == [row]


def test_two_who_fit_a_word_alike_are_told_to_be_ambiguous():
    assert "ambiguous_identity" in link(sample(everybody())).flags  # 0.73 and 0.77
    assert "ambiguous_identity" not in link(sample(everybody()), ambiguous_share=0.01).flags


def test_somebody_whom_no_word_names_makes_a_word_ambiguous_too():
    """One word, two people who stay where they are, seen equally well; then one of them hardly at all."""

    def row(other):
        boxes = [("woman", f, b, s, b == LEFT) for f in range(3) for b, s in ((LEFT, 0.8), (RIGHT, other))]
        return link(
            sample(
                boxes,
                ("woman",),
                [moved(f, g, np.concatenate([points_on(LEFT, (0, 0)), points_on(RIGHT, (0, 0))])) for f, g in PAIRS],
            )
        )

    assert [one.ambiguous for one in row(0.79).links] == [True]
    [one] = row(0.3).links
    assert not one.ambiguous and 0.3 < one.second_best < 0.9
    assert "ambiguous_identity" not in row(0.3).flags


def test_somebody_else_is_left_out_rather_than_taken_for_the_same():
    only = [("woman", 0, LEFT, 0.8, True), ("woman", 1, LEFT, 0.4, True), ("woman", 2, LEFT, 0.8, True)]
    assert chosen(link(sample(only, words=("woman",)))) == {("woman", 0): LEFT, ("woman", 2): LEFT}


def test_without_links_the_published_choice_stays_as_it_was():
    row = link(sample(everybody()), backend="none")
    assert chosen(row) == {(w, f): LEFT if w == "woman" else RIGHT for w in ("woman", "man") for f in range(3)}
    assert len(row.boxes) == 6 and not row.links and not row.flags


def test_a_box_that_holds_two_people_is_nobody():
    both = (5.0, 15.0, 155.0, 115.0)
    boxes = np.array([LEFT, RIGHT, both], np.float32)
    assert groups(boxes, np.ones(3, bool)).tolist() == [False, False, True]
    assert not groups(boxes, np.array([True, False, True])).any()
    head_and_arm = np.array([(25, 20, 40, 40), (50, 50, 60, 90), LEFT], np.float32)
    assert not groups(head_and_arm, np.ones(3, bool)).any()
    found = link(
        sample(
            [("woman", f, b, s, b == both) for f in range(3) for b, s in ((both, 0.9), (LEFT, 0.5), (RIGHT, 0.4))], ("woman",)
        )
    )
    assert both not in chosen(found).values()


def test_too_few_frames_with_an_individual_are_a_rejection():
    only = [("woman", 0, LEFT, 0.8, True), ("woman", 1, LEFT, 0.8, True)]
    stage = by_colours(LocaliseSettings(min_subject_frames=2))
    (row,) = stage.process([sample(only, words=("woman",))])
    assert isinstance(row, Rejection) and (row.stage, row.reason) == ("link", "no_consistent_subject")
    assert "in 1 of 3 frames" in row.message and "link.min_score" in row.message


def test_motion_outweighs_looks():
    """Anna's clothes do not change, but Bert's box is where her points went."""
    x, y = np.meshgrid(np.arange(12, 60, 5), np.arange(22, 110, 5))
    here = np.stack([x.ravel(), y.ravel()], 1).astype(np.float32)
    stays = [
        Motion(start=f, end=g, points=np.concatenate([here, here], 1).astype("<f4").tobytes())
        for f, g in ((0, 1), (1, 2), (0, 2))
    ]
    row = link(sample([box for box in everybody() if box[0] == "woman"], ("woman",), motion=stays))
    assert set(chosen(row).values()) == {LEFT}


def test_who_shares_the_batch_changes_nothing():
    alone = [link(sample(everybody())), link(sample(everybody()[:4]))]
    stage = by_colours()
    assert encode_rows(stage.process([sample(everybody()), sample(everybody()[:4])])) == encode_rows(alone)


def points_on(box, shift, scale=1.0):
    """Points that move from all over a box; its middle goes by `shift`."""
    x1, y1, x2, y2 = box
    middle = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
    x, y = np.meshgrid(np.linspace(x1 + 2, x2 - 2, 9), np.linspace(y1 + 2, y2 - 2, 9))
    start = np.stack([x.ravel(), y.ravel()], 1)
    return np.concatenate([start, middle + (start - middle) * scale + shift], 1).astype(np.float32)


@given(st.floats(-20, 20), st.floats(-10, 10), st.floats(0.7, 1.4), st.integers(0, 30))
def test_a_box_is_carried_where_its_points_go(dx, dy, scale, n_odd):
    box = np.array([60, 50, 100, 110], np.float32)
    points = points_on(box, (dx, dy), scale)
    points[:n_odd, 2:] += np.linspace(30, 90, n_odd)[:, None]  # less than half of them went elsewhere
    there = carry(box, points, (240, 320))
    middle, half = np.array([80 + dx, 80 + dy]), np.array([20, 30]) * scale
    expected = np.concatenate([middle - half, middle + half])
    assert there is not None and there.box == pytest.approx(expected, abs=1.0)
    assert 0.5 <= there.share <= 1


@pytest.mark.parametrize(
    "points",
    [
        points_on(LEFT, (0, 0))[:5],  # too few
        points_on(LEFT, (-60, 0)),  # it left the picture
        points_on(LEFT, (0, 0), 5.0),
        np.concatenate([points_on(LEFT, (0, 0)), points_on(RIGHT, (0, 0))])[:, [0, 1, 3, 2]],  # turned over: no way to move
        np.zeros((0, 4), np.float32),
    ],
    ids=["few", "left", "grew", "turned", "none"],
)
def test_a_box_is_not_carried_on_doubtful_ground(points):
    assert carry(np.array(LEFT, np.float32), points, (120, 160)) is None


def moved(start, end, points):
    return Motion(start=start, end=end, points=points.astype("<f4").tobytes())


def test_an_individual_that_the_detector_missed_is_carried_there_and_is_a_reference_only_if_that_is_asked_for():
    """Anna is left, right, left; in the second frame no box is found, but her points go there."""
    shift = (RIGHT[0] - LEFT[0], RIGHT[1] - LEFT[1])
    motion = [moved(0, 1, points_on(LEFT, shift)), moved(0, 2, points_on(LEFT, (0, 0)))]
    only = [("woman", 0, LEFT, 0.8, True), ("woman", 2, LEFT, 0.6, True)]
    row = link(sample(only, ("woman",), motion))
    [carried] = [box for box in row.boxes if box.carried]
    assert (carried.word, carried.frame, carried.score, carried.chosen) == ("woman", 1, 0.8, False)
    assert carried.box_xyxy_px == pytest.approx(RIGHT, abs=1)
    assert set(chosen(row)) == {("woman", 0), ("woman", 2)}
    row = link(sample(only, ("woman",), motion), carried=True)
    assert set(chosen(row)) == {("woman", 0), ("woman", 1), ("woman", 2)}
    assert all(box.link_score > 0.5 for box in row.boxes)
    assert decode_rows(encode_rows([row])) == [row]


def test_nobody_is_carried_to_where_somebody_else_is():
    shift = (RIGHT[0] - LEFT[0], RIGHT[1] - LEFT[1])
    boxes = [("woman", 0, LEFT, 0.8, True), ("man", 0, RIGHT, 0.8, True), ("man", 1, RIGHT, 0.8, True)]
    row = link(sample(boxes, motion=[moved(0, 1, np.concatenate([points_on(LEFT, shift), points_on(RIGHT, (0, 0))]))]))
    assert not any(box.carried for box in row.boxes)


def test_an_odd_one_that_was_left_out_is_marked():
    """In the second frame the box shows half of her."""
    beside = (RIGHT[0] - 30, RIGHT[1], RIGHT[2] - 30, RIGHT[3])
    only = [("woman", 0, LEFT, 0.9, True), ("woman", 1, beside, 0.9, True), ("woman", 2, LEFT, 0.9, True)]
    marks = {
        score: [(box.chosen, box.dropped) for box in link(sample(only, ("woman",)), min_score=score).boxes]
        for score in (0.0, 0.9)
    }
    assert marks[0.0] == [(True, None)] * 3
    assert marks[0.9] == [(True, None), (False, "odd_one"), (True, None)]


@pytest.mark.parametrize(("score", "kept"), [(0.34, False), (0.36, True)])
def test_an_object_that_is_nowhere_seen_surely_is_left_out(score, kept):
    boxes = [("woman", f, LEFT, 0.3, True) for f in (0, 2)] + [("bag", f, RIGHT, s, True) for f, s in ((0, score), (2, 0.3))]
    one = sample(boxes, words=("woman", "bag"))
    one.boxes = [replace(box, category="object") if box.word == "bag" else box for box in one.boxes]
    assert {word for word, _ in chosen(link(one))} == ({"woman", "bag"} if kept else {"woman"})
