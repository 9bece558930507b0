"""Errors that are written for the user: what was wrong, where, what to do about it. Commands print them and nothing else."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_SQLITE_NO_ROOM = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR_WRITE: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
}


class UserError(ValueError):
    """Something that the user can mend; the message is a sentence, or one a line.

    `exit_code`: of the command that it ends (materia/cli/main.py lists them).
    """

    exit_code: int = 2


class StorageFailed(OSError):
    """The storage failed for every attempt; the message names the last error's type or code, not its text.

    That may hold addresses of servers, credentials, and request ids that differ from run to run. `address` is what was asked
    for, if it is known.
    """

    address = ""
    exit_code = 5
    """Of a job that it ends; the same command may go on."""


class NoWayIn(StorageFailed):
    """The storage lets this process in for nothing: no credentials, or refused ones, or no package that knows it.

    The message says what to set or install. No clip is at fault, and the next one would fare no better.
    """

    def __init__(self, message: str, expired: bool = False) -> None:
        super().__init__(message)
        self.expired = expired
        self.exit_code = 5 if expired else 2


def lasting_trouble(error: BaseException) -> OSError | None:
    """What an error, or one that caused it, says of a full or read-only disk, or of a storage that lets nobody in: nothing that
    a clip or another try could change, so that the job must stop. None if it is about something else.
    """
    closed = (cause for cause in causes(error) if isinstance(cause, NoWayIn))
    return next(closed, None) or disk_trouble(error)


def disk_trouble(error: BaseException) -> OSError | None:
    """What an error, or one that caused it, says of a full or read-only disk: nothing that a clip or another try could change.

    Libraries have their own errors for it (SQLite's codes, FFmpeg's errno). None if it is about something else.
    """
    for cause in causes(error):
        number = getattr(cause, "errno", None)
        if isinstance(cause, sqlite3.Error):
            number = _SQLITE_NO_ROOM.get(getattr(cause, "sqlite_errorcode", 0))
        if number in _NO_ROOM:
            return OSError(number, os.strerror(number), getattr(cause, "filename", None) or None)
    return None


def explain(error: OSError) -> tuple[str, int]:
    """(sentence, exit code) of what the system or a storage says of a file: 5 where the same command goes on later."""
    if isinstance(error, StorageFailed):
        later = "" if isinstance(error, NoWayIn) else "; when it answers again, the same command goes on"
        return f"{error.address or 'storage'}: {error}{later}", error.exit_code
    what = error.strerror or str(error) or type(error).__name__
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if disk_trouble(error) is None:
        return f"{place}: {what}" if place else what, 2
    scratch = tempfile.gettempdir()
    if place.startswith(f"{scratch}/materia-"):  # a name by chance says nothing
        place = f"{scratch} (TMPDIR)"
    return f"{place or 'a disk'}: {what}; when it takes files again, the same command goes on", 5


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it was raised from or while handling."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
