"""Random audits: which samples a person looks at, and what their marks say of each stage; how far two persons agree.

In: the table `samples`, a draw, marks. Out: numbers of samples in an order that depends on the seed and the keys alone;
precision by stage with Wilson's interval; agreement and Cohen's kappa (Cohen 1960). A stratified draw takes from each stratum
its share of all samples, so that the plain share of the draw is that of all.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from materia.base.intervals import Interval, wilson
from materia.view.database import Database, QueryError, quoted
from materia.view.marks import REASONS
from materia.view.selection import Column, Draw

MAX_STRATA = 8
"""Different values up to which each is a stratum; more numbers become quarters, more words the most frequent and the rest."""
QUARTERS = 4
LISTS = ("subject_words", "object_words", "background_words", "flags")
_ALL = "all"


class Precision(msgspec.Struct, frozen=True):
    """Of a stage: `right` of the `marked` samples have no mark that is laid to it."""

    stage: str
    marked: int
    right: int
    value: float | None
    low: float | None
    high: float | None


class AuditResult(msgspec.Struct, frozen=True):
    """`drawn` samples, of which `marked`; all stages together, then each."""

    drawn: int
    marked: int
    stages: list[Precision]


class Agreement(msgspec.Struct, frozen=True):
    """Of two persons on the samples that both have marked: `what` is "bad" or a reason."""

    what: str
    both: int
    neither: int
    only_first: int
    only_second: int
    agreement: float | None
    kappa: float | None


def draw(database: Database, columns: dict[str, Column], wanted: Draw) -> np.ndarray:
    """Numbers of the samples that are drawn, in random order, (n,) int32. Raises QueryError for an unknown column."""
    order = "md5(? || ':' || s.key)"
    seed = str(wanted.seed)
    if wanted.stratify is None:
        rows = database.rows(f"SELECT s.n FROM samples s ORDER BY {order}, s.key LIMIT ?", [seed, max(0, wanted.n)])
        return np.array([row[0] for row in rows], np.int32)
    stratum = _stratum(database, columns, wanted.stratify)
    sql = (
        f"WITH strata AS (SELECT s.n, s.key, {order} AS place, {stratum} AS stratum FROM samples s),"
        " sizes AS (SELECT stratum, count(*) AS size FROM strata GROUP BY stratum ORDER BY stratum)"
        " SELECT stratum, size FROM sizes"
    )
    sizes = database.rows(sql, [seed])
    takes = {name: take for (name, _), take in zip(sizes, _shares([size for _, size in sizes], wanted.n), strict=True)}
    taken = pa.table({"stratum": pa.array(list(takes), pa.string()), "take": pa.array(list(takes.values()), pa.int64())})
    with database.cursor() as cursor:
        cursor.register("takes", taken)
        sql = (
            f"WITH strata AS (SELECT s.n, s.key, {order} AS place, {stratum} AS stratum FROM samples s),"
            " ranked AS (SELECT *, row_number() OVER (PARTITION BY stratum ORDER BY place, key) AS rank FROM strata)"
            " SELECT n FROM ranked JOIN takes USING (stratum) WHERE rank <= take ORDER BY place, key"
        )
        return np.array([row[0] for row in cursor.execute(sql, [seed]).fetchall()], np.int32)


def _stratum(database: Database, columns: dict[str, Column], name: str) -> str:
    """SQL of the text that names a sample's stratum. Raises QueryError."""
    if name in LISTS:
        first = f"coalesce(s.{quoted(name)}[1], '')"
        frequent = database.rows(
            f"SELECT {first} AS word FROM samples s GROUP BY word ORDER BY count(*) DESC, word LIMIT {MAX_STRATA}"
        )
        known = ", ".join("'" + row[0].replace("'", "''") + "'" for row in frequent)
        return f"CASE WHEN {first} IN ({known}) THEN {first} ELSE 'all others' END"
    if name not in columns or columns[name].table:
        raise QueryError(f"there is no column {name!r} of the index to stratify by; try min_mask_score or subject_words")
    value = columns[name].sql
    different = database.rows(f"SELECT count(DISTINCT {value}) FROM samples s")[0][0]
    if different <= MAX_STRATA:
        return f"coalesce(({value})::VARCHAR, 'missing')"
    return f"CASE WHEN {value} IS NULL THEN 'missing' ELSE (ntile({QUARTERS}) OVER (ORDER BY {value}, s.key))::VARCHAR END"


def _shares(sizes: list[int], n: int) -> list[int]:
    """How many of each stratum: its share of `n`, the remainders to the largest fractions, ties to the first."""
    total = sum(sizes)
    exact = [min(n, total) * size / total for size in sizes]
    taken = [int(share) for share in exact]
    order = sorted(range(len(sizes)), key=lambda at: (taken[at] - exact[at], at))
    for at in order[: min(n, total) - sum(taken)]:
        taken[at] += 1
    return taken


def result(drawn: list[str], marks: pa.Table) -> AuditResult:
    """What marks say of the samples of these keys; a stage's precision is the share with no fault of its own."""
    wanted = set(drawn)
    rows = [row for row in marks.to_pylist() if row["key"] in wanted]
    stages = dict.fromkeys(reason.stage for reason in REASONS.values() if reason.stage)
    wrong = {stage: sum(stage in {REASONS[why].stage for why in _whys(row)} for row in rows) for stage in stages}
    faults = {_ALL: sum(bool(row["bad"]) for row in rows), **wrong}
    return AuditResult(len(drawn), len(rows), [_precision(stage, len(rows), len(rows) - bad) for stage, bad in faults.items()])


def _whys(row: dict[str, Any]) -> list[str]:
    return [why for why in row["why"] or () if row["bad"] and why in REASONS]


def _precision(stage: str, marked: int, right: int) -> Precision:
    share = wilson(right, marked) if marked else None
    value, low, high = share if isinstance(share, Interval) else (None, None, None)
    return Precision(stage, marked, right, value, low, high)


def compare(first: pa.Table, second: pa.Table) -> list[Agreement]:
    """How far two marks layers agree on the samples that both have: on bad, and on each reason that one of them gives."""
    one, two = ({row["key"]: row for row in table.to_pylist()} for table in (first, second))
    common = sorted(one.keys() & two.keys())
    pairs = [(one[key], two[key]) for key in common]
    found = [_agreement("bad", [(bool(a["bad"]), bool(b["bad"])) for a, b in pairs])]
    for why in REASONS:
        if any(why in _whys(row) for pair in pairs for row in pair):
            found.append(_agreement(why, [(why in _whys(a), why in _whys(b)) for a, b in pairs]))
    return found


def _agreement(what: str, pairs: list[tuple[bool, bool]]) -> Agreement:
    """Kappa is null where chance alone would agree always."""
    n = len(pairs)
    both, neither = pairs.count((True, True)), pairs.count((False, False))
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    if not n:
        return Agreement(what, 0, 0, 0, 0, None, None)
    agreed = (both + neither) / n
    a, b = (both + only_first) / n, (both + only_second) / n
    by_chance = a * b + (1 - a) * (1 - b)
    kappa = None if by_chance == 1 else (agreed - by_chance) / (1 - by_chance)
    return Agreement(what, both, neither, only_first, only_second, agreed, kappa)
