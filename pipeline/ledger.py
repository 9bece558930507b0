"""Keeping the ledger of an output while it grows: a file for each thousand chunks, written once all their records are there.

In: numbers of chunks, as they are committed. Out: files in `commits/ledger/`, which repeat the records
(materia/dataset/layout.py). A crash at any point leaves files that are right: each is written after the records in it, and
removed before one is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable

from materia.base import storage
from materia.dataset.layout import LEDGER_CHUNKS, committed, in_ledger, ledger_address, records_of, write_ledger


class Ledger:
    """Of an output of `n_chunks` chunks; `done` of them are committed."""

    def __init__(self, out: str, n_chunks: int, done: Iterable[int]) -> None:
        self._out = out
        self._files = n_chunks // LEDGER_CHUNKS  # chunks at the end that make no thousand have none
        self._written = set(in_ledger(out))
        self._left = {number: set(_chunks_of(number)) for number in range(self._files) if number not in self._written}
        for chunk in done:
            self._leave(chunk)

    def add(self, chunk: int) -> None:
        """A chunk was committed; writes a file if it was the last of its thousand."""
        self._leave(chunk)
        self._write_whole()

    def remove(self, chunks: Iterable[int]) -> None:
        """Records of chunks will be replaced: the files with them are removed, to be written again when these are added."""
        for chunk in chunks:
            number = chunk // LEDGER_CHUNKS
            if number in self._written:
                storage.remove(ledger_address(self._out, number))
                self._written.discard(number)
                self._left[number] = set()
            if number in self._left:
                self._left[number].add(chunk)

    def finish(self) -> None:
        """Write what is whole, also where another job committed the rest."""
        if any(0 < len(left) < LEDGER_CHUNKS for left in self._left.values()):
            for chunk in committed(self._out):
                self._leave(chunk)
        self._write_whole()

    def _leave(self, chunk: int) -> None:
        left = self._left.get(chunk // LEDGER_CHUNKS)
        if left is not None:
            left.discard(chunk)

    def _write_whole(self) -> None:
        for number in [number for number, left in self._left.items() if not left]:
            write_ledger(self._out, number, records_of(self._out, list(_chunks_of(number))))
            self._written.add(number)
            del self._left[number]


def _chunks_of(number: int) -> range:
    return range(number * LEDGER_CHUNKS, (number + 1) * LEDGER_CHUNKS)


def spans(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Numbers as (first, one after the last) of each run of consecutive ones, ascending."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found
