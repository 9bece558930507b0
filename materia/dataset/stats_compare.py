"""Two outputs side by side, number by number: what another threshold, model or version has changed.

In: the statistics of both. Out: `Comparison`, plain data that turns into JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from materia.dataset.stats import Stats

_NO_NUMBERS = {"histogram", "top", "where", "left_out"}
_COUNTS = ("reasons", "flags", "dropped", "frames_with_subject")
"""What is not among these does not occur: 0."""


class Pair(msgspec.Struct, frozen=True):
    """A number of both outputs and how much more the second has; null: one does not have it."""

    first: float | None
    second: float | None
    difference: float | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """`numbers`: name as in `materia stats --json`, its parts joined by dots, of a reason `reasons.STAGE.REASON.count`."""

    outs: list[str]
    where: list[str]
    numbers: dict[str, Pair]


def compare(outs: list[str], both: list[Stats]) -> Comparison:
    """Every number of the statistics of two outputs."""
    first, second = (dict(_numbers("", msgspec.to_builtins(stats))) for stats in both)
    names = [*first, *(name for name in second if name not in first)]
    where = both[0].where
    return Comparison(
        outs=outs,
        where=where if isinstance(where, list) else [],
        numbers={name: _pair(*(stats.get(name, _absent(name)) for stats in (first, second))) for name in names},
    )


def _pair(first: float | None, second: float | None) -> Pair:
    return Pair(first, second, None if first is None or second is None else round(second - first, 9))


def _absent(name: str) -> int | None:
    return 0 if name.partition(".")[0] in _COUNTS else None


def _numbers(before: str, value: Any) -> Iterator[tuple[str, float]]:
    """(name, number) of all in plain data."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        yield before, value
    elif isinstance(value, dict):
        for name, part in value.items():
            if name not in _NO_NUMBERS:
                yield from _numbers(f"{before}.{name}" if before else name, part)
    elif before == "reasons":
        for reason in value:
            for name in ("count", "share"):
                yield f"{before}.{reason['stage']}.{reason['reason']}.{name}", reason[name]
