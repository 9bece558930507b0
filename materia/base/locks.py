"""One process at a time: a lock on a local file, which ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_held: set[Path] = set()
"""Of this process: the kernel refuses a lock to others only."""


@contextmanager
def only_one(path: Path, is_held: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a file, which is made if need be and names its holder.

    If another has it, `is_held` is told who; when that returns, we wait for another process. Where the file system knows no
    locks, nothing is held.
    Not flock: forked workers would inherit it, and hold it for a while after their parent was killed.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path in _held:
        is_held(f"process {os.getpid()}, this one")
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            is_held(file.read().strip())
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError:  # the file system has none
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}: {' '.join(sys.argv)}\n")
        file.flush()
        _held.add(path)
        try:
            yield
        finally:
            _held.discard(path)
