"""Where the workers of a run on Ray leave what they have to say, and find the wish to end; Ray makes an actor of it.

A module of its own: the actor's process imports this, and not torch.
"""

from __future__ import annotations

from materia.base.errors import UserError


class Mailbox:
    """Lines of workers for the user, errors that end the run, the number of the signal that shall end it."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._failures: list[UserError] = []
        self._signal: int | None = None

    def post(self, line: str) -> None:
        self._lines.append(line)

    def take(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines

    def fail(self, error: UserError) -> None:
        self._failures.append(error)

    def failures(self) -> list[UserError]:
        return self._failures

    def interrupt(self, number: int) -> None:
        self._signal = number

    def interrupted(self) -> int | None:
        return self._signal
