"""Which clips stand side by side.

In: a manifest of captioned clips, as `materia run` reads it. Out: pairs of clips, each with the word of its subject; both are
of one class of the detector, and their words differ, so that a caption can name both. Words come from the manifest's column
`visible_subjects`, where it has one (a list of words), else from the entity stage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from rich.progress import Progress

from materia.base.errors import UserError
from materia.base.terminal import printable
from pipeline.sources import find_source, read_rows
from pipeline.sources.access import resolve
from pipeline.sources.settings import SourceSettings
from stages.entities import Entities
from stages.frames import Frames
from stages.localise.vocabulary import class_names, classes_of, head_phrase
from stages.records import Clip, Rejection, Sample
from stages.settings import EntitiesSettings, FramesSettings

WORDS_COLUMN = "visible_subjects"
MIN_DURATION_S = 2.0
"""Of a clip: something has to happen between the frames of record."""
CLIPS_PER_PAIR = 8
"""Clips of a long manifest that are looked at, a pair: of most captions no clip comes that can be used."""
LIVING = frozenset(
    class_names().index(name)
    for name in ("person", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")
)
"""Classes of people and animals."""


class Half(NamedTuple):
    """A clip and what its subject is called; `classes`: indices of the detector's classes that show the word."""

    clip: Clip
    word: str
    classes: frozenset[int]
    duration_s: float


class Pair(NamedTuple):
    """What stands side by side."""

    left: Half
    right: Half

    @property
    def caption(self) -> str:
        """One sentence that names both, and nothing else."""
        left, right = (_with_article(half.word) for half in self)
        return f"{left[0].upper()}{left[1:]} and {right}."


class Halves(NamedTuple):
    """What can be used of a manifest, in its order, and why how many others cannot: reason codes of the pipeline, or words."""

    halves: list[Half]
    left_out: Counter[str]


def find_halves(manifest: str, n_pairs: int, seed: int, bar: Progress) -> Halves:
    """Clips that can be used for `n_pairs`; of a long manifest, of a selection by `seed`.

    A clip has one shot of `MIN_DURATION_S` or more, and of its subjects no two of one class, nor one of an unknown class, which
    may stand for several ("crowd"). Raises SourceError for a manifest that cannot be read, BackendError where words have to be
    found and the model for that is missing.
    """
    settings = SourceSettings()
    source = find_source(manifest, settings)
    rows = list(read_rows(source, settings))
    picked = np.sort(np.random.default_rng(seed).permutation(len(rows))[: CLIPS_PER_PAIR * n_pairs])
    found = [resolve(row, source.root, settings) if isinstance(row, Clip) else row for row in (rows[i] for i in picked)]
    left_out = Counter(row.reason for row in found if isinstance(row, Rejection))
    frames = Frames(FramesSettings(motion=False))
    frames.setup()
    halves: list[Half] = []
    clips = [row for row in found if isinstance(row, Clip)]
    for clip, words in bar.track(list(_with_words(clips, bar)), description="looking at clips"):
        if not (named := _subjects(words)):
            left_out["no person or animal that is the only one of its kind"] += 1
            continue
        [row] = frames.process([Sample(clip=clip)])
        if isinstance(row, Rejection) or row.video is None:
            left_out[row.reason if isinstance(row, Rejection) else "unreadable"] += 1
        elif row.video.duration_s < MIN_DURATION_S:
            left_out[f"shorter than {MIN_DURATION_S:g} s"] += 1
        else:
            halves += [Half(clip, word, classes, row.video.duration_s) for word, classes in named]
    return Halves(halves, left_out)


def choose_pairs(halves: Sequence[Half], n: int, seed: int) -> list[Pair]:
    """At most `n` different pairs, whose clips all serve about equally often; chance says which, and which is on the left.

    Raises UserError if there is none.
    """
    rng = np.random.default_rng(seed)
    order = [int(number) for number in rng.permutation(len(halves))]
    used: Counter[str] = Counter()
    chosen: dict[frozenset[int], Pair] = {}
    while len(chosen) < n:
        by_use = sorted(order, key=lambda number: used[halves[number].clip.key])
        possible = (pair for pair in combinations(by_use, 2) if frozenset(pair) not in chosen and _fit(halves, pair))
        pair = next(possible, None)
        if pair is None:
            break
        left, right = (halves[number] for number in (pair if rng.random() < 0.5 else pair[::-1]))
        chosen[frozenset(pair)] = Pair(left, right)
        used.update((left.clip.key, right.clip.key))
    if not chosen:
        words = ", ".join(sorted({half.word for half in halves})) or "none"
        raise UserError(
            "no two clips show subjects of one kind with different words; words found: "
            f"{printable(words)}; give a manifest of more clips with one person each, or name them in column {WORDS_COLUMN!r}"
        )
    return list(chosen.values())


def _fit(halves: Sequence[Half], pair: tuple[int, int]) -> bool:
    """One kind, different words, different videos: two parts of one video may show the same person."""
    a, b = (halves[number] for number in pair)
    return bool(a.classes & b.classes) and _head(a.word) != _head(b.word) and a.clip.source_id != b.clip.source_id


def _head(word: str) -> str:
    """ "young man" is a man like any other."""
    return word.casefold().split()[-1]


def _with_article(word: str) -> str:
    return f"{'an' if word[0].casefold() in 'aeiou' else 'a'} {word}"


def _subjects(words: Sequence[str]) -> list[tuple[str, frozenset[int]]]:
    """Words for people and animals of which there is one each, with their classes; empty if one cannot be sure."""
    classes = [frozenset(classes_of(word, "subject")) for word in words]
    if not all(classes):
        return []
    named = Counter(index for one in classes for index in one)
    return [
        (head_phrase(word), one)
        for word, one in zip(words, classes, strict=True)
        if one <= LIVING and all(named[index] == 1 for index in one)
    ]


def _with_words(clips: Iterable[Clip], bar: Progress) -> Iterator[tuple[Clip, list[str]]]:
    """Clips with the words of their subjects."""
    unnamed: list[Clip] = []
    for clip in clips:
        words = clip.extra.get(WORDS_COLUMN)
        if isinstance(words, list) and all(isinstance(word, str) and word.strip() for word in words):
            yield clip, words
        else:
            unnamed.append(clip)
    if not unnamed:
        return
    entities = Entities(EntitiesSettings())
    entities.setup()
    for clip in bar.track(unnamed, description="reading captions"):
        [row] = entities.process([Sample(clip=clip)])
        found = row.entities if isinstance(row, Sample) else []
        yield clip, [entity.word for entity in found if entity.category == "subject"]
    entities.close()
