"""Errors that are written for the user: what was wrong, where, what to do about it. Commands print them and nothing else."""

from __future__ import annotations

import errno
from typing import ClassVar

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


class UserError(ValueError):
    """Something that the user can mend; the message is a sentence, or one a line.

    `exit_code`: of the command that it ends (materia/cli/main.py lists them).
    """

    exit_code: ClassVar[int] = 2


def is_disk_trouble(error: BaseException) -> bool:
    """Whether a disk is full or must not be written: nothing that a clip or another attempt could change."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def explain(error: OSError) -> tuple[str, int]:
    """(sentence, exit code) of what the system says of a file: 5 where the same command goes on when there is room."""
    what = error.strerror or str(error) or type(error).__name__
    told = f"{error.filename}: {what}" if error.filename else what
    if is_disk_trouble(error):
        return f"{told}; when the disk takes files again, the same command goes on", 5
    return told, 2
