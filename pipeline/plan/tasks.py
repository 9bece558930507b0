"""Pieces of planning that are done side by side, or one after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

_WORTH_BYTES = 2**26  # of the input: below this, other processes have hardly started when it is read

W = TypeVar("W")
R = TypeVar("R")


class Tasks(Protocol):
    """Runs a function of a module over works, in other processes: yields the number of each and what it gave, as they finish.

    Raises what the function raises. Both must be such that they can be sent.
    """

    def __call__(self, function: Callable[[W], R], works: Sequence[W]) -> Iterator[tuple[int, R]]:
        """See the class."""
        ...


def if_worth(tasks: Tasks | None, n_bytes: int) -> Tasks | None:
    """`tasks`, where that much is to be read."""
    return tasks if n_bytes >= _WORTH_BYTES else None


def in_order(function: Callable[[W], R], works: Sequence[W], tasks: Tasks | None) -> list[R]:
    """What the function gives for each of the works, by `tasks` or here."""
    if tasks is None:
        return [function(work) for work in works]
    found = dict(tasks(function, works))
    return [found[number] for number in range(len(works))]
