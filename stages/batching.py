"""Running a model over many items in batches that fit the device.

In: items, a batch size, a function. Out: its results, in order. A batch that does not fit the device's memory is cut in half,
and so are those after it, which is said (stages/notices.py); one item that does not fit alone raises OutOfMemoryError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from stages.notices import notice

T = TypeVar("T")
R = TypeVar("R")


class OutOfMemoryError(RuntimeError):
    """One item alone does not fit the device. The message is the same in every run; the device's own words are its cause."""


class Batches:
    """A batch size that shrinks when the device runs out of memory, and stays so for the life of the model.

    `what` names the model and the option, e.g. "localise.options.batch_size"; `size` >= 1 items.
    """

    def __init__(self, what: str, size: int) -> None:
        self.what = what
        self.size = size

    def run(self, items: Sequence[T], call: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
        """Call on consecutive batches; `call` gives one result for each item. Raises OutOfMemoryError for a single one."""
        results: list[R] = []
        while len(results) < len(items):
            batch = items[len(results) : len(results) + self.size]
            try:
                results += call(batch)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    message = f"{self.what}: out of memory on the device with a single item; book more of the card (num_gpus)"
                    raise OutOfMemoryError(message) from error
                self.size = len(batch) // 2
                notice(f"{self.what}: {len(batch)} items do not fit the device's memory; going on with {self.size}")
                _free_cached_memory()
        return results


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device ran out of memory: torch's error or ours; known by name, so that torch need not be there."""
    return any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__)


def _free_cached_memory() -> None:
    """What torch keeps for later would be missing now."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
