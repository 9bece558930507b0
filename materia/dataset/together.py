"""Which words the captions of the samples name, and which of them together.

In: the index, chunk by chunk. Out: `WordsTogether`, plain data that turns into JSON. Memory does not grow with the number of
samples: the rarest words and pairs are forgotten when there are too many, so counts of rare ones are then too small.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pyarrow as pa

from materia.dataset.stats import CATEGORIES

COLUMNS = [f"{category}_words" for category in CATEGORIES]
"""Of the index, what is read."""
CLOUD_WORDS = 60
"""Of a category, as many as are listed."""
SUBJECTS, OTHERS = 10, 8
"""Rows and, of each of objects and backgrounds, columns of the table of words that go together."""
_MAX_COUNTED = 200_000


class NamedTogether(msgspec.Struct, frozen=True):
    """`samples`: how many name both an object or background `word` and a subject, by subject in the order of `subjects`."""

    word: str
    category: str
    samples: list[int]


class WordsTogether(msgspec.Struct, frozen=True):
    """`words`: by category, word (case-folded) -> samples whose caption names it, the most frequent first.

    `subjects`: the most frequent subject words; `together`: the most frequent objects, then backgrounds, with each of them.
    """

    words: dict[str, dict[str, int]]
    subjects: list[str]
    together: list[NamedTogether]


class WordCounter:
    """Counts words and pairs of words of index tables."""

    def __init__(self) -> None:
        self._words: dict[str, Counter[str]] = {category: Counter() for category in CATEGORIES}
        self._pairs: dict[str, Counter[tuple[str, str]]] = {category: Counter() for category in CATEGORIES[1:]}

    def add(self, index: pa.Table) -> None:
        """Count the rows of a table that has `COLUMNS`."""
        rows = {category: [_folded(row) for row in index[f"{category}_words"].to_pylist()] for category in CATEGORIES}
        for category, counter in self._words.items():
            counter.update(word for row in rows[category] for word in row)
            _forget_the_rarest(counter)
        for category, pairs in self._pairs.items():
            named = zip(rows["subject"], rows[category], strict=True)
            pairs.update((subject, other) for subjects, others in named for subject in subjects for other in others)
            _forget_the_rarest(pairs)

    def summary(self) -> WordsTogether:
        """What has been counted so far."""
        words = {category: _most_frequent(counter, CLOUD_WORDS) for category, counter in self._words.items()}
        subjects = list(words["subject"])[:SUBJECTS]
        together = [
            NamedTogether(word, category, [pairs[subject, word] for subject in subjects])
            for category, pairs in self._pairs.items()
            for word in list(words[category])[:OTHERS]
        ]
        return WordsTogether(words, subjects, together)


def _folded(words: list[str]) -> list[str]:
    return list(dict.fromkeys(word.casefold() for word in words))


def _forget_the_rarest(counter: Counter[Any]) -> None:
    if len(counter) > _MAX_COUNTED:
        kept = counter.most_common(_MAX_COUNTED // 2)
        counter.clear()
        counter.update(dict(kept))


def _most_frequent(counter: Counter[str], n: int) -> dict[str, int]:
    """Most first, equals by name."""
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:n])
