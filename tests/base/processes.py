"""Of processes that tests started, and that may end at any moment, between two questions, too."""

from collections.abc import Iterable

import psutil


def lives(process: psutil.Process) -> bool:
    """Whether it has not ended; nobody may have asked yet for the exit code of one that has."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def living(pids: Iterable[int]) -> list[psutil.Process]:
    """Those of them that have not ended."""
    found = []
    for pid in pids:
        try:
            found.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    return [process for process in found if lives(process)]
