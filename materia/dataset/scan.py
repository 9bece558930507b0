"""All rows of an output, many chunks at a time, as far as filters choose them: for whoever counts and needs no sample.

In: filters and names of columns. Out: batches of tables; memory does not grow with the number of rows. A filter chooses among
samples, unless it names a column that only rejections have, and among rejections if they have all columns that it names. Rows
of a kind that a filter cannot ask are left out: whether a rejected clip had a good mask, nobody knows.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from materia.dataset.filters import FilterError, Kind, admitted, arrow_filter, column_values, columns_named, layer_columns_named
from materia.dataset.layers import JoinedLayers
from materia.dataset.layout import Commit, commits, require_output
from materia.dataset.reader import read_table
from materia.dataset.schema import INDEX, REJECTS

ROWS = 100_000
"""Of a batch, or those of one chunk."""
RowKind = Literal["samples", "rejections"]
_OF_REJECTIONS = [name for name in REJECTS.names if name not in INDEX.names]


class Batch(NamedTuple):
    """Rows of some chunks one after the other, with the columns that were asked for as far as their files have them.

    `rejections` may be asked for their chunk's `shard`. `instances`: of these samples; None if the chunks have no such tables.
    """

    chunks: int
    samples: pa.Table
    rejections: pa.Table
    instances: pa.Table | None


class Filters:
    """Expressions that must all hold, over an output. Raises FilterError, OutputError."""

    def __init__(self, out: str, where: Sequence[str]) -> None:
        require_output(out)
        self.out = out
        self._of_samples = [one for one in where if not _asks_only_rejections(one)]
        self._of_rejections = [one for one in where if columns_named(one) <= set(REJECTS.names)]
        for one in where:
            if one not in self._of_samples and one not in self._of_rejections:
                only = ", ".join(sorted(columns_named(one) & set(_OF_REJECTIONS)))
                other = ", ".join(sorted(columns_named(one) - set(REJECTS.names)))
                raise FilterError(f"--where {one!r}: only rejections have {only}, and they have no {other}; no row has both")
        self.left_out: list[RowKind] = []
        """Kinds of rows that a filter cannot ask."""
        if len(self._of_samples) < len(where):
            self.left_out.append("samples")
        if len(self._of_rejections) < len(where):
            self.left_out.append("rejections")
        self._layers = [(one, JoinedLayers(out, one)) for one in self._of_samples]
        self._checked: pa.Schema | None = None

    @property
    def rejections_asked(self) -> bool:
        """Whether rejections can be counted."""
        return "rejections" not in self.left_out

    def index_columns(self, schema: pa.Schema, wanted: Collection[str]) -> list[str]:
        """Columns to read of an index with this schema."""
        if self._checked is None or not schema.equals(self._checked):
            self._require(schema)
            self._checked = schema
        named = {name for one in self._of_samples for name in columns_named(one)}
        keyed = any(layer_columns_named(one) for one in self._of_samples)
        return _columns(schema.names, {*wanted, *named, *(["key"] if keyed else [])})

    def _require(self, schema: pa.Schema) -> None:
        """Raises FilterError for an index that has not what a filter names."""
        for one, layers in self._layers:
            joined = layers.to(schema.empty_table())
            try:
                arrow_filter(joined.schema, one)
            except FilterError as error:
                unknown = columns_named(one) - set(joined.schema.names)
                near = [close for name in unknown for close in difflib.get_close_matches(name, _OF_REJECTIONS, n=1)]
                if near and "did you mean" not in str(error):
                    raise FilterError(f"--where {one!r}: samples have no such column; did you mean {near[0]}?") from None
                raise

    def rejects_columns(self, wanted: Sequence[str]) -> list[str]:
        """Columns to read of rejects."""
        return _columns(REJECTS.names, {*wanted, *(name for one in self._of_rejections for name in columns_named(one))})

    def samples(self, index: pa.Table) -> pa.Table:
        """Those of them that the filters choose."""
        if "samples" in self.left_out:
            return index.slice(0, 0)
        return _kept(index, [admitted(layers.to(index), one) for one, layers in self._layers])

    def rejections(self, rejects: pa.Table) -> pa.Table:
        """Those of them that the filters choose."""
        if "rejections" in self.left_out:
            return rejects.slice(0, 0)
        return _kept(rejects, [admitted(rejects, one) for one in self._of_rejections])


class Asked:
    """A column that a question is about, named as in filters: of samples, with their layers. Raises FilterError, OutputError.

    `option`: how it was given; `kinds`: what it may hold. `named`: columns of the table that it takes.
    """

    def __init__(self, out: str, expression: str, option: str, kinds: Collection[Kind]) -> None:
        self._of = expression, option, kinds
        self._layers = JoinedLayers(out, expression, option)
        self.named = columns_named(expression, option)

    def require(self, schema: pa.Schema) -> None:
        """Raises FilterError for an index with this schema that has no such column, saying which was meant."""
        if not {name for name in self.named if "." not in name} <= set(schema.names):
            self.values(schema.empty_table())

    def values(self, samples: pa.Table) -> pa.ChunkedArray:
        """Of each sample, or rejection, that has the column."""
        return column_values(self._layers.to(samples), *self._of)


def scan(
    filters: Filters,
    samples: Sequence[str],
    rejections: Sequence[str] = (),
    instances: Sequence[str] = (),
    asked: Asked | None = None,
) -> Iterator[Batch]:
    """The rows that filters choose, with these columns, those that are `asked` for, and perhaps others.

    Raises OutputError for a table that cannot be read, FilterError.
    """
    read: list[tuple[Commit, pa.Table]] = []
    wanted = {*samples, *(["key"] if instances else []), *(asked.named | {"key"} if asked else [])}

    def columns(schema: pa.Schema) -> list[str]:
        if asked is not None:
            asked.require(schema)
        return filters.index_columns(schema, wanted)

    for commit in commits(filters.out):
        index = read_table(filters.out, commit, "index", columns)
        other = read and (index.schema != read[0][1].schema or commit.has_instances != read[0][0].has_instances)
        if read and (other or sum(before.rows for before, _ in read) + commit.rows > ROWS):
            yield _batch(filters, read, rejections, instances)
            read = []
        read.append((commit, index))
    if read:
        yield _batch(filters, read, rejections, instances)


def _batch(filters: Filters, read: list[tuple[Commit, pa.Table]], rejections: Sequence[str], instances: Sequence[str]) -> Batch:
    whole = pa.concat_tables([index for _, index in read])
    chosen = filters.samples(whole)
    found = None
    if instances and read[0][0].has_instances:
        columns = list({*instances, "key"})
        found = pa.concat_tables([read_table(filters.out, commit, "instances", columns) for commit, _ in read])
        if len(chosen) < len(whole):
            found = found.filter(pc.is_in(found["key"], value_set=chosen["key"].combine_chunks()))
    rejects = pa.concat_tables([_rejects(filters, commit, rejections) for commit, _ in read])
    return Batch(len(read), chosen, filters.rejections(rejects), found)


def _rejects(filters: Filters, commit: Commit, wanted: Sequence[str]) -> pa.Table:
    table = read_table(filters.out, commit, "rejects", filters.rejects_columns(wanted))
    if "shard" in wanted:
        table = table.append_column("shard", pa.repeat(commit.path("shards"), len(table)))
    return table


def _asks_only_rejections(expression: str) -> bool:
    return bool(columns_named(expression) & set(_OF_REJECTIONS))


def _columns(there: Sequence[str], wanted: set[str]) -> list[str]:
    """Those that are wanted and there, and at least one: a table without columns has no rows."""
    return [name for name in there if name in wanted] or ["row"]


def _kept(table: pa.Table, conditions: list[np.ndarray]) -> pa.Table:
    return table.filter(pa.array(np.logical_and.reduce(conditions))) if conditions else table
