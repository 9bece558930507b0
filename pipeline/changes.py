"""In words, what of a job is no longer as it was when its output was begun.

In: what dataset.json says and what it would say now, and the versions of the libraries then and now. Out: a line each, causes
only: the fingerprint of a stage that differs because a setting does is not told again. Hashes are never shown, as they tell
nobody anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from materia.base.settings import Difference, differences
from materia.dataset.layout import DatasetInfo
from stages.records import StageName
from stages.specs import STAGES, StageSpec

_HASH = re.compile(r"[0-9a-f]{16,}")
_CONFIG, _STAGE = "config.", "stage_sha."


def changes(old: DatasetInfo, new: DatasetInfo, library: dict[str, str] | None, library_now: dict[str, str]) -> list[str]:
    """The lines, the configuration first; none if nothing differs. `library`: name -> version then, None if not known."""
    before, after = (msgspec.json.decode(msgspec.json.encode(dataset)) for dataset in (old, new))
    found = {difference.name: difference for difference in differences(before, after)}
    if not found:
        return []
    libraries = [] if library is None else differences({"library": library}, {"library": library_now})
    lines = [_line(name.removeprefix(_CONFIG), found[name]) for name in found if name.startswith(_CONFIG)]
    if "prompt_sha" in found and "config.entities.prompt" not in found:
        lines.append(f"prompts/{old.config.get('entities', {}).get('prompt', 'entities')}/ changed")
    lines += [_line(difference.name, difference) for difference in libraries]
    if "version" in found:
        lines.append(f"version {old.version} of prima-materia made it, this is version {new.version}")
    named = {difference.name.partition(".")[2] for difference in libraries}
    for name, difference in found.items():
        if name.startswith(_STAGE):
            stage = name.removeprefix(_STAGE)
            has_backend = "backend" in old.config.get(stage, {})
            lines += _of_stage(stage, found, named, library, has_backend)
        elif not name.startswith(_CONFIG) and name not in ("prompt_sha", "version") and f"config.engine.{name}" not in found:
            lines.append(_line(name, difference))
    return lines


def _of_stage(
    stage: StageName, found: dict[str, Difference], libraries: set[str], library: dict[str, str] | None, has_backend: bool
) -> Iterator[str]:
    """Why a stage's fingerprint differs, unless that was said: by a setting, a prompt, a library, or a stage whose model it
    uses too. `has_backend`: the stage's settings name one; those of frames do not while it has no weights."""
    difference = found[_STAGE + stage]
    if difference.before is None or difference.after is None:
        yield f"stage {stage} is {'new in' if difference.before is None else 'not in'} this version"
        return
    spec = next((spec for spec in STAGES if spec.name == stage), None)
    if spec is None:
        yield f"this version computes stage {stage} differently"
    elif not _explained(spec, found, libraries):
        yield ", or ".join(_causes(spec, has_backend, "version" in found, library is not None))


def _explained(spec: StageSpec, found: dict[str, Difference], libraries: set[str]) -> bool:
    parts = {spec.name, *spec.built_with}
    others = {part for part in parts if "." not in part} - {spec.name}  # of a part of a section no model is used
    fields = [name.removeprefix(_CONFIG) for name in found if name.startswith(_CONFIG)]
    return (
        any(field == part or field.startswith(f"{part}.") for field in fields for part in parts)
        or not libraries.isdisjoint(spec.libraries)
        or any(_STAGE + other in found for other in others)
        or (spec.name == "entities" and "prompt_sha" in found)
    )


def _causes(spec: StageSpec, has_backend: bool, other_version: bool, libraries_known: bool) -> Iterator[str]:
    """What may have changed that is recorded as a hash only; the likeliest first."""
    if has_backend:
        yield f"the weights of {spec.name} changed"
    if spec.name == "entities":
        from stages.entities.stage import LEXICONS

        yield f"another version of {' or '.join(LEXICONS)} reads its words"
    if not has_backend or other_version:
        yield f"this version computes stage {spec.name} differently"
    if spec.libraries and not libraries_known:
        yield f"another version of {' or '.join(spec.libraries)} does"


def _line(name: str, difference: Difference) -> str:
    if any(isinstance(value, str) and _HASH.fullmatch(value.lower()) for value in difference[1:]):
        return f"{name} changed"
    return f"{name}: {_shown(difference.before)} -> {_shown(difference.after)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-12:]}"
