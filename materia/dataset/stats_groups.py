"""The numbers of an output by the values of a column: which source videos gave how much, which shards, which reviewers.

In: an output, filters and a column of texts, whole numbers or truths, of the index, the manifest or a layer. Out: `Groups`,
plain data that turns into JSON. Medians are exact up to `MAX_ROWS` rows, of an evenly thinned selection above.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from materia.dataset.filters import Kind
from materia.dataset.scan import Asked, Filters, RowKind, scan
from materia.dataset.schema import REJECTS

SCORES = {
    "min_detector_score": "detector",
    "min_mask_score": "mask",
    "min_link_score": "link",
    "background_quality": "background",
}
"""Columns of the index whose medians are told."""
OPTION = "--by"
MAX_ROWS = 4_000_000
_KINDS: tuple[Kind, ...] = ("text", "whole number", "truth")
_SUMMED = ("n_instances", "duration_s")
_OF_REJECTIONS = {*REJECTS.names, "shard"}


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Rows with one value of the column; null: it is missing. Without the column, `rejections` and `kept_share` are null."""

    value: str | int | bool | None
    samples: int
    rejections: int | None
    kept_share: float | None
    instances: int
    hours: float
    medians: dict[str, float | None]


class Groups(msgspec.Struct, frozen=True, kw_only=True):
    """All of them, those of most rows first, equals by value."""

    by: str
    where: list[str]
    left_out: list[RowKind]
    groups: list[Group]


def collect_groups(out: str, by: str, where: Sequence[str] = ()) -> Groups:
    """Raises OutputError for an output that cannot be read, FilterError for a filter or a column that is not understood."""
    filters, asked = Filters(out, where), Asked(out, by, OPTION, _KINDS)
    of_rejections = asked.named <= _OF_REJECTIONS
    counts = _Counts()
    for batch in scan(filters, [*SCORES, *_SUMMED], list(asked.named) if of_rejections else [], asked=asked):
        counts.add_samples(asked.values(batch.samples), batch.samples)
        if of_rejections:
            counts.add_rejections(asked.values(batch.rejections))
    return Groups(
        by=by, where=list(where), left_out=filters.left_out, groups=counts.groups(of_rejections and filters.rejections_asked)
    )


class _Counts:
    """Sums by group, a group a row: samples, rejections, instances, seconds; and scores of samples, each with its group."""

    def __init__(self) -> None:
        self.place: dict[Any, int] = {}
        self.sums = np.zeros((0, 4))
        self.scored = np.zeros((0, 1 + len(SCORES)))
        self.step = self.samples = 0

    def add_samples(self, values: pa.ChunkedArray, samples: pa.Table) -> None:
        """Values of the column (N,), and the samples."""
        groups = self._places(values)
        weights = [None, *(samples[name].to_numpy() for name in _SUMMED)]
        for column, weight in zip((0, 2, 3), weights, strict=True):
            self.sums[:, column] += np.bincount(groups, weight, len(self.sums))
        scores = [_numbers(samples, name) for name in SCORES]
        self.step = max(1, self.step)
        thinned = slice(-self.samples % self.step, None, self.step)
        self.scored = np.concatenate([self.scored, np.column_stack([groups, *scores])[thinned]])
        self.samples += len(groups)
        while len(self.scored) > MAX_ROWS:
            self.scored, self.step = self.scored[::2], self.step * 2

    def add_rejections(self, values: pa.ChunkedArray) -> None:
        """Values of the column (N,)."""
        groups = self._places(values)
        self.sums[:, 1] += np.bincount(groups, minlength=len(self.sums))

    def groups(self, with_rejections: bool) -> list[Group]:
        """Those of most rows first."""
        medians = [
            _medians(self.scored[:, 0].astype(np.int64), self.scored[:, 1 + at], len(self.sums)) for at in range(len(SCORES))
        ]
        found = [
            Group(
                value=value,
                samples=int(samples),
                rejections=int(rejections) if with_rejections else None,
                kept_share=samples / (samples + rejections) if with_rejections else None,
                instances=int(instances),
                hours=round(seconds / 3600, 6),
                medians={
                    name: None if np.isnan(median) else round(float(median), 6)
                    for name, median in zip(SCORES, of_group, strict=True)
                },
            )
            for value, (samples, rejections, instances, seconds), of_group in zip(
                self.place, self.sums.tolist(), np.column_stack(medians), strict=True
            )
        ]
        return sorted(found, key=lambda one: (-one.samples - (one.rejections or 0), one.value is None, one.value))

    def _places(self, values: pa.ChunkedArray) -> np.ndarray:
        """Of each value its group's row, (N,) int64; groups that are new get one."""
        encoded = values.combine_chunks().dictionary_encode("encode")
        rows = [self.place.setdefault(value, len(self.place)) for value in encoded.dictionary.to_pylist()]
        self.sums = np.concatenate([self.sums, np.zeros((len(self.place) - len(self.sums), 4))])
        places: np.ndarray = np.array(rows, np.int64)[encoded.indices.to_numpy()]
        return places


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """A column of numbers (N,) float64, NaN where it is missing, all of it where the files of an earlier version lack it."""
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    values: np.ndarray = table[name].cast(pa.float64()).fill_null(np.nan).to_numpy()
    return values


def _medians(groups: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Of each group 0 .. n - 1 the median of its values (N,), NaN left out; (n,), NaN where there is none."""
    known = ~np.isnan(values)
    groups, values = groups[known], values[known]
    values = values[np.lexsort((values, groups))]
    counts = np.bincount(groups, minlength=n)
    starts, some = np.cumsum(counts) - counts, counts > 0
    medians = np.full(n, np.nan)
    low, high = ((starts + (counts + more) // 2)[some] for more in (-1, 0))
    medians[some] = (values[low] + values[high]) / 2
    return medians
