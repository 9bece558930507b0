"""Errors that are written for the user: what was wrong, where, what to do about it. Commands print them and nothing else."""

from __future__ import annotations

from typing import ClassVar


class UserError(ValueError):
    """Something that the user can mend; the message is a sentence, or one a line.

    `exit_code`: of the command that it ends (materia/cli/main.py lists them).
    """

    exit_code: ClassVar[int] = 2
