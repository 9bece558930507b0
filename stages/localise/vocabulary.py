"""Which of the detector's closed classes show a word of a caption.

In: a word or phrase and its category. Out: indices of COCO classes, none where the detector knows nothing like it. The table is
coco_words.yaml; the head of the phrase decides ("man in a red hat" is a man, "green-capped bottle" a bottle), found as the end
of what stands before the first preposition. Unknown subject words that name someone by a doing ("welder") count as persons.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import yaml

from stages.caption_text import as_read
from stages.records import Category

TABLE = Path(__file__).with_name("coco_words.yaml")
"""The readable table of words and classes."""
PERSON = 0
"""Index of the class "person"."""

_CUT = re.compile(
    r"\b(?:in|on|at|of|with|without|from|by|near|under|behind|beside|over|inside|for|to|who|that|which|wearing|holding)\b|[;(]"
)
_PARTITIVE = re.compile(r"^(?:an? )?(?:piece|slice|pair|bunch|loaf|kind|type|breed) of (?:an? )?")
_DOERS = re.compile(r"[a-z]{2,}(?:er|or|ist|ian|man|woman|boy|girl)$")


@cache
def _table() -> tuple[list[str], dict[str, tuple[int, ...]], frozenset[str]]:
    """Class names, word -> class indices (empty: known to have none), words that are no subjects."""
    raw = yaml.safe_load(TABLE.read_text("utf-8"))
    names: list[str] = raw["classes"]
    index = {name: i for i, name in enumerate(names)}
    words: dict[str, tuple[int, ...]] = {name: (i,) for name, i in index.items()}
    for classes, synonyms in raw["words"].items():
        indices = tuple(index[name] for name in classes.split(" | "))
        for word in synonyms:
            if word in words:
                raise ValueError(f"coco_words.yaml: {word!r} stands twice")
            words[word] = indices
    words.update(dict.fromkeys(raw["no_class"], ()))
    return names, words, frozenset(raw["not_subjects"])


def class_names() -> list[str]:
    """The 80 COCO classes in the order of the detector's outputs."""
    return _table()[0]


def head_phrase(word: str) -> str:
    """What a phrase is about, lower case: the part before its first preposition, behind "a piece of" and the like.

    "and" and commas do not end it: between the words of one phrase they join adjectives ("black and white dog").

    >>> head_phrase("Man in a red hat"), head_phrase("piece of cake on a plate")
    ('man', 'cake')
    """
    phrase = _PARTITIVE.sub("", " ".join(as_read(word).casefold().split()))
    before = _CUT.split(phrase, maxsplit=1)[0].strip()
    return before or phrase


@cache
def classes_of(word: str, category: Category) -> tuple[int, ...]:
    """COCO classes that show the word: of the longest end of its head phrase that the table knows; empty if none."""
    _, words, not_subjects = _table()
    tokens = head_phrase(word).split()
    for start in range(len(tokens)):
        phrase = " ".join(tokens[start:])
        if category == "subject" and phrase in not_subjects:
            return ()
        if phrase in words:
            return words[phrase]
    last = tokens[-1].rpartition("-")[2] if tokens else ""
    if last in words:
        return words[last]
    return (PERSON,) if category == "subject" and _DOERS.fullmatch(last) else ()


def is_human(word: str, category: Category) -> bool:
    """Whether the word names one person."""
    return classes_of(word, category) == (PERSON,)
