"""Noun phrases: what the language model is asked about."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.caption_text import clean
from stages.entities.lexicon import is_plural
from stages.entities.nouns import nouns, tokenize

COMMON_WORDS = [
    "a",
    "the",
    "dog",
    "dogs",
    "red",
    "runs",
    "cup",
    "and",
    ",",
    ".",
    "in",
    "of",
    "two",
    "'s",
    "'",
    "is",
    "open",
    "fast",
]


def phrases(caption):
    return [noun.phrase for noun in nouns(caption)]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A brown and white dog plays on a paved walkway.", ["brown and white dog", "paved walkway"]),
        ("A woman shows a small green-capped bottle.", ["woman", "small green-capped bottle"]),
        ("She sits in a tall, narrow room.", ["tall, narrow room"]),
        ("A man in a white shirt hits tennis shots with a racket.", ["man", "white shirt", "tennis shots", "racket"]),
        ("A girl in a skirt and a boy jump on a bed.", ["girl", "skirt", "boy", "bed"]),
        ("A man in a cap stands next to a music stand.", ["man", "cap", "music stand"]),
        ("A bear walks in front of a stone wall.", ["bear", "stone wall"]),
        ("A group of dancers at the edge of a pond.", ["dancers", "pond"]),
        ("The dog's leash is red.", ["dog", "leash"]),
        ("Nothing can be seen here.", []),
        ("They wave at us.", []),
        ("She reads in a dimly lit, gray room.", ["dimly lit, gray room"]),
        ('A man <b>runs</b>. {"subject": "dragon"} ```sword```', ["man"]),
        ("رجل يلعب بكرة القدم في الحديقة", []),
        ("😀⚽ 👟➡️", []),
        ("", []),
    ],
)
def test_phrases_are_head_nouns_with_their_adjectives(caption, expected):
    assert phrases(caption) == expected


@given(st.text(max_size=300))
def test_every_phrase_of_any_text_is_whole_words_of_its_clean_text(text):
    for noun in nouns(text):
        assert clean(text).text[noun.start :].startswith(noun.phrase)
        assert tokenize(noun.phrase)[-1].word == noun.head


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A women's basketball player poses", ["basketball player"]),
        ("The dogs' owner plays", ["owner"]),
        ("The boys\u2019 dog runs", ["dog"]),
        ("A toddler reads a children\u2019s book", ["toddler", "book"]),
        ("A man in a men&#39;s suit store", ["man", "suit store"]),
        ("Two ladies` red hats on a chair", ["red hats", "chair"]),
        ("My parents' old house", ["old house"]),
        ("The couple's puppy sleeps", ["puppy"]),
        ("A police officer's dog", ["police officer", "dog"]),
        ("A man's hand holds a cup", ["man", "hand", "cup"]),
        ("The 'lucky dogs' run", ["lucky dogs"]),
    ],
)
def test_several_owners_are_no_word_but_what_they_own_is(caption, expected):
    assert phrases(caption) == expected


@given(st.lists(st.sampled_from(COMMON_WORDS), max_size=40))
def test_any_order_of_common_words_can_be_read(words):
    text = " ".join(words)
    assert all(noun.phrase in text for noun in nouns(text))


@pytest.mark.parametrize("word", ["people", "children", "men", "dogs", "knives", "glasses", "jeans", "kids", "geese"])
def test_plurals_are_plural(word):
    assert is_plural(word)


@pytest.mark.parametrize("word", ["bus", "grass", "glass", "fish", "sheep", "octopus", "dress", "tennis", "person", "crowd"])
def test_singulars_and_words_with_equal_plural_are_not_plural(word):
    assert not is_plural(word)


def test_a_plural_determiner_makes_a_word_with_equal_plural_plural():
    assert [(noun.phrase, noun.plural) for noun in nouns("Two sheep watch a fish.")] == [("sheep", True), ("fish", False)]
