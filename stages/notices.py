"""What code of stages and models wants a person to know while a job runs: said here, carried to the run's log by whoever runs
the stages.

A batch that was halved, a server that was slow: not a row's fault, no result, yet nothing to hide. Tracebacks of what nobody
foresaw go the same way.
"""

from __future__ import annotations

import sys
import traceback

_said: list[str] = []
_traced: list[str] = []
_known: set[int] = set()  # hashes of the tracebacks told: of a thousand rows that fail alike, one is enough


def begin() -> None:
    """Nothing was said yet: a worker starts."""
    for told in (_said, _traced, _known):
        told.clear()


def notice(text: str) -> None:
    """Say something once; the same text again is not repeated until it has been drained."""
    if text not in _said:
        _said.append(text)


def trace(where: str, error: BaseException) -> None:
    """Tell the traceback of an error, here and on standard error, each once."""
    text = "".join(traceback.format_exception(error))
    if hash(text) not in _known:
        _known.add(hash(text))
        _traced.append(f"{where}: {text}")
        sys.stderr.write(_traced[-1])


def drain() -> list[str]:
    """What was said since the last call."""
    return _drained(_said)


def drain_traces() -> list[str]:
    """The tracebacks since the last call."""
    return _drained(_traced)


def _drained(texts: list[str]) -> list[str]:
    taken = list(texts)
    texts.clear()
    return taken
