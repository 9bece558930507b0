"""Captions as they are in the wild: references, escapes, invisible characters, addresses; spans point into them as given."""

import json
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.caption_text import as_read, clean
from stages.entities.nouns import nouns
from stages.entities.prompt import load_prompt
from stages.entities.rules import judge, places
from stages.localise import prompt
from stages.localise.vocabulary import head_phrase

KINDS = load_prompt("entities").kinds
DAMAGED = [
    "A w&#111;man holds a caf&eacute; cup",
    "A wo\u00adman holds a cafe\u0301 cup",
    "A wo\u200bm\u2060an holds\u00a0a caf\\u00e9 cup",
    "A wo\ufeffman holds a ｃａｆé cup",
    "A wo&shy;man holds a&nbsp;caf&amp;eacute; cup",
    "A wo&amp;amp;shy;man holds\\na cafe&#x301; cup",
    "A <b>wo</b>man holds\\ta caf\u00e9 &zwnj;cup",
    "A wo\u200dman holds a cafe\u00ad\u0301   cup\u2028",
]


def phrases(caption):
    return [noun.phrase for noun in nouns(caption)]


def words(caption, **kinds):
    found = judge(caption, json.dumps({word.replace("_", " "): kind for word, kind in kinds.items()}), KINDS)
    return {entity.word: entity.spans for entity in found.entities}


@pytest.mark.parametrize("caption", DAMAGED)
def test_a_damaged_caption_has_the_words_of_the_clean_one(caption):
    assert phrases(caption) == ["woman", "café cup"]
    for phrase in phrases(caption):
        ((start, end),) = places(caption, phrase)
        assert clean(caption[start:end]).text == phrase
        assert words(caption, **{phrase.replace(" ", "_"): "person"}) == {caption[start:end]: [(start, end)]}


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A dog &amp; a cat&#39;s toy &rsquo;", ["dog", "cat", "toy"]),
        ("A man&rsquo;s hat &#8220;cap&#8221;", ["man", "hat", "cap"]),
        ("Salt &AMP; pepper &hellip; dog", ["Salt", "pepper", "dog"]),
        ("A dog\\nruns\\r\\nin a park", ["dog", "park"]),
        ("A señorita and an A\u030angstro\u0308m", ["señorita", "Ångström"]),
        ("A cat from https://www.example.com/cats?id=1&amp;x=2 sleeps", ["cat"]),
        ("A cat (www.cats.org) sleeps", ["cat"]),
        ("Clip of a dog, youtu.be/dQw4w9", ["dog"]),
        ("IMG_2034.JPG a dog", ["dog"]),
        ("A dog by joe.smith@dogs.co.uk", ["dog"]),
        ("A dog by @dog_lover on a lawn", ["dog", "lawn"]),
        ("A dog @ the beach", ["dog", "beach"]),
        ("A man with a #dog on the beach", ["man", "dog", "beach"]),
        ("A man walks. #family #friends #dogs", ["man"]),
        ("A man on a bench #love #friends", ["man", "bench"]),
        ("A man&lt;br&gt; and a dog", ["man", "dog"]),
        ("A man <script>let cat = 1</script>", ["man"]),
        ("A green\u2011capped bottle", ["green-capped bottle"]),
        ("A dog runs.It is red", ["dog"]),
        ("I <3 my dog", ["dog"]),
        ("AT&T worker", ["T worker"]),
    ],
)
def test_what_names_nothing_is_no_word(caption, expected):
    assert phrases(caption) == expected


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("fish & chips; R&B &nosuch; &", "fish & chips; R&B &nosuch; &"),
        ("&amp;amp;lt;b&amp;amp;gt;dog", "dog"),
        ("\\ud83d\\ude00 dog", " dog"),
        ("&#0;&#xD800;&#9999999;dog", "\ufffd\ufffd\ufffddog"),
        ("a \u0301dog", "a dog"),
        ("❤\ufe0f dog", "❤ dog"),
    ],
)
def test_clean_text(caption, text):
    assert clean(caption).text == text


def test_a_span_covers_whole_graphemes_and_references():
    assert words("Cafe\u0301 dog", Café="place") == {"Cafe\u0301": [(0, 5)]}
    assert words("A dog\u200d\u0301 runs", dog="animal") == {}  # another word: its g has an accent
    assert words("A dog\u200d runs", dog="animal") == {"dog\u200d": [(2, 6)]}
    assert words("A dog\u200b runs", dog="animal") == {"dog": [(2, 5)]}
    assert words("A do&#103; runs", dog="animal") == {"do&#103;": [(2, 10)]}
    assert words("A <b>dog</b> runs", dog="animal") == {"dog": [(5, 8)]}


def test_of_two_spellings_of_a_word_the_plain_one_is_written_down():
    assert words("A wo\u00adman sees a woman", woman="person") == {"woman": [(16, 21)]}


SPOILS = {
    "\u00ad": lambda c: c + "\u00ad",
    "\u200b": lambda c: "\u200b" + c,
    "reference": lambda c: f"&#{ord(c)};",
    "twice": lambda c: f"&amp;#x{ord(c):x};",
    "escape": lambda c: f"\\u{ord(c):04x}",
    "decomposed": lambda c: unicodedata.normalize("NFD", c),
    "none": lambda c: c,
}
PLAIN = "A señorita with a piñata and a crème brûlée beside an old naïve façade in a São Paulo café"


@given(st.lists(st.sampled_from(sorted(SPOILS)), min_size=len(PLAIN), max_size=len(PLAIN)))
def test_however_its_letters_are_written_a_caption_has_the_same_words_in_whole_graphemes(spoils):
    parts = [SPOILS[spoil](c) if c.isalpha() else c for c, spoil in zip(PLAIN, spoils, strict=True)]
    caption = "".join(parts)
    starts = {sum(map(len, parts[:i])) for i in range(len(parts) + 1)}
    assert clean(caption).text == PLAIN
    assert phrases(caption) == phrases(PLAIN)
    for phrase in phrases(PLAIN):
        for start, end in places(caption, phrase):
            assert not unicodedata.combining((caption + " ")[end])
            assert {start, start - 1} & starts
            assert {end, end + 1} & starts


@given(st.text(alphabet=st.sampled_from("ab&#;x1\\nu0<>{}`@.:/ #\u0301\u00ad\u200b\u200dﬁª²'\n"), max_size=60))
def test_places_are_ascending_and_inside_any_caption(caption):
    found = clean(caption)
    assert len(found.places) == len(found.text)
    assert all(0 <= start < end <= len(caption) for start, end in found.places)
    assert list(found.places) == sorted(found.places)
    assert all(noun.phrase in found.text for noun in nouns(caption))


@pytest.mark.parametrize(
    "piece",
    ["<", "{", "#a ", "a.", "`", "&amp;", "<a ", "\\n", "a@", "www.", "e\u0301", "a-", "a.a-", "<script>", "#a, ", "dog's' "],
)
def test_a_long_caption_of_ill_will_costs_little(piece):
    caption = (piece * 4000)[:4000]
    begin = time.process_time()
    clean(caption)
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    ("word", "read"),
    [("wo\u00adman", "woman"), ("red&nbsp;cup", "red cup"), ("sen\u0303orita", "señorita"), ("dog", "dog"), ("<b>", "<b>")],
)
def test_detectors_are_asked_for_what_a_person_reads(word: str, read: str) -> None:
    assert as_read(word) == prompt.phrase(word) == head_phrase(word) == read
