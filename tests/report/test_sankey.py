"""The diagram of rows: what goes in comes out, and no label covers another."""

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from materia.dataset.stats import ReasonCount
from materia.report.page.flow import flow

reasons = st.lists(
    st.tuples(st.sampled_from(["source", "frames", "link", "my own"]), st.sampled_from("abcdefghij"), st.integers(1, 10**6)),
    unique_by=lambda one: one[:2],
    max_size=30,
)


@given(reasons, st.integers(0, 10**6))
def test_rows_are_kept_or_lost_and_labels_have_room(found, kept):
    total = kept + sum(count for _, _, count in found)
    if not total:
        return
    drawn = flow(total, kept, [ReasonCount(*one, one[2] / total) for one in found], 800, 250, 500)
    assert sum(part.rows for part in drawn.ends) == total
    assert sum(part.rows for part in drawn.stages) == total - kept
    scale = drawn.all[0].height / total
    assert all(abs(part.height - part.rows * scale) < 1e-6 for part in [*drawn.stages, *drawn.ends])
    assert len(drawn.ribbons) == len(drawn.stages) + len(drawn.ends)
    for column in (drawn.stages, drawn.ends):
        tops = [part.y for part in column]
        assert all(after - before > 20 for before, after in pairwise(tops))
        assert all(a.y + a.height <= b.y + 1e-6 for a, b in pairwise(column))
    assert all(part.y + part.height <= drawn.height for part in drawn.ends)


def test_stages_come_in_the_order_of_a_clips_way_and_reasons_by_their_number():
    counts = [("mine", "odd", 9), ("frames", "too_short", 1), ("source", "not_found", 2), ("frames", "unreadable", 5)]
    drawn = flow(20, 3, [ReasonCount(*one, 0.0) for one in counts], 800, 250, 500)
    assert [part.name for part in drawn.stages] == ["source", "frames", "mine"]
    assert [part.name for part in drawn.ends] == ["kept", "not_found", "unreadable", "too_short", "odd"]
    assert all(re.fullmatch(r"M[\d. ]+C[\d. ]+v[\d.]+C[\d. ]+z", ribbon.path) for ribbon in drawn.ribbons)
