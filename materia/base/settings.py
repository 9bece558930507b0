"""What may be configured: the base of all settings, which of their fields decide results, and how two trees differ.

A field is marked *result* (it can change what is written; enters a fingerprint) or *execution* (how fast, where). Light to
import: pydantic only.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict


class _Execution:
    """Marker in a field's metadata: does not change results."""


Execution = _Execution()
"""Annotate a field with it to keep it out of fingerprints; every other field is a *result* field."""


class Settings(BaseModel):
    """Base of all settings: unknown fields are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def result_fields(self) -> dict[str, Any]:
        """The values that can change what is written, JSON-able; nested settings likewise."""
        out: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            if any(isinstance(mark, _Execution) for mark in field.metadata):
                continue
            value = getattr(self, name)
            out[name] = value.result_fields() if isinstance(value, Settings) else value
        return out


def fingerprint(values: dict[str, Any]) -> str:
    """SHA-256 (hex) of JSON-able values, independent of key order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Difference(NamedTuple):
    """A leaf of two trees that is not the same; None on the side where it is not there."""

    name: str
    before: Any
    after: Any


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[Difference]:
    """Leaves that differ, by dotted name in alphabetical order, as `--set` calls them: {"a": {"b": 1}} has the leaf "a.b"."""
    old, new = _leaves(before), _leaves(after)
    names = sorted(old.keys() | new.keys())
    return [Difference(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return leaves
