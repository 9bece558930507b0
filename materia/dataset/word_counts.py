"""How often captions name a word, over millions of samples, in memory that does not grow with them.

In: words and numbers of instances of samples, some at a time. Out: a `CategoryCount`; the rarest words are forgotten when there
are too many.
"""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MAX_WORDS = 200_000
_TOP_WORDS = 12


class WordCount(msgspec.Struct, frozen=True):
    """Samples whose caption names a word (case-folded), and the word's masked instances over all frames."""

    word: str
    samples: int
    instances: int


class CategoryCount(msgspec.Struct, frozen=True):
    """Words of a category over all samples, how many of them have an instance, all instances, and the most frequent words."""

    words: int
    with_instance: int
    instances: int
    top: list[WordCount]


class WordCounts:
    """Counts of words, the rarest forgotten when there are too many."""

    def __init__(self) -> None:
        self.samples: Counter[str] = Counter()
        self.instances: Counter[str] = Counter()
        self.words = self.found = self.total = 0

    def add(self, words: pa.ChunkedArray, instances: pa.ChunkedArray | None) -> None:
        """Of each row a list of words, and a list of the numbers of instances of the first of them (see the index)."""
        lists = words.combine_chunks()
        encoded = lists.flatten().dictionary_encode()
        codes, folded = encoded.indices.to_numpy(), [word.casefold() for word in encoded.dictionary.to_pylist()]
        for word, count in zip(folded, np.bincount(codes, minlength=len(folded)).tolist(), strict=True):
            self.samples[word] += count
        self.words += len(codes)
        if instances is not None:
            found = instances.combine_chunks()
            numbers = found.flatten().to_numpy()
            n_words, n_found = _lengths(lists), _lengths(found)
            masked, known = codes[_first(n_words, n_found)], numbers[_first(n_found, n_words)]
            for word, count in zip(folded, np.bincount(masked, known, len(folded)).tolist(), strict=True):
                self.instances[word] += int(count)
            self.found += len(numbers)
            self.total += int(numbers.sum())
        if len(self.samples) > MAX_WORDS:
            self.samples = Counter(dict(self.samples.most_common(MAX_WORDS // 2)))
            self.instances = Counter({word: count for word, count in self.instances.items() if word in self.samples})

    def summary(self) -> CategoryCount:
        """Of all of them."""
        top = sorted(self.samples.items(), key=lambda item: (-item[1], item[0]))[:_TOP_WORDS]
        return CategoryCount(self.words, self.found, self.total, [WordCount(word, n, self.instances[word]) for word, n in top])


def _lengths(lists: pa.ListArray) -> np.ndarray:
    """Of each list, (N,) int64."""
    lengths: np.ndarray = pc.list_value_length(lists).fill_null(0).to_numpy().astype(np.int64)
    return lengths


def _first(lengths: np.ndarray, at_most: np.ndarray) -> np.ndarray:
    """Of the items of lists of these lengths (N,), which are among the first `at_most` (N,) of their list, bool."""
    places = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    first: np.ndarray = places < np.repeat(at_most, lengths)
    return first
