"""Reference sampling: numbers, replacement, background and the limit of six."""

from collections import Counter

import numpy as np
import pytest

from trainer.data.references import Reference, choose

CROPS = {"dog": ["ref00", "ref01", "ref02"], "ball": ["ref03"]}
BACKGROUND = Reference("park", "background")
DRAWN = [choose(np.random.default_rng(seed), CROPS, BACKGROUND) for seed in range(6000)]


def test_references_come_from_their_words_crops_and_are_at_most_six() -> None:
    assert all(1 <= len(references) <= 6 for references in DRAWN)
    for references in DRAWN:
        assert all(ref == BACKGROUND or ref.member in CROPS[ref.word] for ref in references)


def test_the_background_comes_last_in_half_of_the_items() -> None:
    assert np.mean([BACKGROUND in references for references in DRAWN]) == pytest.approx(0.5, abs=0.02)
    assert all(references.index(BACKGROUND) == len(references) - 1 for references in DRAWN if BACKGROUND in references)


def test_numbers_of_subjects_and_crops_are_uniform_from_one_to_three() -> None:
    """With one word of one crop, the number of references is a sum of one to three numbers of one to three, cut at six."""
    drawn = Counter(len(choose(np.random.default_rng(seed), {"cat": ["ref00"]})) for seed in range(9000))
    exact = {1: 1 / 9, 2: 1 / 9 + 1 / 27, 3: 1 / 9 + 2 / 27 + 1 / 81, 4: 3 / 27 + 3 / 81, 5: 2 / 27 + 6 / 81}
    for number, share in exact.items():
        assert drawn[number] / 9000 == pytest.approx(share, abs=0.015), number


def test_crops_and_words_repeat() -> None:
    assert any(len(set(references)) < len(references) for references in DRAWN)
    first = Counter(references[0].word for references in DRAWN)
    assert first["dog"] / len(DRAWN) == pytest.approx(0.5, abs=0.03)


def test_a_sample_without_crops_may_still_give_its_background() -> None:
    drawn = [choose(np.random.default_rng(seed), {}, BACKGROUND) for seed in range(50)]
    assert {len(references) for references in drawn} == {0, 1}
    assert choose(np.random.default_rng(0), {}) == []


def test_the_same_seed_chooses_the_same() -> None:
    assert choose(np.random.default_rng(7), CROPS, BACKGROUND) == DRAWN[7]
