"""A hash of rows in their order that is put together from hashes of pieces: the same wherever the cuts between them are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

_PRIME = 2**256 - 189
_STEP = int.from_bytes(hashlib.sha256(b"one row further").digest(), "big")


@dataclass
class RowsHash:
    """Of `rows` rows so far: their SHA-256 as digits of one number, modulo a prime. Tells changes; withstands no attacker."""

    rows: int = 0
    value: int = 0

    def add(self, row: bytes) -> None:
        """See one more row."""
        self.rows += 1
        self.value = (self.value * _STEP + int.from_bytes(hashlib.sha256(row).digest(), "big")) % _PRIME

    def then(self, after: RowsHash) -> RowsHash:
        """The hash of these rows and those after them."""
        value = (self.value * pow(_STEP, after.rows, _PRIME) + after.value) % _PRIME
        return RowsHash(self.rows + after.rows, value)
