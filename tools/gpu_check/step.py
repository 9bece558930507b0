"""What a step of the check is: a generator of rows, run in a process of its own within a box of time."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

Row = dict[str, str | int | float | bool | None]
"""One line of a step's table. `target` names a column and the bound that it has to keep: "value <= 0.5", "mfu >= 0.45"."""


class Skip(Exception):
    """A step that cannot run here; the message names the reason."""


@dataclass(frozen=True)
class Context:
    """Where and how large: `device` "cuda" or "cpu"; `tiny` for a try of the code; `folder` for what steps make."""

    device: str
    tiny: bool
    folder: Path


class Step(msgspec.Struct, frozen=True):
    """`run` is the import path "module:function" of a generator of rows, given a `Context`; `seconds` its box of time.

    `rarely`: does not fit the usual time, runs with `--all` or by name. `packages`: imports without which it is skipped.
    """

    name: str
    what: str
    run: str
    seconds: float
    rarely: bool = False
    packages: tuple[str, ...] = ()


def rows_of(step: Step, context: Context) -> Iterator[Row]:
    """Run a step here. Raises Skip."""
    if absent := [package for package in step.packages if importlib.util.find_spec(package) is None]:
        raise Skip(f"not installed here: {', '.join(absent)}")
    module, _, name = step.run.partition(":")
    function: Callable[[Context], Iterator[Row]] = getattr(importlib.import_module(module), name)
    yield from function(context)


def misses(row: Row) -> bool:
    """Whether a row does not keep its `target`."""
    target = row.get("target")
    if not isinstance(target, str):
        return False
    column, sign, bound = target.split()
    value = row[column]
    assert isinstance(value, int | float)
    return not (value <= float(bound) if sign == "<=" else value >= float(bound))
