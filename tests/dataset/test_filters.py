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
