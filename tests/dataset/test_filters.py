"""Filters on the index: what they admit, and that nothing but a comparison is understood."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from materia.dataset.filters import FilterError, admitted

INDEX = pa.table(
    {
        "key": ["a", "b", "c", "d"],
        "n_subjects": [1, 2, 3, 2],
        "residual": [0.1, 0.5, None, 0.2],
        "subject_words": [["dog"], ["dog", "cat"], ["man"], []],
        "flags": [["still"], [], [], ["long", "still"]],
    }
)


@pytest.mark.parametrize(
    ("expression", "keys"),
    [
        ("subjects >= 2", "bcd"),
        ("subjects >= 2 and residual < 0.3", "d"),
        ("residual < 0.3 or subjects == 3", "acd"),
        ("1 < subjects <= 2", "bd"),
        ("'dog' in subject_words", "ab"),
        ("not ('still' in flags)", "bc"),
        ("key in ('a', 'c')", "ac"),
        ("residual > -1", "abd"),
    ],
)
def test_rows_are_admitted_as_the_expression_says(expression: str, keys: str) -> None:
    assert "".join(np.array(INDEX["key"].to_pylist())[admitted(INDEX, expression)]) == keys


@pytest.mark.parametrize(
    ("expression", "about"),
    [
        ("subject >= 2", "subjects"),
        ("__import__('os').system('true')", "no comparison"),
        ("subjects", "no comparison"),
        ("subjects >= 'two'", "compared"),
        ("key.upper() == 'A'", "neither a column"),
        ("subjects >=", "no expression"),
        ("", "no expression"),
    ],
)
def test_what_is_not_understood_is_named(expression: str, about: str) -> None:
    with pytest.raises(FilterError, match=about):
        admitted(INDEX, expression)


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_a_clear_error(text: str) -> None:
    try:
        assert admitted(INDEX, text).shape == (4,)
    except FilterError as error:
        assert "--where" in str(error)


VALUES = st.one_of(st.none(), st.integers(-3, 3), st.floats(-3, 3))
COMPARISONS = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


@given(st.lists(VALUES, min_size=1, max_size=8), st.sampled_from(sorted(COMPARISONS)), st.integers(-3, 3), st.booleans())
def test_a_comparison_is_pythons_row_by_row_and_false_where_a_value_is_missing(values, sign, constant, negated):
    table = pa.table({"a": pa.array(values, pa.float64())})
    expected = [value is not None and COMPARISONS[sign](value, constant) for value in values]
    expression = f"not (a {sign} {constant})" if negated else f"a {sign} {constant}"
    assert admitted(table, expression).tolist() == [truth != negated for truth in expected]


WORDS = st.text("ab .*%|\\'é狗", max_size=3)


@given(st.lists(st.lists(WORDS, max_size=3), min_size=1, max_size=6), WORDS, st.booleans())
def test_a_word_is_in_a_list_if_it_is_one_of_its_items(rows, word, negated):
    table = pa.table({"words": pa.array(rows, pa.list_(pa.string()))})
    expression = f"{word!r} {'not in' if negated else 'in'} words"
    assert admitted(table, expression).tolist() == [(word in row and word != "") != negated for row in rows]


UNLIKE = ["flags == ['still']", "key in subject_words", "n_subjects in flags", "'a' in key", "2 in ()"]


@pytest.mark.parametrize("expression", UNLIKE)
def test_what_arrow_cannot_compare_is_told(expression):
    with pytest.raises(FilterError, match="--where"):
        admitted(INDEX, expression)
