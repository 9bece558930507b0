"""What a person reads of a caption, and where each of its characters stands in the caption as given.

In: a caption as it came: with HTML references, escapes of JSON, decomposed accents, invisible characters, tags, addresses. Out:
its clean text, composed letters and single spaces, in which words are found; a span of it is mapped back to whole graphemes of
the caption as given, so that what is written down stays verbatim.
"""

from __future__ import annotations

import functools
import html
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from html.entities import html5
from itertools import pairwise

Span = tuple[int, int]

BREAK = "\n"
"""Stands in a clean text where something was cut out: what lies before and behind are two sentences."""
ADDRESS = "@"
"""Stands for an address, of which a sentence can speak ("a cat from www.cats.org sleeps")."""
_CUT = "\x1e"  # a BREAK while the caption's own line ends still count
_MOST_ROUNDS = 4  # of escapes inside escapes: "&amp;amp;#39;" has three
_REFERENCE = re.compile(r"&(?:#\d{1,7};?|#[xX][0-9a-fA-F]{1,6};?|[A-Za-z][A-Za-z0-9]{1,31};?)")
_ESCAPE = re.compile(r"\\+(?:([nrt])|([\"'/])|u([0-9a-fA-F]{4}))")
# not drawn and not of the grapheme before [Unicode: Default_Ignorable_Code_Point without Grapheme_Extend, with the fillers]
_INVISIBLE = re.compile(
    r"[\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufff8"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e001f\U000e0080-\U000e00ff\U000e01f0-\U000e0fff]"
)
_UNDRAWN = re.compile(r"[\u034f\u180b-\u180d\u180f\u200c\u200d\ufe00-\ufe0f\U000e0020-\U000e007f\U000e0100-\U000e01ef]")
_INLINE_TAG = re.compile(r"</?(?:a|abbr|b|em|font|i|mark|small|span|strong|sub|sup|u|wbr)(?:\s[^<>]*)?/?>", re.IGNORECASE)
_UNREAD = re.compile(
    r"<(script|style)\b.*?</\1>|```.*?```|<(?=[a-z/!?|])[^<>]*>|\{[^{}]*\}|[\x00-\x08\x0e-\x1f\x7f-\x9f]",
    re.DOTALL | re.IGNORECASE,
)  # markup, code, control characters
_ADDRESS = re.compile(
    r"\b(?:[a-z][a-z0-9+.-]{1,9}://|www\d?\.)\S+|(?<![\w.-])(?:[a-z0-9-]+\.)+[a-z]{2,24}/\S*"  # of the web
    r"|(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+|(?<![\w@])@\w[\w.@-]*"  # of mail, of accounts
    r"|(?<![\w.-])[\w.-]+\.(?:com|org|net|edu|gov|io|tv|uk|de|eu|jpe?g|png|gif|webp|bmp|tiff?|mp4|mov|avi|mkv|webm)\b(?:\?\S*)?",
    re.IGNORECASE,
)  # the last: names of sites and files
# hashtags that close a caption are topics, several of them or those behind a sentence; others are words of it
_TOPICS = re.compile(r"(?:(?<=[.!?…\n\x1e])|(?<=[^\s#])(?=\s+#\w+[\s,]+#))(?:[\s,]*#\w+)+\s*$")
_HASH = re.compile(r"(?<!\w)#(?=\w)")
_BLANK = re.compile(r"\s+")
_TYPEWRITTEN = str.maketrans({**dict.fromkeys("‘’‛ʹʼ′`´", "'"), **dict.fromkeys("‐‑", "-")})


@dataclass(frozen=True)
class Clean:
    """A clean text; `places[i]` is the [start, end) of its i-th character in the caption as given, ascending code points."""

    text: str
    places: tuple[Span, ...]

    def place(self, start: int, end: int) -> Span:
        """Where the characters [start, end), at least one, stand in the caption as given."""
        return self.places[start][0], self.places[end - 1][1]


@functools.lru_cache(maxsize=64)
def clean(caption: str) -> Clean:
    """The text that a person reads: references and escapes resolved, letters composed (NFC; compatibility forms of letters as
    their plain ones), invisible characters, markup, code and addresses left out, one space between words, typewriter
    apostrophes and hyphens.
    """
    found = Clean(caption, tuple((i, i + 1) for i in range(len(caption))))
    for _ in range(_MOST_ROUNDS):
        before, found = found, _replace(_replace(found, _ESCAPE, _unescaped), _REFERENCE, _dereferenced)
        if found is before:
            break
    found = _replace(found, _INVISIBLE, lambda _: "")
    found = _composed(found)
    found = _replace(found, _INLINE_TAG, lambda _: "")
    found = _replace(_replace(found, _UNREAD, lambda _: _CUT), _ADDRESS, _address)
    found = _replace(_replace(found, _TOPICS, lambda _: _CUT), _HASH, lambda _: "")
    found = _replace(found, _BLANK, lambda match: BREAK if _CUT in match.group() else " ")
    return Clean(found.text.translate(_TYPEWRITTEN), found.places)


def as_read(word: str) -> str:
    """What a person reads of a word of a caption, which stands there as it was given; the word itself if that is nothing.

    >>> as_read("wo\u00adman"), as_read("cat&#39;s toy"), as_read("dog")
    ('woman', "cat's toy", 'dog')
    """
    return clean(word).text.strip() or word


def _replace(found: Clean, pattern: re.Pattern[str], read: Callable[[re.Match[str]], str]) -> Clean:
    """Put read(match) for each match; its characters stand where the whole match stood. The same object if nothing changes."""
    texts: list[str] = []
    places: list[Span] = []
    last = 0
    for match in pattern.finditer(found.text):
        start, end, text = match.start(), match.end(), read(match)
        if start == end or text == match.group():
            continue
        texts += [found.text[last:start], text]
        places += [*found.places[last:start], *[found.place(start, end)] * len(text)]
        last = end
    if not texts:
        return found
    return Clean("".join([*texts, found.text[last:]]), (*places, *found.places[last:]))


def _address(match: re.Match[str]) -> str:
    """A word of its sentence, unless it opens one."""
    before = match.string[: match.start()].rstrip(" (,")
    return ADDRESS if before[-1:].isalnum() else _CUT


def _unescaped(match: re.Match[str]) -> str:
    blank, mark, code = match.groups()
    if code is None:
        return " " if blank else str(mark)
    return "" if 0xD800 <= int(code, 16) < 0xE000 else chr(int(code, 16))  # half a character outside the basic plane: an emoji


def _dereferenced(match: re.Match[str]) -> str:
    """As browsers read it: numbers and old names also without ";", other names with it only."""
    reference = match.group()
    if reference[1] == "#":
        return html.unescape(reference)
    return html5.get(reference[1:]) or html5.get(reference[1:].lower()) or reference


def _composed(found: Clean) -> Clean:
    """Each grapheme in its composed form, without what is not drawn; a mark that lies on no letter or digit is left out."""
    if found.text.isascii():
        return found
    starts = [i for i, character in enumerate(found.text) if i == 0 or not _extends(character)]
    texts: list[str] = []
    places: list[Span] = []
    for start, end in pairwise([*starts, len(found.text)]):
        base, grapheme = found.text[start], _UNDRAWN.sub("", found.text[start:end])
        plain = base.isalpha() or "\uff01" <= base <= "\uff5e"  # full-width forms of ASCII
        text = unicodedata.normalize("NFKC" if plain else "NFC", grapheme if base.isalnum() else grapheme[:1])
        texts.append(text)
        places += [found.place(start, end)] * len(text)
    return Clean("".join(texts), tuple(places))


def _extends(character: str) -> bool:
    """Does it belong to the grapheme before it: a combining mark, a joiner, a selector?"""
    return character > "\u02ff" and (unicodedata.category(character)[0] == "M" or bool(_UNDRAWN.match(character)))
