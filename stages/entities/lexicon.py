"""What is known of single words: their classes, their lemmas, whether they are plural; and the tables beside this module.

In: a case-folded word. The classes that it can have come from lemminflect's lexicon, the usual one from textblob's, both
shipped in their packages, so that no tagger model has to be downloaded.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

from stages.entities.grammar import CLOSED, RARE_VERB, UNUSUAL

TABLES = Path(__file__).parent
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


def is_plural(noun: str) -> bool:
    """Does the word only name several things? "people", "children", "glasses" do; "bus", "grass" and "fish" do not."""
    word = noun.casefold()
    if word in PLURAL_ONLY:
        return True
    singulars = lemmas(word).get("NOUN")
    if singulars is None:
        return word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word not in singulars


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
    if word in PLURAL_ONLY:
        found = {"S"}
    if "ADV" in entry:
        found.add("R")
    usual = usual_class(word)
    if usual in "SZ":
        usual = "SZ"  # textblob takes most third persons for plural nouns
    out = {cls: 0.0 if cls in usual else UNUSUAL for cls in sorted(found)}
    if "Z" in out and not any(usual_class(base) == "V" for base in entry["VERB"]):
        out["Z"] += RARE_VERB  # "plants", unlike "walks"
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


@functools.cache
def table(name: str) -> frozenset[str]:
    """The words of a table beside this module: one or more a line, # begins a remark."""
    lines = (TABLES / name).read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines for word in line.partition("#")[0].split())
