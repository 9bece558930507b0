"""The contract in JSON, made from the classes that are written, is what it was: a change needs another schema version."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from materia.dataset.json_schema import json_schema

PINNED = Path(__file__).resolve().parents[1] / "data" / "schemas"


@pytest.mark.parametrize("name", ["sample", "commit", "dataset"])
def test_schemas_are_those_that_were_pinned(name):
    Draft202012Validator.check_schema(json_schema(name))
    assert json_schema(name) == json.loads((PINNED / f"{name}.schema.json").read_text(encoding="utf-8"))
