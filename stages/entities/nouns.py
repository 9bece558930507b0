"""Noun phrases of a caption: the candidate spans among which the language model chooses.

In: a caption. Out: `Noun`s in order, each a head noun with the spans that end in it, from the longest phrase ("brown and white
dog") to the bare head ("dog"). A word's possible classes come from lemminflect's lexicon, its usual one from textblob's; the
best reading of a sentence is found by a Viterbi search over the small cost table below (no trained model: nothing to download).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import lemminflect
from textblob.en import parser as textblob_parser

Span = tuple[int, int]


@dataclass(frozen=True)
class Noun:
    """A candidate noun phrase: verbatim text ("brown and white dog"), where it stands (code points, end exclusive), its
    case-folded head ("dog"), and whether it names several things."""

    phrase: str
    span: Span
    head: str
    plural: bool


@dataclass(frozen=True)
class Token:
    """A word or punctuation mark of the caption, and where it stands."""

    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """Case-folded text."""
        return self.text.casefold()


TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]|_+")

# Classes: D determiner, J adjective, N noun, S plural noun, V verb (base form), Z verb (third person), P past tense or
# participle, G -ing form, R adverb, I preposition, T "to", C conjunction or relative, X pronoun, A auxiliary, . punctuation
CLOSED = {
    word: classes
    for classes, words in {
        "D": "a an the his its their my your our another each every some any no several many few all various both other"
        " two three four five six seven eight nine ten these those",
        "DX": "her this one",
        "DC": "that",
        "I": "of in on at by with from into onto over under above below behind beside between among through across along around"
        " near against toward towards during for about after before off up down out inside outside past within without upon"
        " beneath underneath via per next amid alongside atop till until like",
        "T": "to",
        "JVI": "open close",
        "C": "and or but while as when where who which whose if because than then so nor whom",
        "A": "is are was were be been being am has have had having does do did could would may might must should shall cannot",
        "AN": "can will",
        "X": "he she it they we you i him them us me himself herself itself themselves someone somebody something everyone"
        " everybody everything anyone anybody anything nobody nothing there here what mine yours ours theirs hers",
        "R": "very too also just still only together away not never always again around outdoors indoors upstairs downstairs"
        " slowly quickly",
    }.items()
    for word in words.split()
}

COMPLEX_PREPOSITION = re.compile(
    r"\b(?:in front of|on top of|in the (?:middle|center|centre|background|foreground|back|front|distance|process|style|shape|form)(?: of)?"
    r"|at the (?:edge|end|side|top|bottom|back|front|foot) of|on the (?:edge|side|top|left|right|other side) of|instead of"
    r"|in the direction of|by means of|with the help of|because of|on (?:one|each|either|both) sides?(?: of)?"
    r"|to the (?:left|right|side)(?: of)?|back and forth|side by side|from side to side|a lot of|(?:a|the) (?:pair|group|couple|bunch|"
    r"number|variety|series|lot|kind|type|sort|set|collection|pile|row|line|stack|piece|slice|bit|close-up|closeup|close up|"
    r"view|shot|clip|video|footage|scene|picture|image|photo) of)\b",
    re.IGNORECASE,
)
"""Nouns inside these are no things: read as one preposition (or quantifier: method, entity words)."""

#        what follows:  cost; anything not named costs 3
FOLLOWS: dict[str, dict[str, float]] = {
    "^": dict(D=0, J=0.5, N=0.5, S=0, V=2, G=1, P=1.5, I=0.5, R=0.5, X=0, C=1, A=2, T=1),
    "D": dict(N=0, S=0, J=0, D=0.3, R=1.5),
    "J": {"N": 0, "S": 0, "J": 0.2, "C": 0.6, ",": 0.6, ".": 2, "I": 1.2, "T": 1.2, "R": 1.5, "D": 2.5},
    "N": {"N": 0.5, "S": 0.6, "Z": 0, "V": 2.5, "P": 0.4, "G": 0.2, "I": 0, "T": 0, "C": 0, ".": 0, "J": 2, "D": 2, "R": 0.4, "X": 1, "A": 0},
    "S": {"N": 3, "S": 4, "Z": 1.2, "V": 0, "P": 0.4, "G": 0.2, "I": 0, "T": 0, "C": 0, ".": 0, "J": 2, "D": 2, "R": 0.4, "X": 1, "A": 0},
    "V": {"D": 0, "J": 0.5, "N": 0.7, "S": 0.4, "I": 0, "T": 0, "R": 0.3, "X": 0, ".": 0.3, "C": 0.3, "G": 1, "P": 2},
    "G": {"D": 0, "J": 0.5, "N": 0.7, "S": 0.4, "I": 0, "T": 0, "R": 0.3, "X": 0, ".": 0.3, "C": 0.3, "G": 1.5, "P": 2},
    "P": {"D": 0.3, "J": 0.8, "N": 1, "S": 0.8, "I": 0, "T": 0, "R": 0.3, "X": 0.3, ".": 0.3, "C": 0.3, "G": 1, "P": 2},
    "R": {"D": 0.3, "J": 0.3, "N": 1.5, "S": 1, "V": 0.7, "Z": 0.7, "P": 0.5, "G": 0.5, "I": 0, "T": 0, "C": 0, ".": 0, "R": 0.5, "X": 0.5, "A": 0.5},
    "I": {"D": 0, "J": 0.3, "N": 0.3, "S": 0.2, "G": 0.6, "X": 0, "I": 0.3, "T": 0.3, "R": 1, ".": 1, "C": 1, "P": 1.5},
    "T": {"D": 0, "J": 0.5, "N": 0.6, "S": 0.4, "V": 0, "X": 0, "A": 0.3, "G": 1, "R": 1},
    "C": {"D": 0, "J": 0.4, "N": 0.5, "S": 0.3, "V": 0.7, "Z": 0.2, "P": 0.7, "G": 0.5, "I": 0.5, "X": 0, "R": 0.5, "A": 0.2, "C": 0.5, "T": 0.5},
    "X": {"V": 0.3, "Z": 0, "P": 0, "G": 0.5, "I": 0, "T": 0, "C": 0, ".": 0, "R": 0.2, "A": 0, "X": 1, "D": 1, "J": 1},
    "A": {"P": 0, "G": 0, "V": 0, "D": 0, "J": 0.2, "R": 0.2, "I": 0.2, "T": 0.2, "X": 0.3, "A": 0.2, "N": 1, "S": 1, ".": 0.5, "C": 0.5},
    ".": {"D": 0, "J": 0.4, "N": 0.5, "S": 0.3, "V": 0.8, "Z": 0.5, "P": 0.5, "G": 0.2, "I": 0.3, "X": 0, "R": 0.3, "A": 0.5, "C": 0, "T": 0.5, ".": 0},
}  # fmt: skip
FOLLOWS["Z"] = FOLLOWS["V"]
FOLLOWS[","] = FOLLOWS["."]
for _row in FOLLOWS.values():
    _row.setdefault(",", _row.get(".", 3.0))
UNUSUAL, NO_VERB, SECOND_VERB = 1.0, 4.0, 2.0


@functools.lru_cache(maxsize=65536)
def lemmas(word: str) -> dict[str, tuple[str, ...]]:
    """Part of speech -> lemmas of a word by lemminflect's lexicon; empty for a word that it does not know."""
    found: dict[str, tuple[str, ...]] = lemminflect.getAllLemmas(word)
    return found


def is_plural(noun: str) -> bool:
    """Does the word only name several things? "people", "children", "glasses" do; "bus", "grass" and "fish" do not."""
    word = noun.casefold()
    if word in PLURAL_ONLY:
        return True
    singulars = lemmas(word).get("NOUN")
    if singulars is None:
        return word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word not in singulars


PLURAL_DETERMINERS = frozenset("two three four five six seven eight nine ten several many few various both these those".split())

PLURAL_ONLY = frozenset(
    "people police cattle folk folks clergy jeans trousers glasses scissors binoculars clothes tongs pliers goggles tights leggings"
    " pajamas pyjamas overalls twins data media".split()
)
"""Plural in meaning although lemminflect lists them as their own lemma."""


@functools.lru_cache(maxsize=65536)
def classes_of(word: str) -> dict[str, float]:
    """Possible classes of a case-folded word, with what each costs: 0 for the usual one."""
    if word in CLOSED:
        return dict.fromkeys(CLOSED[word], 0.0)
    if not word[0].isalpha():
        return {"D": 0.0} if word[0].isdigit() else {"," if word == "," else ".": 0.0}
    entry = lemmas(word) or lemmas(re.split(r"['’-]", word)[-1])
    usual = _coarse(textblob_parser.find_tags([word])[0][1])
    out: dict[str, float] = {}

    if usual in "SZ":
        usual = "SZ"  # textblob guesses most third persons to be plural nouns

    def add(cls: str) -> None:
        out[cls] = 0.0 if cls in usual else UNUSUAL

    if "NOUN" in entry or not entry:
        add("S" if is_plural(word) else "N")
    if "ADJ" in entry or "-" in word:
        add("J")
    if "ADV" in entry or (not entry and word.endswith("ly")):
        add("R")
    for base in entry.get("VERB", ()):
        if word == base:
            add("V")
            if word in lemminflect.getInflection(word, "VBN", inflect_oov=False):  # "a knit top", "a cut flower"
                out.setdefault("J", UNUSUAL / 2)
        elif word.endswith("s"):
            add("Z")
        else:
            add("G" if word.endswith("ing") else "P")
            out.setdefault("J", UNUSUAL / 2)
    for verb, noun in ("VN", "ZS"):  # the lexicon has gaps ("pan", "bar"): most short verbs are nouns too
        if verb in out and noun not in out:
            out[noun] = 0.0 if noun in usual else 1.5 * UNUSUAL
    return out or {"N": UNUSUAL}


def _coarse(penn: str) -> str:
    table = {
        "NN": "N",
        "NNP": "N",
        "NNS": "S",
        "NNPS": "S",
        "VB": "V",
        "VBP": "V",
        "VBZ": "Z",
        "VBD": "P",
        "VBN": "P",
        "VBG": "G",
    }
    return table.get(penn, penn[0] if penn[0] in "JR" else "N")


def tag(words: list[str]) -> list[str]:
    """The cheapest class of each case-folded word of one sentence.

    The state is (class, clause): clause 0 has no finite verb yet, 1 has one, 2 may take another. A sentence without any verb
    costs NO_VERB, a second finite verb without a conjunction between costs SECOND_VERB.
    """
    best: dict[tuple[str, int], tuple[float, tuple[str, ...]]] = {("^", 0): (0.0, ())}
    for word in words:
        step: dict[tuple[str, int], tuple[float, tuple[str, ...]]] = {}
        for (before, clause), (cost, path) in best.items():
            for cls, own in classes_of(word).items():
                total = cost + own + FOLLOWS[before].get(cls, 3.0)
                after = clause
                if cls in "VZA" and before != "T":
                    total += SECOND_VERB if clause == 1 and before != "A" else 0
                    after = 1
                elif cls in "GP":
                    after = max(clause, 2) if clause != 1 else 1
                elif cls in "C.," and clause == 1:
                    after = 2
                if total < step.get((cls, after), (1e9, ()))[0]:
                    step[cls, after] = (total, (*path, cls))
        best = step
    _, path = min((cost + (NO_VERB if clause == 0 else 0), path) for (_, clause), (cost, path) in best.items())
    return list(path)


def tokenize(text: str) -> list[Token]:
    """Words (with inner hyphens and apostrophes) and punctuation marks."""
    return [Token(m.group(), m.start(), m.end()) for m in TOKEN.finditer(text)]


def nouns(caption: str) -> list[Noun]:
    """The head nouns of a caption, in order, each with its candidate phrases."""
    masked = COMPLEX_PREPOSITION.sub(lambda m: "of" + " " * (len(m.group()) - 2), caption)
    sentence: list[Token] = []
    out: list[Noun] = []
    for token in [*tokenize(masked), Token(".", len(caption), len(caption))]:
        if token.text in ".!?;":
            out += _sentence_nouns(caption, sentence)
            sentence = []
        else:
            sentence.append(token)
    return out


def _sentence_nouns(caption: str, tokens: list[Token]) -> list[Noun]:
    if not tokens:
        return []
    classes = tag([*(token.word for token in tokens), "."])[:-1]
    text = "".join(c if len(c) == 1 else "." for c in classes)
    # "and" and a comma join adjectives of one noun: "brown and white dog", "dimly lit, gray room"
    text = "".join("c" if tokens[i].word in ("and", ",") else c for i, c in enumerate(text))
    out = []
    for match in re.finditer(r"(?:(?<![AJR])J+c)*[JNS]*[NS]", text):
        head = tokens[match.end() - 1]
        if not head.text[-1].isalpha():
            continue
        start, end = tokens[match.start()].start, head.end
        plural = text[match.end() - 1] == "S" or _counted(tokens, match.start())
        out.append(Noun(caption[start:end], (start, end), head.word, plural))
    return out


def _counted(tokens: list[Token], start: int) -> bool:
    """Does a plural determiner stand before the phrase, as in "two fish"?"""
    return start > 0 and tokens[start - 1].word in PLURAL_DETERMINERS
