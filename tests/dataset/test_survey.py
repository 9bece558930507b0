"""Words that go together, and shards that are unlike the others."""

from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from samples import make_output

from materia.dataset import together
from materia.dataset.outliers import FAR, FEW, modified_z_scores
from materia.dataset.stats import collect
from materia.dataset.survey import survey
from materia.dataset.together import WordCounter

words = st.lists(st.sampled_from(["dog", "Dog", "cat", "ÄRA", "ära", "<b>"]), max_size=3)
rows = st.lists(st.tuples(words, words, words), max_size=12)


def table(found):
    columns = zip(*found, strict=True) if found else [[], [], []]
    return pa.table(
        {name: pa.array(list(column), pa.list_(pa.string())) for name, column in zip(together.COLUMNS, columns, strict=True)}
    )


@given(rows, st.integers(0, 12))
def test_words_and_pairs_are_counted_once_a_sample_however_the_rows_are_cut(found, cut):
    counter = WordCounter()
    counter.add(table(found[:cut]))
    counter.add(table(found[cut:]))
    summary = counter.summary()
    folded = [[{word.casefold() for word in words} for words in row] for row in found]
    for at, category in enumerate(("subject", "object", "background")):
        assert summary.words[category] == dict(Counter(word for row in folded for word in row[at]))
    for one in summary.together:
        at = ("object", "background").index(one.category) + 1
        assert one.samples == [sum(subject in row[0] and one.word in row[at] for row in folded) for subject in summary.subjects]
    assert {(one.category, one.word) for one in summary.together} == {
        (category, word) for category in ("object", "background") for word in summary.words[category]
    }


def test_the_rarest_words_are_forgotten_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(together, "_MAX_COUNTED", 40)
    counter = WordCounter()
    for number in range(100):
        counter.add(table([(["dog"], [f"thing {number}", "ball"], [])]))
    summary = counter.summary()
    assert summary.words["subject"] == {"dog": 100} and summary.words["object"]["ball"] == 100
    assert summary.together[0].samples == [100]


def test_the_most_frequent_words_are_those_of_the_statistics(tmp_path):
    make_output(tmp_path / "out", tmp_path / "clips", ["sr", "ss"])
    found, stats = survey(str(tmp_path / "out")), collect(str(tmp_path / "out"))
    for category, counted in stats.categories.items():
        assert list(found.words.words[category].items())[:12] == [(word.word, word.samples) for word in counted.top]
    assert found.shards.values["rows"].tolist() == [2, 2] and found.shards.values["kept_share"].tolist() == [0.5, 1.0]
    assert "residual" in found.shards.values and "min_link_score" not in found.shards.values


values = st.lists(st.integers(-1000, 1000), min_size=FEW, max_size=40).map(lambda numbers: np.array(numbers, float))


@given(values, st.integers(-1000, 1000), st.sampled_from([0.25, 2.0, 1024.0]))
def test_scores_do_not_depend_on_units(found, shift, scale):
    np.testing.assert_allclose(modified_z_scores(found * scale + shift), modified_z_scores(found), rtol=1e-6, atol=1e-9)


@given(values)
def test_at_most_half_of_all_are_far_and_what_is_missing_stays_so(found):
    scores = modified_z_scores(np.append(found, np.nan))
    assert np.isnan(scores[-1]) and not np.isnan(scores[:-1]).any()
    assert (np.abs(scores[:-1]) > FAR).sum() <= len(found) / 2


def test_one_of_many_is_far_also_where_the_others_are_all_the_same():
    normal = np.random.default_rng(0).normal(0.8, 0.02, 50)
    assert np.flatnonzero(np.abs(modified_z_scores(np.append(normal, 0.3))) > FAR).tolist() == [50]
    assert np.flatnonzero(np.abs(modified_z_scores(np.array([5.0] * 9 + [6.0]))) > FAR).tolist() == [9]
    assert not modified_z_scores(np.full(9, 5.0)).any()
    assert not modified_z_scores(np.array([0.0, 0.0, 0.0, 99.0])).any(), "of four, none can be told"
    assert modified_z_scores(np.array([1.0, 2, 3, 4, 9]))[-1] == 0.6745 * 6
