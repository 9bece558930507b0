"""Text that is fit for a terminal."""

import pytest

from materia.base.terminal import plural


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (-1, "-1 rows"), (11, "11 rows"), (101, "101 rows")]
)
def test_only_one_is_singular(count, said):
    assert plural(count, "row") == said


def test_a_plural_that_is_no_noun_with_an_s_is_given():
    assert [plural(count, "index", "indices") for count in (1, 2)] == ["1 index", "2 indices"]
