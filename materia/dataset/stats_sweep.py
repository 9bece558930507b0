"""What a threshold would keep and lose: for a number of the samples or of their instances, at some twenty values of it.

In: an output, filters and what to look at: a column of the index, the manifest (`extra.X`) or a layer (`NAME.COLUMN`), what is
calculated of these, or `instances.COLUMN`. Out: `Sweep`, plain data that turns into JSON. The tables are read twice: for the
thresholds, quantiles of an evenly thinned selection and round values, and for what lies on either side of each, which is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from materia.dataset.distributions import Values
from materia.dataset.filters import Kind, column_values, columns_named
from materia.dataset.scan import Asked, Filters, RowKind, scan
from materia.dataset.schema import INSTANCES

OPTION = "--sweep"
MOST = 20
"""Thresholds. A column of no more different values has those."""
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
_STEPS = 10
_OF_INSTANCES = "instances."
_KINDS: tuple[Kind, ...] = ("number", "whole number")


class Edge(msgspec.Struct, frozen=True):
    """A row beside a threshold, the first in manifest order of those with this value; `number`: of the instance."""

    key: str
    value: float
    number: int | None = None


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What a threshold keeps and loses; shares of all rows, those without a value included, which are neither."""

    kept: int
    kept_share: float
    lost: int
    lost_share: float
    just_kept: Edge | None
    just_lost: Edge | None


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """`at_least` keeps values of this or more, `at_most` of this or less; `to_next`: values from this to below the next one."""

    value: float
    at_least: Side
    at_most: Side
    to_next: int


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """Over `rows` samples or instances that filters choose: `missing` have no value, `below` are below the first threshold."""

    of: str
    over: Literal["samples", "instances"]
    where: list[str]
    left_out: list[RowKind]
    rows: int
    missing: int
    below: int
    thresholds: list[Threshold]


class _Column(NamedTuple):
    """Some rows: their values (N,) float64, NaN where missing, and their keys, and numbers of instances."""

    values: np.ndarray
    keys: pa.ChunkedArray
    numbers: pa.ChunkedArray | None


def sweep(out: str, of: str, where: Sequence[str] = ()) -> Sweep:
    """Raises OutputError for an output that cannot be read, FilterError for a filter or a column that is not understood."""
    filters = Filters(out, where)
    rows = missing = 0
    spread = Values()
    for column in _columns(filters, of):
        known = column.values[~np.isnan(column.values)]
        rows, missing = rows + len(column.values), missing + len(column.values) - len(known)
        spread.add(known[np.isfinite(known)])
    at = _thresholds(spread.kept)
    edges = _Edges(at)
    for column in _columns(filters, of) if len(at) else ():
        edges.add(column)
    thresholds = [edges.threshold(place, rows, rows - missing) for place in range(len(at))]
    below = int(edges.below[0]) if len(at) else 0
    over: Literal["samples", "instances"] = "instances" if of.startswith(_OF_INSTANCES) else "samples"
    return Sweep(
        of=of, over=over, where=list(where), left_out=filters.left_out,
        rows=rows, missing=missing, below=below, thresholds=thresholds,
    )  # fmt: skip


def _columns(filters: Filters, of: str) -> Iterator[_Column]:
    """The values of all rows, some at a time; of faces only how sure the face detector is, as in the statistics."""
    if of.startswith(_OF_INSTANCES):
        name = of.removeprefix(_OF_INSTANCES)
        named = columns_named(name, OPTION)
        column_values(INSTANCES.empty_table(), name, OPTION, _KINDS)  # says what is not there
        for batch in scan(filters, [], instances=[*named, "number", "is_face"]):
            if batch.instances is not None:
                own = (
                    batch.instances if "face_score" in named else batch.instances.filter(pc.invert(batch.instances["is_face"]))
                )
                yield _Column(_numbers(column_values(own, name, OPTION, _KINDS)), own["key"], own["number"])
        return
    asked = Asked(filters.out, of, OPTION, _KINDS)
    for batch in scan(filters, [], asked=asked):
        yield _Column(_numbers(asked.values(batch.samples)), batch.samples["key"], None)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    values: np.ndarray = column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy()
    return values


def _thresholds(values: np.ndarray) -> np.ndarray:
    """At most `MOST`, ascending, for finite values (N,): all that there are, or quantiles and round values between them."""
    different = np.unique(values)
    if len(different) <= MOST:
        return different
    quantiles = np.percentile(values, PERCENTILES)
    low, high = quantiles[0], quantiles[-1]
    if low == high:  # nearly all are equal
        low, high = different[0], different[-1]
    step = _round_step((high - low) / _STEPS)
    round_values = [float(f"{number * step:.12g}") for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    decimals = 2 - math.floor(math.log10(step))
    others = [round(float(value), decimals) for value in quantiles]
    apart = [value for value in others if all(abs(value - other) > step / 20 for other in round_values)]
    return np.unique([*round_values, *apart])


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `least` > 0."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= least)


class _Edges:
    """For thresholds (T,), how many values lie below and above each, and the nearest rows on either side."""

    def __init__(self, at: np.ndarray) -> None:
        self.at = at
        self.below = np.zeros(len(at), np.int64)
        self.above = np.zeros(len(at), np.int64)
        nothing: list[Edge | None] = [None] * len(at)
        self.largest_below, self.largest_to, self.smallest_from, self.smallest_above = (list(nothing) for _ in range(4))

    def add(self, column: _Column) -> None:
        """Some more rows."""
        order = np.argsort(column.values, kind="stable")  # NaN last
        values = column.values[order][: np.count_nonzero(~np.isnan(column.values))]
        below, to = np.searchsorted(values, self.at, "left"), np.searchsorted(values, self.at, "right")
        self.below += below
        self.above += len(values) - to
        for edges, places, sign in (
            (self.largest_below, below - 1, 1),
            (self.largest_to, to - 1, 1),
            (self.smallest_from, below, -1),
            (self.smallest_above, to, -1),
        ):
            for threshold, place in enumerate(places.tolist()):
                if 0 <= place < len(values):
                    value, before = float(values[place]), edges[threshold]
                    if before is None or sign * value > sign * before.value:
                        edges[threshold] = _edge(column, int(order[np.searchsorted(values, value)]))

    def threshold(self, place: int, rows: int, known: int) -> Threshold:
        """What the threshold at this place does to `rows`, of which `known` have a value."""
        below, above = int(self.below[place]), int(self.above[place])
        next_below = int(self.below[place + 1]) if place + 1 < len(self.at) else known
        return Threshold(
            value=float(self.at[place]),
            at_least=_side(known - below, below, rows, self.smallest_from[place], self.largest_below[place]),
            at_most=_side(known - above, above, rows, self.largest_to[place], self.smallest_above[place]),
            to_next=next_below - below,
        )


def _side(kept: int, lost: int, rows: int, just_kept: Edge | None, just_lost: Edge | None) -> Side:
    shares = {"kept_share": kept / rows, "lost_share": lost / rows}
    return Side(kept=kept, lost=lost, just_kept=just_kept, just_lost=just_lost, **shares)


def _edge(column: _Column, row: int) -> Edge:
    number = None if column.numbers is None else int(column.numbers[row].as_py())
    return Edge(str(column.keys[row]), float(column.values[row]), number)
