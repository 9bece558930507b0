"""What a model's code wants a person to know while a job runs: said here, carried to the run's log by whoever runs the stages.

A batch that was halved, a server that was slow: not a row's fault, no result, yet nothing to hide.
"""

from __future__ import annotations

_said: list[str] = []


def notice(text: str) -> None:
    """Say something once; the same text again is not repeated until it has been drained."""
    if text not in _said:
        _said.append(text)


def drain() -> list[str]:
    """What was said since the last call."""
    said = list(_said)
    _said.clear()
    return said
