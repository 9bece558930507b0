"""Labels of boxes: inside the picture, none on another, near their boxes, none left out for which there is room."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from materia.report.labels import MOST_LABELS, place_labels


def crosses(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def rectangles(sizes, places):
    return [(*place, place[0] + size[0], place[1] + size[1]) for size, place in zip(sizes, places, strict=True) if place]


side = st.integers(-20, 120)
corner = st.tuples(st.integers(1, 60), st.integers(1, 30))


@given(
    st.lists(st.tuples(st.tuples(side, side, side, side), corner), max_size=9),
    st.tuples(st.integers(20, 90), st.integers(20, 90)),
)
def test_no_two_labels_meet_none_leaves_the_picture_and_one_is_left_out_only_where_there_is_no_room(labels, picture):
    boxes, sizes = [box for box, _ in labels], [size for _, size in labels]
    places = place_labels(boxes, sizes, picture)
    shown = rectangles(sizes, places)
    assert not any(crosses(a, b) for a, b in combinations(shown, 2))
    assert all(min(x0, y0) >= 0 and x1 <= picture[0] and y1 <= picture[1] for x0, y0, x1, y1 in shown)
    assert places == place_labels(boxes, sizes, picture)
    for (width, height), place in zip(sizes, places, strict=True):
        if place is None:  # every pixel is tried
            free = (
                (x, y)
                for x in range(picture[0] - width + 1)
                for y in range(picture[1] - height + 1)
                if not any(crosses((x, y, x + width, y + height), other) for other in shown)
            )
            assert next(free, None) is None


@given(st.permutations(range(5)))
def test_which_box_comes_first_in_the_list_changes_nothing(order):
    boxes = [(10, 12 + 7 * number, 60, 90) for number in range(5)]
    places = place_labels([boxes[number] for number in order], [(50, 14)] * 5, (200, 100))
    assert [places[order.index(number)] for number in range(5)] == place_labels(boxes, [(50, 14)] * 5, (200, 100))


def test_a_lone_label_stands_above_its_box_or_at_the_top_of_the_picture():
    assert place_labels([(30, 40, 80, 90)], [(40, 12)], (200, 100)) == [(30, 28)]
    assert place_labels([(30, 5, 80, 90)], [(40, 12)], (200, 100)) == [(30, 0)]
    assert place_labels([(190, 40, 200, 90)], [(40, 12)], (200, 100)) == [(160, 28)]


@pytest.mark.parametrize("box", [(8, 5, 150, 95), (0, 0, 200, 100)])
def test_labels_of_boxes_with_one_corner_stand_below_one_another(box):
    places = place_labels([box] * 4, [(60, 12)] * 4, (200, 100))
    assert sorted(places, key=lambda place: place[1]) == [(box[0], y) for y in (0, 12, 24, 36)]


def test_any_number_of_boxes_is_placed_in_bounded_time():
    places = place_labels([(5, 5, 50, 50)] * 5000, [(9, 4)] * 5000, (2000, 2000))
    assert sum(place is not None for place in places) == MOST_LABELS
