"""The small grammar that nouns.py reads captions with: closed-class words, and what each word class likes to be followed by.

Word classes: D determiner, M one of several ("two"), J adjective, N noun, S plural noun, V verb (base form), Z verb (third
person), P past tense or participle, G -ing form, R adverb, I preposition, T "to", c "and", C another conjunction or relative,
X pronoun, A auxiliary, ' possessive, "," and ".".
Costs are ours, set by hand; a sentence's reading is the one with the least sum.
"""

from __future__ import annotations

import re


def _by_word(lines: dict[str, str]) -> dict[str, str]:
    return {word: classes for classes, words in lines.items() for word in words.split()}


CLOSED = _by_word(
    {
        "D": "a an the his its their my your our another each every some any no all other these those",
        "M": "two three four five six seven eight nine ten several many few various both",
        "DX": "her this one",
        "DC": "that",
        "I": "of in on at by with from into onto over under above below behind beside between among through across along around"
        " near against toward towards during for about after before off up down out inside outside past within without upon"
        " beneath underneath via per next amid alongside atop till until like",
        "T": "to",
        "JVI": "open close",
        "IX.": "@",  # "at", or an address (clean.py)
        "'": "'s",
        "'.": "'",  # behind "dogs" a possessive or a closing quotation mark: the reading decides
        "c": "and",
        "C": "or but while as when where who which whose if because than then so nor whom",
        "A": "is are was were be been being am has have had having do does did could would may might must should shall cannot",
        "AN": "can will",
        "X": "he she it they we you i him them us me himself herself itself themselves someone somebody something everyone"
        " everybody everything anyone anybody anything nobody nothing there here what mine yours ours theirs hers",
        "R": "very too also just still only together away not never always again outdoors indoors upstairs downstairs",
    }
)
"""word -> its possible classes."""

COMPLEX_PREPOSITION = re.compile(
    r"\b(?:in front of|on top of|instead of|in the direction of|by means of|with the help of|because of|next to"
    r"|in (?:the )?(?:middle|center|centre|background|foreground|back|front|distance|process|style|shape|form)(?: of)?"
    r"|at (?:the )?(?:edge|end|side|top|bottom|back|front|foot) of|on (?:the )?(?:edge|side|top|left|right|other side) of"
    r"|on (?:one|each|either|both) sides?(?: of)?|to (?:the )?(?:left|right|side)(?: of)?"
    r"|back and forth|side by side|from side to side"
    r"|an? lot of|(?:(?:an?|the) |(?<!\w )(?<!-))(?:pair|group|couple|bunch|number|variety|series|kind|type|sort|set|collection"
    r"|pile|row|line|stack|piece|slice|bit|close-?up|close up|view|shot|clip|video|footage|scene|picture|image|photo) of)\b",
    re.IGNORECASE,
)
"""Nouns inside these name no thing of their own: each is read as one preposition or quantifier (method: words without one)."""

NOT_FOLLOWED = 4.0
"""Cost of a pair of classes that FOLLOWS does not name."""


def _costs(line: str) -> dict[str, float]:
    costs = {pair[0]: float(pair[1:]) for pair in line.split()}
    alike = {",": ".", "c": "C", "M": "D"}
    return {**{cls: costs[like] for cls, like in alike.items() if like in costs}, **costs}


_AFTER_DETERMINER = "N0 S0 J0 D.3 R1.5"
_AFTER_CONJUNCTION = "D0 J.4 N.5 S.3 V.7 Z.2 P.7 G.5 I.5 X0 R.5 A.2 C.5 T.5"
_AFTER_VERB = "D0 J.5 N.7 S.4 I0 T0 R.3 X0 .0.3 C.3 G1 P2"
FOLLOWS = {
    before: _costs(line)
    for before, line in {
        "^": "D0 J.5 N.5 S0 V4 G1 P1.5 I.5 R.5 X0 C1 A5 T1",  # ^ begins a sentence; captions neither command nor ask
        "D": _AFTER_DETERMINER,
        "M": _AFTER_DETERMINER,
        "'": _AFTER_DETERMINER,
        "J": "N0 S0 J.2 C.3 ,.1 .1.2 I1.2 T1.2 R1.5 D2.5",
        "N": "N.5 S.6 '0 Z0 V0 P.4 G.2 I0 T0 C0 .0 J2 D2 R.4 X1.5 A0",
        "S": "N3 S4 '0 Z1.2 V0 P.4 G.2 I0 T0 C0 .0 J2 D2 R.4 X1 A0",
        "V": _AFTER_VERB,
        "Z": _AFTER_VERB,
        "G": "D0 J.5 N.7 S.4 I0 T0 R.3 X0 .0.3 C.3 G1.5 P2",
        "P": "D.3 J.8 N1 S.8 I0 T0 R.3 X.3 .0.3 C.3 G1 P2",
        "R": "D.3 J0 N1.5 S1 V.7 Z.7 P.5 G.5 I0 T0 C0 .0 R.5 X.5 A.5",
        "I": "D0 J.3 N.3 S.2 G.6 X0 I.3 T.3 R1 .1 C1 P1.5",
        "T": "D0 J.5 N.6 S.4 V0 X0 A.3 G1 R1",
        "c": _AFTER_CONJUNCTION,
        "C": _AFTER_CONJUNCTION,
        "X": "V.3 Z0 P0 G.5 I0 T0 C0 .0 R.2 A0 X1 D1 J1",
        "A": "P0 G0 V0 D0 J.2 R.2 I.2 T.2 X.3 A.2 N1 S1 .0.5 C.5",
        ".": "D0 J.4 N.5 S.3 V.8 Z.5 P.5 G.2 I.3 X0 R.3 A.5 C0 T.5 .0",
        ",": "D0 J.4 N.5 S.3 V.8 Z.5 P.5 G.2 I.3 X0 R.3 A.5 C0 T.5 .0",
    }.items()
}
"""class -> class that follows -> cost."""

UNUSUAL = 1.0
"""Cost of a class that a word can have but usually has not."""
RARE_VERB = 0.5
"""Cost of a third person whose base form is mostly a noun."""
NO_VERB = 1.4
"""Cost of a sentence without any verb. Captions often have none ("cat on a couch, slow motion"), sentences always."""
SECOND_VERB = 2.0
"""Cost of a second finite verb without a conjunction between."""
LONE_VERB_AFTER_AND = 4.0
"""Cost of a finite verb right behind "and" or a comma where no verb came before that it could be joined to."""
DISAGREEMENT = {"none": 5.0, "joined": 0.8, "plural": 2.5, "again": 2.5, "finite": 2.5}
"""Cost of a base form behind a singular noun ("dog park" is no clause), by what the clause has had: "a girl and a boy jump"."""
