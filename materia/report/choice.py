"""Which samples, or which rejected rows, a contact sheet shows.

In: an output and what is asked for. Out: numbers of samples, or rows of the rejects tables. Without a wish, the samples of the
first `CANDIDATES` that show a variety of words; what is asked for is looked for in the whole index.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from materia.base.terminal import plural
from materia.dataset.filters import ALIASES
from materia.dataset.layout import OutputError, commits, require_output
from materia.dataset.reader import Dataset, read_table

CANDIDATES = 5000
"""Index rows among which a variety is chosen, whatever the size of the output."""
_WORDS = ["n_instances", "n_subjects", "n_objects", "subject_words", "object_words"]
_MOST_NAMED = 5


def chosen_samples(dataset: Dataset, n: int, where: Sequence[str], sort: str | None) -> list[int]:
    """Numbers of at most `n` samples that all filters admit.

    With `sort`, a column of numbers or its alias, by that: the smallest first, with a leading "-" the largest; ties in manifest
    order, missing values last. Without, a variety of words, in manifest order. Raises FilterError, OutputError (none admitted,
    no such column).
    """
    there = np.logical_and.reduce([np.ones(len(dataset), bool), *map(dataset.admitted, where)])
    values = None if sort is None else _numbers(dataset.index, sort)
    numbers = np.flatnonzero(there)
    if not len(numbers):
        asked = " ".join(f"--where {one!r}" for one in where)
        there_are = plural(len(dataset), "sample")
        raise OutputError(f"of {there_are} of {dataset.out} none matches {asked}; their values: materia stats {dataset.out}")
    if values is not None:
        return [int(number) for number in numbers[np.argsort(values[numbers], kind="stable")][:n]]
    candidates = numbers[:CANDIDATES]
    return [int(candidates[place]) for place in varied(dataset.index.select(_WORDS).take(candidates).to_pylist(), n)]


def samples_named(dataset: Dataset, keys: Iterable[str]) -> list[int]:
    """Numbers of the samples of these keys, each once. Raises OutputError naming keys of which there is none."""
    wanted = list(dict.fromkeys(keys))
    found = pc.index_in(pa.array(wanted, pa.string()), dataset.index["key"].combine_chunks()).to_pylist()
    unknown = [key for key, number in zip(wanted, found, strict=True) if number is None]
    if unknown:
        shown = ", ".join(map(repr, unknown[:_MOST_NAMED])) + (" ..." if len(unknown) > _MOST_NAMED else "")
        raise OutputError(
            f"{dataset.out} has no sample of the key {shown}; a row that became no sample is in its rejects: --rejected REASON"
        )
    return [int(number) for number in found]


def rejected_rows(out: str, reason: str, n: int) -> list[dict[str, Any]]:
    """At most `n` rows that were rejected for `reason`, spread over all of them, as in rejects (materia/dataset/schema.py).

    Raises OutputError where there is none, saying which reasons there are.
    """
    require_output(out)
    found: Counter[str] = Counter()
    tables = []
    for commit in commits(out):
        table = read_table(out, commit, "rejects", verify=True)
        found.update(table["reason"].to_pylist())
        tables.append(table.filter(pc.equal(table["reason"], reason)))
    if not found[reason]:
        raise OutputError(_no_such_reason(out, reason, found))
    table = pa.concat_tables(tables)
    spread = np.unique(np.linspace(0, len(table) - 1, min(n, len(table))).round().astype(int))
    rows: list[dict[str, Any]] = table.take(spread).to_pylist()
    return rows


def _no_such_reason(out: str, reason: str, found: Counter[str]) -> str:
    if not found:
        return f"{out} has no rejected rows"
    near = difflib.get_close_matches(reason, found, n=1)
    meant = f"; did you mean {near[0]}?" if near else "."
    there = ", ".join(f"{name} {times}" for name, times in found.most_common())
    return f"of {plural(found.total(), 'rejected row')} of {out} none has the reason {reason!r}{meant} There are: {there}"


def column_of(sort: str) -> str:
    """The column that `sort`, e.g. "-subjects", is about."""
    name = sort.removeprefix("-")
    return ALIASES.get(name, name)


def _numbers(index: pa.Table, sort: str) -> np.ndarray:
    """A column as what it is sorted by, (N,) float64, ascending; missing values are infinite. Raises OutputError."""
    name = sort.removeprefix("-")
    known = [field.name for field in index.schema if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)]
    column = column_of(sort)
    if column not in known:
        near = difflib.get_close_matches(name, [*ALIASES, *known], n=3)
        why = "holds no numbers" if column in index.schema.names else "is no column"
        raise OutputError(
            f"--sort {sort}: {name} {why}; " + (f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}")
        )
    values = pc.fill_null(index[column].cast(pa.float64()), np.inf).to_numpy()
    values = np.where(np.isnan(values), np.inf, values)
    return np.where(np.isinf(values), np.inf, -values) if sort.startswith("-") else values


def varied(rows: list[dict[str, Any]], n: int) -> list[int]:
    """Greedily the samples that add most words not seen yet, then those with most instances; ties to the first."""
    seen: set[str] = set()
    chosen: list[int] = []
    left = list(range(len(rows)))
    while left and len(chosen) < n:
        best = max(left, key=lambda number: (len(_masked_words(rows[number]) - seen), rows[number]["n_instances"], -number))
        left.remove(best)
        chosen.append(best)
        seen |= _masked_words(rows[best])
    return sorted(chosen)


def _masked_words(row: dict[str, Any]) -> set[str]:
    words = row["subject_words"][: row["n_subjects"]] + row["object_words"][: row["n_objects"]]
    return {word.casefold() for word in words}
