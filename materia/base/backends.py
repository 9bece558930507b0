"""How an exchangeable part is found and built: by a short name of ours, or by an import path ("package.module:Class").

So a user's own model or encoder needs no change here; modules are imported when they are named, options are the keyword
arguments of the constructor. What such a part must offer is said where it is used: stages/backends.py,
trainer/encoders/base.py.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from materia.base.errors import UserError


class BackendError(UserError):
    """A backend that cannot be found or built from its options; the message names the setting, the value and the fix."""


def find_backend(setting: str, backend: str, known: Mapping[str, str]) -> Any:
    """Import a class; `known`: short name -> import path, `setting`: dotted name of the section that asks for it.

    Raises BackendError, naming the nearest known name.
    """
    path = known.get(backend, backend)
    module, colon, name = path.partition(":")
    if not colon:
        raise BackendError(
            f"{setting}.backend: {backend!r} is not one of {sorted(known)} and no import path like package.module:Class"
            + _nearest(backend, list(known))
        )
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BackendError(f"{setting}.backend: cannot import {path!r}: {error}") from error


def build_backend(setting: str, backend: str, options: Mapping[str, Any], known: Mapping[str, str]) -> Any:
    """Import and construct, see `find_backend`. Raises BackendError also for an option that the class does not take."""
    cls = find_backend(setting, backend, known)
    accepted = list(inspect.signature(cls).parameters)
    for option in options:
        if option not in accepted:
            raise BackendError(f"{setting}.options: {backend!r} has no option {option!r}{_nearest(option, accepted)}")
    try:
        return cls(**options)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise BackendError(f"{setting}.options: {backend!r}: {error}") from error


def _nearest(name: str, known: list[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {match[0]!r}?" if match else f"; known: {', '.join(known) or 'none'}"
