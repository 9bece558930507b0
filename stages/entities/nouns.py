"""Noun phrases of a caption: the candidates that the language model judges.

In: a caption. Out: `Noun`s in order, each the longest phrase of a head noun and its adjectives ("brown and white dog"). The
classes that a word can have come from lemminflect's lexicon, the usual one from textblob's, both shipped in their packages; a
sentence is read by a Viterbi search over the costs in grammar.py, so that no tagger model has to be downloaded.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from stages.entities.grammar import (
    CLOSED,
    COMPLEX_PREPOSITION,
    FOLLOWS,
    NO_VERB,
    NOT_FOLLOWED,
    PLURAL_DETERMINERS,
    SECOND_VERB,
    UNUSUAL,
)

TOKEN = re.compile(r"['’]s\b|[^\W_]+(?:['’-](?!s\b)[^\W_]+)*|[^\w\s]|_+")
# adjectives joined by "and" or a comma ("c"), then adjectives and nouns up to the head; not after an auxiliary ("is red and")
PHRASE = re.compile(r"(?:(?<![AJR])J+c)*[JNS]*[NS]")
MARKUP = re.compile(r"```.*?```|<[^<>]*>|\{[^{}]*\}|[\x00-\x08\x0e-\x1f\x7f]", re.DOTALL)
LONGEST_SENTENCE = 200  # tokens; longer ones are read in parts

LAST_LATIN = "\u024f"

PLURAL_ONLY = frozenset(
    [
        "people",
        "police",
        "cattle",
        "folk",
        "folks",
        "twins",
        "media",
        "clothes",
        "jeans",
        "trousers",
        "tights",
        "leggings",
        "pajamas",
        "pyjamas",
        "overalls",
        "glasses",
        "goggles",
        "scissors",
        "binoculars",
        "tongs",
        "pliers",
    ]
)
"""Plural in meaning although lemminflect lists them as lemmas."""


@dataclass(frozen=True)
class Noun:
    """A candidate phrase: verbatim text, its case-folded head ("dog"), and whether it names several things."""

    phrase: str
    head: str
    plural: bool


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
    """Words, with inner hyphens and apostrophes, and punctuation marks; a possessive 's is its own token."""
    return [Token(match.group(), match.start(), match.end()) for match in TOKEN.finditer(text)]


def is_plural(noun: str) -> bool:
    """Does the word only name several things? "people", "children", "glasses" do; "bus", "grass" and "fish" do not."""
    word = noun.casefold()
    if word in PLURAL_ONLY:
        return True
    singulars = lemmas(word).get("NOUN")
    if singulars is None:
        return word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word not in singulars


def readable(caption: str) -> str:
    """The caption for the model: without markup, code and control characters, which name nothing that is seen; one line."""
    return " ".join(MARKUP.sub(" ", caption).split())


def nouns(caption: str) -> list[Noun]:
    """The noun phrases of a caption, in order, repetitions included."""
    masked = MARKUP.sub(lambda match: ";".ljust(len(match.group())), caption)
    masked = COMPLEX_PREPOSITION.sub(lambda match: "of".ljust(len(match.group())), masked)
    out: list[Noun] = []
    sentence: list[Token] = []
    for token in [*tokenize(masked), Token(".", len(caption), len(caption))]:
        if token.text in ".!?;" or len(sentence) == LONGEST_SENTENCE:
            out += _phrases(caption, sentence)
            sentence = []
        if token.text not in ".!?;":
            sentence.append(token)
    return out


def _phrases(caption: str, tokens: list[Token]) -> list[Noun]:
    """Noun phrases of one sentence."""
    classes = tag([*(token.word for token in tokens), "."])[:-1]
    for i, token in enumerate(tokens):
        if token.word in ("and", ","):
            classes[i] = "c"
        elif classes[i : i + 2] == ["R", "J"] and token.word.endswith("ly"):
            classes[i] = "J"  # "dimly lit room"
    text = "".join(classes)
    out = []
    for match in PHRASE.finditer(text):
        first, head = tokens[match.start()], tokens[match.end() - 1]
        counted = match.start() > 0 and tokens[match.start() - 1].word in PLURAL_DETERMINERS
        out.append(Noun(caption[first.start : head.end], head.word, counted or text[match.end() - 1] == "S"))
    return out


def tag(words: list[str]) -> list[str]:
    """The class of each case-folded word of one sentence, by the cheapest path.

    The state is (class, clause): clause 0 has no verb yet, 1 has a finite one, 2 may take another.
    """
    best: dict[tuple[str, int], tuple[float, tuple[str, ...]]] = {("^", 0): (0.0, ())}
    for word in words:
        step: dict[tuple[str, int], tuple[float, tuple[str, ...]]] = {}
        for (before, clause), (cost, path) in best.items():
            for cls, own in classes_of(word).items():
                after, verb_cost = _clause(clause, before, cls)
                total = cost + own + verb_cost + FOLLOWS[before].get(cls, NOT_FOLLOWED)
                if (cls, after) not in step or total < step[cls, after][0]:
                    step[cls, after] = (total, (*path, cls))
        best = step
    return list(min((cost + (NO_VERB if clause == 0 else 0.0), path) for (_, clause), (cost, path) in best.items())[1])


def _clause(clause: int, before: str, cls: str) -> tuple[int, float]:
    """Clause state after a word of class `cls`, and what a second finite verb costs."""
    if cls in "VZA" and before != "T":
        return 1, SECOND_VERB if clause == 1 and before != "A" else 0.0
    if cls in "GP":
        return clause or 2, 0.0
    if cls in "C.," and clause == 1:
        return 2, 0.0
    return clause, 0.0


@functools.lru_cache(maxsize=65536)
def classes_of(word: str) -> dict[str, float]:
    """Possible classes of a case-folded word, with what each costs: 0 for the usual one."""
    if word in CLOSED:
        return dict.fromkeys(CLOSED[word], 0.0)
    if not word[0].isalpha():
        return {"D": 0.0} if word[0].isdigit() else {"," if word == "," else ".": 0.0}
    if word[0] > LAST_LATIN:
        return {"X": 0.0}  # another script: the grammar is English
    entry = lemmas(word) or lemmas(re.split(r"['’-]", word)[-1])
    found = set(_verb_classes(word, entry.get("VERB", ())))
    if "NOUN" in entry or not entry:
        found.add("S" if is_plural(word) else "N")
    if "ADJ" in entry or "-" in word:
        found.add("J")
    if "ADV" in entry:
        found.add("R")
    usual = usual_class(word)
    if usual in "SZ":
        usual = "SZ"  # textblob takes most third persons for plural nouns
    out = {cls: 0.0 if cls in usual else UNUSUAL for cls in sorted(found)}
    if found & {"G", "P"}:
        out.setdefault("J", UNUSUAL / 2)  # "a moving motorcycle", "a paved walkway"
    for verb, noun in ("VN", "ZS"):  # lemminflect has gaps ("pan", "bar"): short verbs are mostly nouns too
        if verb in out and noun not in out:
            out[noun] = 0.0 if noun in usual else 1.5 * UNUSUAL
    return out


def _verb_classes(word: str, bases: tuple[str, ...]) -> str:
    import lemminflect

    out = ""
    for base in bases:
        if word == base:
            out += "VJ" if word in lemminflect.getInflection(word, "VBN", inflect_oov=False) else "V"  # "a knit top"
        elif word.endswith("s"):
            out += "Z"
        else:
            out += "G" if word.endswith("ing") else "P"
    return out


@functools.lru_cache(maxsize=65536)
def lemmas(word: str) -> dict[str, tuple[str, ...]]:
    """Part of speech -> lemmas by lemminflect's lexicon; empty for a word that it does not know."""
    import lemminflect

    found: dict[str, tuple[str, ...]] = lemminflect.getAllLemmas(word)
    return found


def usual_class(word: str) -> str:
    """The class that a case-folded word has most often, by textblob's lexicon; a noun if it is not there."""
    penn = _usual_tags().get(word, "NNS" if word.endswith("s") else "NN")
    if penn.startswith("NN"):
        return "S" if penn.endswith("S") else "N"
    return {"VB": "V", "VBP": "V", "VBZ": "Z", "VBD": "P", "VBN": "P", "VBG": "G"}.get(
        penn, penn[0] if penn[0] in "JR" else "N"
    )


@functools.cache
def _usual_tags() -> dict[str, str]:
    """Word -> Penn tag. Only textblob's data file is read: importing the package would import all of nltk, one second."""
    spec = importlib.util.find_spec("textblob")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("textblob is not installed: run `make install`")
    text = (Path(spec.submodule_search_locations[0]) / "en" / "en-lexicon.txt").read_text(encoding="utf-8")
    lines = (line.split() for line in text.splitlines() if not line.startswith(";;;"))
    return {parts[0]: parts[1] for parts in lines if len(parts) == 2}
