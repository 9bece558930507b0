"""Filters on the index: what they admit, and that nothing but a comparison is understood."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from materia.dataset.filters import FilterError, admitted

INDEX = pa.table(
    {
        "key": ["a", "b", "c", "d"],
        "n_subjects": [1, 2, 3, 2],
        "residual": [0.1, 0.5, None, 0.2],
        "subject_words": [["dog"], ["dog", "cat"], ["man"], []],
        "flags": [["still"], [], [], ["long", "still"]],
        "frames": pa.array([4, 0, None, 3], pa.int32()),
        "caption": ["A dog.", "Two dogs", None, "50 % (a|b)*"],
        "big": pa.array([2**53, 2**53 + 1, -(2**63), 2**63 - 1]),
        "extra": [
            {"reviewer": "anna", "score": 0.7, "ok": True, "a.b": 1, "class": "x"},
            {"reviewer": "bob", "score": None, "ok": False, "a.b": 2, "class": "y"},
            {"reviewer": None, "score": 0.2, "ok": None, "a.b": None, "class": None},
            {"reviewer": "Anna", "score": 0.9, "ok": True, "a.b": 4, "class": "x"},
        ],
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
        ("n_subjects / frames > 0.3", "d"),
        ("n_subjects / 2 == 1.5", "c"),
        ("(n_subjects + frames) * 2 - 1 == 9", "ad"),
        ("-n_subjects < -1 and +n_subjects < 3", "bd"),
        ("-n_subjects in (-1, -3)", "ac"),
        ("1 / 0 == 1 or 0 / 0 == 0", ""),
        ("not 1 / frames < 0", "abcd"),
        ("1 / frames != 5", "ad"),
        ("'dog' in caption", "ab"),
        ("'Dog' in caption", ""),
        ("'dog' not in caption", "d"),
        ("'(a|b)*' in caption and '' in caption", "d"),
        ("extra.reviewer == 'anna' and extra.score > 0.5", "a"),
        ("extra.reviewer in ('anna', 'bob')", "ab"),
        ("'nn' in extra.reviewer", "ad"),
        ("extra['a.b'] + 1 == 3 or extra[\"class\"] == 'x'", "abd"),
        ("extra.ok", "ad"),
        ("not extra.ok and extra.score < 1", "c"),
        ("extra.ok == False", "b"),
        ("big == 9007199254740993", "b"),
        ("big in (9007199254740992,)", "a"),
        ("big > 0.5", "abd"),
        ("big < 9223372036854775808 and big >= -9223372036854775808", "abc"),
        ("n_subjects < 3000000000", "abcd"),
        (" or ".join(f"key == '{number}'" for number in range(500)) + " or key == 'a'", "a"),
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
        ("n_subjects ** 9 > 1", "neither a column"),
        ("n_subjects % 2 == 1", "neither a column"),
        ("key + key == 'aa'", "no number to calculate with, but text"),
        ("-key == 1", "no number to calculate with, but text"),
        ("n_subjects + True > 1", "no number to calculate with, but truth"),
        ("flags * 2 == 1", "no number to calculate with, but list of texts"),
        ("(1 / 2, n_subjects) == 1", "list of constants"),
        ("reviewer == 'anna'", "did you mean extra.reviewer"),
        ("extra.reviewr == 'anna'", "did you mean extra.reviewer"),
        ("extra.clas == 'x'", r"did you mean extra\['class'\]"),
        ("extra == 1", r"name one of its columns, e.g. extra\.reviewer"),
        ("extra[0] == 1", "neither a column"),
        ("extra.a.b == 1", "neither a column"),
        ("extra.class == 'x'", r'extra\["any name"\]'),
        ("key in caption", "a text in quotes is looked for in a column of texts"),
        (" or ".join(["key == 'a'"] * 5000), "too long"),
        ("n_subjects" + " + 1" * 200_000 + " > 1", "too long"),
        ("-" * 950 + "n_subjects > 1", "too long"),
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


UNLIKE = ["flags == ['still']", "key in subject_words", "n_subjects in flags", "key in 'a'", "key in key", "2 in ()"]


@pytest.mark.parametrize("expression", UNLIKE)
def test_what_arrow_cannot_compare_is_told(expression):
    with pytest.raises(FilterError, match="--where"):
        admitted(INDEX, expression)


COLUMNS = ("a", "b", "c")
NUMBERS = st.one_of(st.none(), st.integers(-6, 6), st.floats(-3, 3, width=16))


def calculations():
    leaf = st.sampled_from(COLUMNS) | st.integers(0, 9).map(str) | st.floats(0, 4, width=16).map(repr)
    return st.recursive(
        leaf,
        lambda part: (
            st.tuples(part, st.sampled_from("+-*/"), part).map(" ".join).map("({})".format)
            | st.tuples(st.sampled_from("+-"), part).map("".join).map("({})".format)
        ),
        max_leaves=6,
    )


COMPARED = st.tuples(calculations(), st.sampled_from(sorted(COMPARISONS)), calculations())


def python_says(comparison, row):
    """Of one row, what Python gives; false where a value is missing or nothing can be divided."""
    text = " ".join(comparison)
    try:
        return all(row[name] is not None for name in COLUMNS if name in text) and eval(text, {"__builtins__": {}}, row)
    except ZeroDivisionError:
        return False


@settings(max_examples=300)
@given(
    st.lists(st.tuples(*[NUMBERS] * 3), min_size=1, max_size=6), COMPARED, COMPARED, st.sampled_from(["and", "or", "and not"])
)
def test_calculations_are_pythons_row_by_row(rows, first, second, joined):
    # A column of integers that can be missing, one of doubles, and one of whole numbers of 32 bits.
    ints = [None if a is None else round(a) for a, _, _ in rows]
    table = pa.table(
        {"a": pa.array(ints, pa.int64()), "b": pa.array([b for _, b, _ in rows], pa.float64()),
         "c": pa.array([None if c is None else round(c) for _, _, c in rows], pa.int32())}
    )  # fmt: skip
    expected = []
    for row in table.to_pylist():
        one, other = python_says(first, row), python_says(second, row)
        expected.append({"and": one and other, "or": one or other, "and not": one and not other}[joined])
    assert admitted(table, f"{' '.join(first)} {joined} {' '.join(second)}").tolist() == expected


@given(st.lists(st.none() | st.text("ab .*%|\\'é狗", max_size=6), min_size=1, max_size=6), WORDS, st.booleans())
def test_a_text_is_in_a_text_as_in_python(texts, word, negated):
    table = pa.table({"caption": pa.array(texts, pa.string())})
    expression = f"{word!r} {'not in' if negated else 'in'} caption"
    assert admitted(table, expression).tolist() == [text is not None and (word in text) != negated for text in texts]


@given(st.text(max_size=8).filter(str.isprintable), st.integers(-5, 5))
def test_any_printable_name_can_be_written_in_brackets(name, value):
    table = pa.table({"extra": pa.array([{name: -1}, {name: value}, {name: None}])})
    assert admitted(table, f"extra[{name!r}] == {value}").tolist() == [value == -1, True, False]


@pytest.mark.parametrize(
    ("expression", "keys"),
    [
        ("residual is null", "c"),
        ("residual is not null and frames is not None", "abd"),
        ("not (caption is null)", "abd"),
        ("extra.score is null or extra['class'] is null", "bc"),
        ("1 / frames is null", "bc"),
        ("flags is null or subject_words is None", ""),
        ("subjects is not null", "abcd"),
    ],
)
def test_missing_values_are_asked_for_by_name(expression, keys):
    assert "".join(np.array(INDEX["key"].to_pylist())[admitted(INDEX, expression)]) == keys


@given(st.lists(VALUES, min_size=1, max_size=8), st.booleans())
def test_missing_is_what_python_calls_none(values, negated):
    table = pa.table({"a": pa.array(values, pa.float64())})
    expression = "a is not null" if negated else "a is null"
    assert admitted(table, expression).tolist() == [(value is None) != negated for value in values]
