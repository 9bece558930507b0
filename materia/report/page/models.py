"""What an output was made with: its settings by section, and the weights that its models name.

In: dataset.json. Out: texts for the template. Only backends that come along are asked for their weights: a foreign dataset.json
must not say which module is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from materia.base.errors import UserError
from materia.dataset.layout import DatasetInfo
from stages.backends import BUILTIN, build_backend


class Model(NamedTuple):
    """A model of a stage, or of a part of it. `weights`: address and SHA-256 (empty: unknown); `note`: why none are named."""

    stage: str
    backend: str
    weights: list[tuple[str, str]]
    note: str


def settings(info: DatasetInfo) -> dict[str, list[tuple[str, str]]]:
    """Section -> (dotted name, value as JSON)."""
    return {section: list(_flat("", value)) for section, value in info.config.items()}


def models(info: DatasetInfo) -> list[Model]:
    """Of each section that chooses one, in the order of a clip's way."""
    sections = {name: _section(info.config, name) for name in BUILTIN}
    return [_model(name, section) for name, section in sections.items() if isinstance(section.get("backend"), str)]


def _model(stage: str, section: Mapping[str, Any]) -> Model:
    backend, options = section["backend"], section.get("options")
    if backend not in BUILTIN[stage]:
        return Model(stage, backend, [], "a backend of your own: its weights are in the fingerprint of the stage")
    try:
        named = build_backend(stage, backend, options if isinstance(options, dict) else {}).weights()
    except (UserError, ImportError) as error:
        return Model(stage, backend, [], f"not known here: {error}")
    return Model(stage, backend, [(one.address, one.sha256 or "") for one in named], "" if named else "no weights")


def _section(config: Mapping[str, Any], dotted: str) -> dict[str, Any]:
    part: Any = config
    for name in dotted.split("."):
        part = part.get(name) if isinstance(part, dict) else None
    return part if isinstance(part, dict) else {}


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), inner)
    else:
        yield name, msgspec.json.encode(value).decode()
