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
        """Say this to the user."""
        self._lines.append(line)

    def take(self) -> list[str]:
        """What was posted since the last time."""
        lines, self._lines = self._lines, []
        return lines

    def fail(self, error: UserError) -> None:
        """End the run with this error of a worker."""
        self._failures.append(error)

    def failures(self) -> list[UserError]:
        """Errors of all workers so far."""
        return self._failures

    def interrupt(self, number: int) -> None:
        """Ask workers to end as after this signal."""
        self._signal = number

    def interrupted(self) -> int | None:
        """The signal, once there is one."""
        return self._signal
