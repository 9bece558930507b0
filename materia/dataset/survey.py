"""One more reading of the index for people who look: words that go together, and shards that are unlike the others."""

from __future__ import annotations

from typing import NamedTuple

from materia.dataset import together
from materia.dataset.layout import commits, require_output
from materia.dataset.outliers import MEDIANS, ShardSurvey, ShardSurveyor
from materia.dataset.reader import read_table
from materia.dataset.together import WordCounter, WordsTogether


class Survey(NamedTuple):
    """What materia/dataset/stats.py does not have."""

    words: WordsTogether
    shards: ShardSurvey


def survey(out: str) -> Survey:
    """Read the index of every committed chunk. Raises OutputError for no output or a broken table."""
    require_output(out)
    words, shards = WordCounter(), ShardSurveyor()
    for commit in commits(out):
        index = read_table(out, commit, "index", [*together.COLUMNS, *MEDIANS])
        words.add(index)
        shards.add(commit, index)
    return Survey(words.summary(), shards.summary())
