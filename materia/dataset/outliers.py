"""Shards that are unlike the others: what a failing disk, a node with another library or an odd part of the manifest leaves.

In: commit records and index tables, chunk by chunk. Out: `ShardSurvey`, plain data that turns into JSON. Of each chunk a few
numbers are kept. A value is an outlier by its modified z-score: 0.6745 (x - median) / MAD, where MAD is the median of the
absolute deviations from the median, and beyond 3.5 (Iglewicz and Hoaglin, How to Detect and Handle Outliers, ASQC 1993). Where
MAD is 0, because most shards have the same value, the mean of the absolute deviations takes its place: (x - median) /
(1.253314 MeanAD), as in IBM SPSS Statistics.
"""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa

from materia.dataset.layout import Commit
from materia.dataset.stats import MEASURES

MEDIANS = [name for name in MEASURES if name not in ("fps", "width", "height", "caption_chars", "max_area_share")]
"""Columns of the index whose median is taken by shard."""
MEASURED = {"rows": "rows", "kept_share": "kept share", "bytes": "bytes", **{name: MEASURES[name] for name in MEDIANS}}
"""What shards are compared in, with its name for a person."""
FAR = 3.5
"""The modified z-score from which on a value is an outlier."""
FEW = 5
"""Below so many shards, none is judged."""


class OddValue(msgspec.Struct, frozen=True):
    """A chunk's value of one of `MEASURED` that is far from the others'; `z`: its modified z-score."""

    chunk: int
    measure: str
    value: float
    median: float
    z: float


class ShardSurvey(msgspec.Struct):
    """`chunks` (n,) int64; `values`: by name of `MEASURED`, (n,) float64, NaN where a chunk has none; names without any value
    are left out. `outliers`: the farthest first.
    """

    chunks: np.ndarray
    values: dict[str, np.ndarray]
    outliers: list[OddValue]


class ShardSurveyor:
    """Keeps what is compared of each chunk."""

    def __init__(self) -> None:
        self._chunks: list[int] = []
        self._values: dict[str, list[float]] = {name: [] for name in MEASURED}

    def add(self, commit: Commit, index: pa.Table) -> None:
        """One more chunk, in order; `index` may lack columns of `MEDIANS`."""
        tar = commit.files.get(commit.path("shards"))
        found = {"rows": commit.rows, "kept_share": commit.samples / commit.rows, "bytes": tar.bytes if tar else 0}
        self._chunks.append(commit.chunk)
        for name, values in self._values.items():
            values.append(float(found[name]) if name in found else _median(index, name))

    def summary(self) -> ShardSurvey:
        """All chunks that were added, and which of them are odd."""
        values = {name: np.array(column) for name, column in self._values.items()}
        values = {name: column for name, column in values.items() if not np.isnan(column).all()}
        odd = [one for name, column in values.items() for one in self._odd(name, column)]
        odd.sort(key=lambda one: (-abs(one.z), one.chunk, one.measure))
        return ShardSurvey(np.array(self._chunks, np.int64), values, odd)

    def _odd(self, name: str, values: np.ndarray) -> list[OddValue]:
        """The last chunk holds what is left of the manifest: how much that is says nothing."""
        judged = values.copy()
        if name in ("rows", "bytes"):
            judged[-1:] = np.nan
        z, median = modified_z_scores(judged), float(np.nanmedian(values))
        places = np.flatnonzero(np.abs(np.nan_to_num(z)) > FAR)
        return [
            OddValue(self._chunks[at], name, round(float(values[at]), 6), round(median, 6), round(float(z[at]), 2))
            for at in places
        ]


def modified_z_scores(values: np.ndarray) -> np.ndarray:
    """(n,) float64 -> (n,): how far each value is from the median, see above; NaN for NaN, 0 where fewer than `FEW` are there
    or all are the same.
    """
    there = values[~np.isnan(values)]
    if len(there) < FEW:
        return np.where(np.isnan(values), np.nan, 0.0)
    deviations = values - np.median(there)
    size = np.abs(there - np.median(there))
    scale = np.median(size) / 0.6745 or 1.253314 * size.mean()
    scores: np.ndarray = deviations / scale if scale else deviations
    return scores


def _median(index: pa.Table, name: str) -> float:
    """Of a column over a chunk's samples; NaN for none."""
    values = index[name].drop_null().to_numpy() if name in index.column_names else np.empty(0)
    return float(np.median(values)) if len(values) else float("nan")
