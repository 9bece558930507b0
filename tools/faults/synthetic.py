"""An S3 server whose objects are not stored but made when they are asked for, so that a folder of millions costs nothing.

In: listings of objects as sorted names with sizes, and a function that makes one's bytes. Out: HEAD, GET with byte ranges,
ListObjectsV2 in pages, as S3 has them; what is PUT is kept in memory and covers what is made, what is deleted has gone. Slow on
request: every answer takes `delay_s`. Conditions of writes are checked; uploads in parts are not taken.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

_MOST_KEYS = 1000
_TIME = "2026-01-01T00:00:00.000Z"
_HTTP_TIME = "Thu, 01 Jan 2026 00:00:00 GMT"


class Made(Protocol):
    """Objects that exist without being stored, by their names in the bucket."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, place: int, /) -> str:
        """Names in ascending order of their UTF-8 bytes."""
        ...


@dataclass
class Store:
    """The objects of all buckets, by `bucket/name`: those in `names`, whose bytes `make` makes, and those that were put.

    `sizes` says how long one is without making it. `requests` counts by method, LIST apart.
    """

    names: Sequence[str] = ()
    make: Callable[[str], bytes] = lambda name: b""
    size: Callable[[str], int] | None = None
    delay_s: float = 0.0
    requests: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self._put: dict[str, bytes] = {}
        self._gone: set[str] = set()
