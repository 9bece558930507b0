"""Whether an object is as a CustomResourceDefinition wants it, asked before it is handed in: Kubernetes drops fields that it
does not know without a word, and a misspelt one is then simply not there.

In: the CRD's file (YAML or JSON, of which one document is the CRD of the object's kind), an object. Out: what is wrong, a line
each.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator

from materia.base.errors import UserError

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # these files have a megabyte and more


def check(document: dict[str, Any], file: str | Path) -> list[str]:
    """Problems of an object, by its path in it, in order. Raises UserError if the file has no CRD of its kind and version."""
    schema = _schema(document, Path(file))
    validator = Draft7Validator(_strict(schema))
    problems = sorted(validator.iter_errors(document), key=lambda error: [str(part) for part in error.absolute_path])
    return [f"{_place(problem.absolute_path)}: {problem.message}" for problem in problems]


def _schema(document: dict[str, Any], file: Path) -> dict[str, Any]:
    group, _, version = document["apiVersion"].partition("/")
    kind = document["kind"]
    for definition in _documents(file):
        spec = definition.get("spec", {}) if definition.get("kind") == "CustomResourceDefinition" else {}
        if (spec.get("group"), spec.get("names", {}).get("kind")) != (group, kind):
            continue
        for one in spec.get("versions", []):
            if one.get("name") == version:
                found: dict[str, Any] = one["schema"]["openAPIV3Schema"]
                return found
    raise UserError(f"{file}: has no CustomResourceDefinition of {kind} in {document['apiVersion']}")


def _documents(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with file.open(encoding="utf-8") as text:
            yield from (one for one in yaml.load_all(text, Loader=_Loader) if isinstance(one, dict))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: this is no YAML: {getattr(error, 'problem', None) or error}") from None


def _strict(schema: Any) -> Any:
    """The schema as JSON schema: a field that is not listed is an error, and Kubernetes' own words are translated."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if "properties" in schema and isinstance(schema["properties"], dict):
        strict["properties"] = {name: _strict(part) for name, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
            strict["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
        strict["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        strict["type"] = [schema["type"], "null"]
    return strict


def _place(path: Any) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).lstrip(".") or "the object"
