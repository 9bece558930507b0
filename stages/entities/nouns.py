"""Noun phrases of a caption: the candidates that the language model judges.

In: a caption. Out: `Noun`s in order, each the longest phrase of a head noun and its adjectives ("brown and white dog"). A
sentence of the caption's clean text is read by a Viterbi search over the classes of its words (lexicon.py) and the costs in
grammar.py.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from stages.caption_text import BREAK, clean
from stages.entities.grammar import (
    COMPLEX_PREPOSITION,
    DISAGREEMENT,
    FOLLOWS,
    LONE_VERB_AFTER_AND,
    NO_VERB,
    NOT_FOLLOWED,
    SECOND_VERB,
)
from stages.entities.lexicon import classes_of, is_plural, table

__all__ = ["Noun", "Token", "is_plural", "nouns", "small", "tag", "tokenize", "with_articles"]

TOKEN = re.compile(r"['’]s\b|[^\W_]+(?:['’-](?!s\b)[^\W_]+)*|[^\w\s]|_+|\n")
# adjectives joined by "and" ("c") or a comma to another, then adjectives and nouns up to the head; not after an auxiliary: "is
# red and"
PHRASE = re.compile(r"(?:(?<![AJR])J+[c,](?=[JNS]{2}|J[c,]))*[JNS]*[NS]")
# an adjective that is joined to one noun is a noun: "male and female", "an orange and a cup"
ALONE = re.compile(r"(?<![AR])J(?=(?:[c,]J)*[c,](?:[DM]|[NS](?![JNS])))")
VERBLESS = ("none", "joined", "plural")
ARTICLE = re.compile(r"\b(?:an?|the)\b", re.IGNORECASE)
BARE_BEHIND = "^IcTGVZP"  # classes (grammar.py)
SENTENCE_ENDS = ".!?;" + BREAK
LONGEST_SENTENCE = 200  # tokens; longer ones are read in parts


@dataclass(frozen=True)
class Noun:
    """A candidate phrase as it stands in the clean text, its case-folded head ("dog"), and whether it names several things.

    `start`: its place in the clean text, code points. `bare`: the class of the word behind which it lacks an article, "^" at
    the beginning of a sentence; "" if it lacks none.
    """

    phrase: str
    head: str
    plural: bool
    start: int = 0
    bare: str = ""


@dataclass(frozen=True)
class Token:
    """A word or punctuation mark and where it stands: code points, end exclusive."""

    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """Case-folded text."""
        return self.text.casefold()


def tokenize(text: str) -> list[Token]:
    """Words, with inner hyphens and apostrophes, and punctuation marks; a possessive 's is its own token, and a line's end."""
    letters = text if text.isascii() else "".join("x" if unicodedata.category(c)[0] == "M" else c for c in text)
    return [Token(text[match.start() : match.end()], match.start(), match.end()) for match in TOKEN.finditer(letters)]


def nouns(caption: str) -> list[Noun]:
    """The noun phrases of a caption, in order, repetitions included."""
    text = clean(caption).text
    masked = COMPLEX_PREPOSITION.sub(lambda match: "of".ljust(len(match.group())), text)
    out: list[Noun] = []
    sentence: list[Token] = []
    for token in [*tokenize(masked), Token(".", len(text), len(text))]:
        if token.text in SENTENCE_ENDS or len(sentence) == LONGEST_SENTENCE:
            out += _phrases(text, sentence)
            sentence = []
        if token.text not in SENTENCE_ENDS:
            sentence.append(token)
    return out


def with_articles(caption: str, found: list[Noun]) -> str:
    """The clean text in one line, for a model: "Cat on a couch" as "A cat on a couch", so that both are judged alike.

    `found`: the caption's nouns. A caption without any article gets them inside its sentences too ("Cat on couch").
    """
    text = clean(caption).text
    wanted = "^" if ARTICLE.search(text) else BARE_BEHIND
    for noun in reversed(found):
        if noun.bare and noun.bare in wanted:
            article = "an" if noun.phrase[0].casefold() in "aeiou" else "a"
            article = article.capitalize() if noun.bare == "^" else article
            text = f"{text[: noun.start]}{article} {small(noun)}{text[noun.start + len(noun.phrase) :]}"
    return " ".join(text.split())


def small(noun: Noun) -> str:
    """The phrase as it stands behind an article: one that began a sentence has a small letter, unless it is an abbreviation."""
    first = noun.phrase[:1] if noun.bare != "^" or noun.phrase[:2].isupper() else noun.phrase[:1].lower()
    return first + noun.phrase[1:]


def _phrases(text: str, tokens: list[Token]) -> list[Noun]:
    """Noun phrases of one sentence. Several owners are none: "the dogs' owner" shows an owner."""
    read = _settled([token.word for token in tokens])
    out = []
    for match in PHRASE.finditer(read):
        first, head = tokens[match.start()], tokens[match.end() - 1]
        before, cls, after = f"^{read}."[match.start()], read[match.end() - 1], f"{read}."[match.end()]
        if after == "'" and (cls == "S" or head.word in table("collectives.txt")):
            continue
        bare = before if cls == "N" and before in BARE_BEHIND else ""
        out.append(Noun(text[first.start : head.end], head.word, cls == "S" or before == "M", first.start, bare))
    return out


def _settled(words: list[str]) -> str:
    """The classes of a sentence's words, a letter each, with those words that a phrase takes as something else."""
    read = "".join(tag([*words, "."])[:-1])
    read = "".join("J" if read[i : i + 2] == "RJ" and word.endswith("ly") else read[i] for i, word in enumerate(words))
    alone = {i for i in (match.start() for match in ALONE.finditer(read)) if "N" in classes_of(words[i])}
    alone = {i for i in alone if i == 0 or words[i - 1] != "in"}  # "in black and"
    return "".join("N" if i in alone else cls for i, cls in enumerate(read))


def tag(words: list[str]) -> list[str]:
    """The class of each case-folded word of one sentence, by the cheapest path.

    The state is (class, clause). A clause has had no verb yet ("none"; "joined": but nouns joined by "and", or "two" of them;
    "plural": but a plural or joined noun before a preposition), a finite one ("finite"), or may take another ("again").
    """
    best: dict[tuple[str, str], tuple[float, tuple[str, ...]]] = {("^", "none"): (0.0, ())}
    for word in words:
        step: dict[tuple[str, str], tuple[float, tuple[str, ...]]] = {}
        for (before, clause), (cost, path) in best.items():
            for cls, own in classes_of(word).items():
                total = cost + own + _verb_cost(clause, before, cls) + FOLLOWS[before].get(cls, NOT_FOLLOWED)
                state = cls, _clause(clause, before, cls)
                if state not in step or total < step[state][0]:
                    step[state] = (total, (*path, cls))
        best = step
    return list(min((cost + (NO_VERB if clause in VERBLESS else 0.0), path) for (_, clause), (cost, path) in best.items())[1])


def _verb_cost(clause: str, before: str, cls: str) -> float:
    """What a word of class `cls` costs as a finite verb in a clause so far; 0 for what is none."""
    if cls not in "VZA" or before == "T":
        return 0.0
    if clause == "finite" and before != "A":
        return SECOND_VERB
    if clause in VERBLESS and before in "c,":
        return LONE_VERB_AFTER_AND
    return DISAGREEMENT[clause] if cls == "V" and before == "N" else 0.0


def _clause(clause: str, before: str, cls: str) -> str:
    """What the clause has had after a word of class `cls`."""
    if cls in "VZA" and before != "T":
        return "finite"
    if clause == "finite":
        return "again" if cls in "cC.," else clause
    if clause == "again" or (cls == "P" and before not in "^I"):
        return "again"
    if (cls == "c" and before in "NS") or (cls == "M" and before != "I"):
        return "joined"
    return "plural" if cls == "S" or (clause == "joined" and cls == "I") else clause
