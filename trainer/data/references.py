"""Which references condition a training item [paper §3.3].

In: what a sample offers - for each word the crops that show it, and its clean background - and a random generator. Out: at most
six references, each with its word. Drawing with replacement is the method's: the same crop may come twice, and each time it is
augmented anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

MAX_SUBJECTS = 3
MAX_CROPS = 3
BACKGROUND_SHARE = 0.5
MAX_REFERENCES = 6
"""Subjects ~ U{1..3}, crops of each ~ U{1..3}, a background with p = 0.5, at most six images [paper §3.3, A.3]."""


class Reference(NamedTuple):
    """A conditioning image: the crop `member` of a sample, which shows `word`."""

    word: str
    member: str


def choose(
    rng: np.random.Generator, crops: Mapping[str, Sequence[str]], background: Reference | None = None
) -> list[Reference]:
    """References of one item, subjects first, the background last.

    `crops`: word -> members that show it, at least one each, in a fixed order; without words only the background can be drawn.
    Where more than six were drawn, the last subjects' crops are left out.
    """
    words = list(crops)
    chosen: list[Reference] = []
    for _ in range(int(rng.integers(1, MAX_SUBJECTS + 1)) if words else 0):
        word = words[int(rng.integers(len(words)))]
        members = crops[word]
        chosen += [Reference(word, members[int(rng.integers(len(members)))]) for _ in range(rng.integers(1, MAX_CROPS + 1))]
    last = [background] if background is not None and rng.random() < BACKGROUND_SHARE else []
    return chosen[: MAX_REFERENCES - len(last)] + last
