"""Captions without a verb, as of alt texts and stock footage: the same words as with an article or a verb.

Verbless forms are made here by rule: of the article forms in tests/data/captions/fragments.txt by leaving out articles, of the
labelled captions, whose manifest MATERIA_LABELLED_CAPTIONS names, by leaving out in each row the words whose indices are listed
in tests/data/captions/labelled_verbs.json.
"""

import json
import os
from pathlib import Path

import pytest

from stages.entities.lexicon import lemmas
from stages.entities.nouns import nouns, tag, with_articles

DATA = Path(__file__).parents[1] / "data" / "captions"
LABELLED = os.environ.get("MATERIA_LABELLED_CAPTIONS")
ARTICLES = ("a", "an", "the")
NO_OBJECT = frozenset((DATA / "prepositions.txt").read_text().split())
EVERYDAY = (DATA / "everyday_nouns.txt").read_text().split()
FRAMES = (
    ("A {} on a gray couch", "{} on a gray couch"),
    ("A man and a {} on the beach", "Man and {} on the beach"),
    ("A {} and a man near a house", "{} and man near house"),
    ("A {}, slow motion, 4k", "{}, slow motion, 4k"),
    ("A {} with a red ball in a park", "{} with red ball in park"),
    ("A woman holding a {} in a kitchen", "Woman holding {} in kitchen"),
    ("A young {} next to a tree", "Young {} next to tree"),
    ("A view of a {}, drone footage", "View of {}, drone footage"),
)


def phrases(caption):
    return [noun.phrase.casefold() for noun in nouns(caption)]


def fragments():
    lines = (DATA / "fragments.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def without_first_article(caption):
    first, _, rest = caption.partition(" ")
    return rest[:1].upper() + rest[1:] if first.casefold() in ARTICLES else caption


def without_articles(caption):
    left = " ".join(word for word in caption.split() if word.casefold() not in ARTICLES)
    return left[:1].upper() + left[1:]


def without_words(caption, indices):
    """The caption without some of its words; "with" stands for those that had an object."""
    words = caption.split()
    out = []
    for i, word in enumerate(words):
        if i not in indices:
            out.append(word)
        elif i + 1 not in indices and i + 1 < len(words) and words[i + 1] not in NO_OBJECT:
            out.append("with")
    return " ".join(out)


def labelled_pairs(shorten):
    """Labels of clips (as tools/eval_entities.py reads them), each with its verbless caption."""
    if LABELLED is None:
        pytest.skip("needs MATERIA_LABELLED_CAPTIONS, the manifest of labelled captions that labelled_verbs.json was made for")
    verbs = json.loads((DATA / "labelled_verbs.json").read_text())
    labels = [json.loads(line) for line in Path(LABELLED).read_text().splitlines()]
    pairs = zip(labels, verbs, strict=True)
    return [(label, shorten(without_words(label["caption"], indices))) for label, indices in pairs]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Cat on a gray couch next to a pink pillow", ["cat", "gray couch", "pink pillow"]),
        ("Swan on a dark pond near a muddy bank", ["swan", "dark pond", "muddy bank"]),
        ("Toddler with a book on a bed", ["toddler", "book", "bed"]),
        ("Dog on a skateboard", ["dog", "skateboard"]),
        ("Man and dog on the beach", ["man", "dog", "beach"]),
        ("Golden retriever puppy, slow motion, 4k", ["golden retriever puppy", "slow motion"]),
        ("Aerial view of city, drone footage, 4k", ["aerial view", "city", "drone footage"]),
        ("Close up of bee on flower", ["bee", "flower"]),
        ("Male, female and child on sofa", ["male", "female", "child", "sofa"]),
        ("Orange and apple on a table", ["orange", "apple", "table"]),
        ("Fluffy brown and cream cat on a rug", ["fluffy brown and cream cat", "rug"]),
        ("Red, green and blue parrot in cage", ["red, green and blue parrot", "cage"]),
        ("Person in black clothes in swimming pool", ["person", "black clothes", "swimming pool"]),
        ("Smiling woman against building", ["smiling woman", "building"]),
        ("A woman in a city park", ["woman", "city park"]),
    ],
)
def test_nouns_need_no_article_and_no_verb(caption, expected):
    assert phrases(caption) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A girl in a skirt and a boy jump on a bed.", ["girl", "skirt", "boy", "bed"]),
        ("Two sheep watch a fish.", ["sheep", "fish"]),
        ("A woman poses.", ["woman"]),
        ("A man and a woman walk.", ["man", "woman"]),
        ("Watch the dog.", ["dog"]),
        ("A red convertible drives along a road.", ["red convertible", "road"]),
        ("A man in a white suit and glasses talks to the camera.", ["man", "white suit", "glasses", "camera"]),
    ],
)
def test_verbs_stay_verbs(caption, expected):
    assert phrases(caption) == expected


@pytest.mark.parametrize("shorten", [without_first_article, without_articles])
@pytest.mark.parametrize("caption", fragments())
def test_a_fragment_has_the_words_of_its_article_form(caption, shorten):
    assert phrases(shorten(caption)) == phrases(caption)


@pytest.mark.parametrize(("full", "bare"), FRAMES)
@pytest.mark.parametrize("word", EVERYDAY)
def test_an_everyday_noun_is_one_without_its_article(word, full, bare):
    text = bare.format(word)
    assert phrases(text[:1].upper() + text[1:]) == phrases(full.format(word))


def test_nearly_every_noun_of_the_lexicon_is_one_without_its_article():
    words = sorted(w for w in _lexicon() if len(w) > 2)[::20]
    pairs = [(full.format(word), bare.format(word)) for word in words for full, bare in FRAMES]
    same = sum(phrases(full) == phrases(bare) for full, bare in pairs)
    assert same / len(pairs) > 0.97


def _lexicon():
    """Nouns that are verbs too."""
    from stages.entities.lexicon import _usual_tags

    for word in _usual_tags():
        if word.isalpha() and word.islower() and all(word in lemmas(word).get(pos, ()) for pos in ("NOUN", "VERB")):
            yield word


@pytest.mark.parametrize("shorten", [without_first_article, without_articles])
def test_labelled_subjects_are_found_without_their_verb(shorten):
    pairs = labelled_pairs(shorten)
    missed = [
        label["id"]
        for label, verbless in pairs
        if not {word.split()[-1] for word in label["visible_subjects"]} <= {noun.head for noun in nouns(verbless)}
    ]
    assert len(missed) / len(pairs) <= 0.05, missed


@pytest.mark.parametrize(
    ("caption", "told"),
    [
        ("Cat on a couch", "A cat on a couch"),
        ("Orange cat on couch with ball", "An orange cat on a couch with a ball"),
        ("TV on the wall. Dog in front of it.", "A TV on the wall. A dog in front of it."),
        ("A cat on couch", "A cat on couch"),
        ("Dogs on grass", "Dogs on a grass"),
        ("Two dogs on the grass", "Two dogs on the grass"),
        ("Golden retriever puppy, slow motion, 4k", "A golden retriever puppy, slow motion, 4k"),
    ],
)
def test_the_model_is_told_captions_with_articles(caption, told):
    assert with_articles(caption, nouns(caption)) == told


def test_a_caption_without_verb_has_none():
    assert not set("VZA") & set(tag(["swan", "and", "duck", "on", "a", "dark", "pond", ",", "drone", "footage", "."]))
