"""Byte ranges of files, and the tar headers before them: members that lie together are read together, and nothing else is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, BinaryIO

from materia.base import retries, storage
from materia.dataset.layout import OutputError

GAP_BYTES = 64 << 10
"""Ranges that lie no further apart are read in one go."""
OPEN_FILES = 256
"""Of a reader at once: a process may often have no more than 1024."""
HEADER_BYTES = 512
"""A member's header ends where its data begins: its name in the first 100 bytes, "ustar" at byte 257 [POSIX.1 ustar]."""


class RangeReader:
    """Byte ranges of the files below an address; the last opened stay open, each process opens its own.

    `advice`: what to do about a file that cannot be read or ends early, the end of the OutputError's message.
    """

    def __init__(self, root: str, advice: str) -> None:
        self.root = root
        self.advice = advice
        self._files: dict[str, BinaryIO] = {}
        self._process = os.getpid()

    def read(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, size) of a file, in the order of `ranges`. Raises OutputError naming the file."""
        found: dict[tuple[int, int], bytes] = {}
        for run in _runs(sorted(set(ranges))):
            first, end = run[0][0], sum(run[-1])
            data = self._read_range(name, first, end - first)
            found |= {(offset, size): data[offset - first : offset - first + size] for offset, size in run}
        return [found[wanted] for wanted in ranges]

    def close(self) -> None:
        """Close the files that were opened."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay in the process that opened them; a loader's worker opens its own."""
        return {**self.__dict__, "_files": {}}

    def _read_range(self, name: str, offset: int, size: int) -> bytes:
        address = storage.join(self.root, name)
        if self._process != os.getpid():  # after a fork: the place in a file would be shared with the parent
            self._files, self._process = {}, os.getpid()
        try:
            data = retries.persistently(lambda: self._read_once(address, offset, size))
        except OSError as error:
            raise OutputError(f"{address} cannot be read: {error}; {self.advice}") from error
        if len(data) != size:
            raise OutputError(f"{address} ends before byte {offset + size}; {self.advice}")
        return data

    def _read_once(self, address: str, offset: int, size: int) -> bytes:
        if address not in self._files:
            if len(self._files) == OPEN_FILES:
                self._files.pop(next(iter(self._files))).close()
            self._files[address] = storage.open_read(address)
        file = self._files[address]
        try:
            file.seek(offset)
            return file.read(size)
        except Exception:  # another attempt opens it anew
            self._files.pop(address).close()
            raise


def is_header_of(header: bytes, name: str) -> bool:
    """Whether the bytes before a member's data are its header."""
    return header[257:262] == b"ustar" and header[:100].rstrip(b"\0") == name.encode()[:100]


def _runs(ranges: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """(offset, size) in the order of their offsets -> groups that are read in one go."""
    runs: list[list[tuple[int, int]]] = []
    for wanted in ranges:
        if runs and wanted[0] - sum(runs[-1][-1]) <= GAP_BYTES:
            runs[-1].append(wanted)
        else:
            runs.append([wanted])
    return runs
