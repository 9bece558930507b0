"""The method's rules on a model's answer, in its order: from JSON text to entity words, or a reason to reject the clip.

In: caption, the phrases that were asked about, answer. Out: entity words with all their spans, and (reason, message) or None.
The rules are invalid_output -> not_in_caption -> re-classify by table -> no_subject -> plural_subject (method: entity words).
The entities found so far are given back with a reason too, so that a rejection can show them.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable
from typing import NamedTuple

from stages.caption_text import Span, clean
from stages.entities.lexicon import is_plural, lemmas, table
from stages.entities.nouns import tokenize
from stages.records import Category, EntityWord

_short = reprlib.Repr()  # of any JSON value, for messages
_short.maxlevel, _short.maxdict, _short.maxlist, _short.maxstring = 2, 3, 3, 200


class Verdict(NamedTuple):
    """`reason` is None when the clip goes on; `message` says why not, and what would help."""

    entities: list[EntityWord]
    reason: str | None = None
    message: str = ""


def judge(
    caption: str, answer: str, kinds: dict[str, str], plural_heads: frozenset[str] = frozenset(), asked: Iterable[str] = ()
) -> Verdict:
    """Apply the rules to one answer.

    `kinds` maps what the model may say to a category or "none". `plural_heads`: case-folded phrases that the caption counts
    in plural ("two fish"). `asked`: the phrases that the answer must speak of. A phrase of the answer may be any whole-word
    span of the caption, asked for or not.
    """
    try:
        chosen = read_answer(answer, kinds, asked)
    except InvalidAnswer as invalid:
        return Verdict([], "invalid_output", str(invalid))
    spans = {word: places(caption, word) for word in chosen}
    for word, found in spans.items():
        if not found:
            return Verdict([], "not_in_caption", f"the model's word {word[:200]!r} is not in the caption")
    entities = _entities(caption, {word: reclassify(word, category) for word, category in chosen.items()}, spans)
    plural = {word for word, _ in entities if is_plural(head(word)) or word.casefold() in plural_heads}
    kept = [entity for word, entity in entities if entity.category != "object" or word not in plural]
    subjects = [(word, entity.word) for word, entity in entities if entity.category == "subject"]
    if not subjects:
        return Verdict(kept, "no_subject", "no human or animal in the caption: its motion is mostly camera motion")
    several = [shown for word, shown in subjects if word in plural or head(word) in table("collectives.txt")]
    if several:
        return Verdict(kept, "plural_subject", f"{several[0]!r} are several that cannot be told apart")
    return Verdict(kept)


class InvalidAnswer(ValueError):
    """An answer that is not what the JSON schema asks for; the message says what is wrong or missing."""


def read_answer(answer: str, kinds: dict[str, str], asked: Iterable[str] = ()) -> dict[str, str]:
    """Phrase -> category or "none". Raises InvalidAnswer unless the text is a JSON object that gives each `asked` phrase,
    however it is written, and every other one a known kind."""
    try:
        parsed = json.loads(answer)
    except (ValueError, RecursionError):
        raise InvalidAnswer(f"the model's answer is no JSON: {_short.repr(answer)}") from None
    if not isinstance(parsed, dict):
        raise InvalidAnswer(f"the model's answer is {_short.repr(parsed)}, not a JSON object of phrases and kinds")
    for phrase, kind in parsed.items():
        if not isinstance(kind, str) or kind not in kinds:
            raise InvalidAnswer(
                f"the model's answer gives {_short.repr(phrase)} the kind {_short.repr(kind)}, not one of {', '.join(kinds)}"
            )
    given = {_as_read(phrase) for phrase in parsed}
    if absent := [phrase for phrase in asked if _as_read(phrase) not in given]:
        raise InvalidAnswer(f"the model's answer lacks {', '.join(map(_short.repr, absent))}, for which a kind was asked")
    return {phrase: kinds[kind] for phrase, kind in parsed.items()}


def _as_read(phrase: str) -> str:
    return clean(phrase).text.strip().casefold()


def occurrences(text: str, phrase: str) -> list[Span]:
    """Every place where the phrase stands in the text as whole words, in any case; code points, end exclusive."""
    tokens = tokenize(text)
    ends = {token.end for token in tokens}
    folded, length = phrase.casefold(), len(phrase)
    starts = (token.start for token in tokens)
    return [(s, s + length) for s in starts if length and s + length in ends and text[s : s + length].casefold() == folded]


def places(caption: str, phrase: str) -> list[Span]:
    """Every place of the phrase's words, however they are written in the caption ("wo&shy;man" is "woman"); code points of the
    caption as given, end exclusive, over whole graphemes and references."""
    read = clean(caption)
    return [read.place(start, end) for start, end in occurrences(read.text, clean(phrase).text.strip())]


def reclassify(word: str, category: str) -> str:
    """The category after the tables: some heads are always scenery ("cloud" is background, published), some no thing at all."""
    if category in ("subject", "object") and is_listed(word, "background_words.txt"):
        return "background"
    if category != "none" and is_listed(word, "no_things.txt"):
        return "none"
    return category


def is_listed(phrase: str, name: str) -> bool:
    """Whether a table has the phrase's head, as it stands or in the singular."""
    last = head(phrase)
    return not table(name).isdisjoint((last, *lemmas(last).get("NOUN", ())))


def head(phrase: str) -> str:
    """The last word of a noun phrase, case-folded."""
    return tokenize(clean(phrase).text)[-1].word


def _entities(caption: str, categories: dict[str, str], spans: dict[str, list[Span]]) -> list[tuple[str, EntityWord]]:
    """Words as the model wrote them and their entities, one a case-folded text, in the caption's order. A place inside a longer
    entity belongs to the longer one only; of several spellings of a word the plainest counts."""
    words = {word: category for word, category in categories.items() if category != "none"}
    out: dict[str, tuple[str, EntityWord]] = {}
    for word, category in sorted(words.items(), key=lambda item: spans[item[0]]):
        inside = [outer for other in words if len(other) > len(word) for outer in spans[other]]
        own = [(a, b) for a, b in spans[word] if not any(c <= a and b <= d for c, d in inside)]
        if own:
            start, end = min(own, key=lambda place: place[1] - place[0])
            text = caption[start:end]
            same = [(a, b) for a, b in own if caption[a:b].casefold() == text.casefold()]
            out.setdefault(text.casefold(), (word, EntityWord(word=text, category=_category(category), spans=same)))
    return sorted(out.values(), key=lambda found: found[1].spans)


def _category(name: str) -> Category:
    match name:
        case "subject" | "object" | "background":
            return name
    raise ValueError(f"{name!r} is no category")
