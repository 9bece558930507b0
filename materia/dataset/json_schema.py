"""JSON Schemas (draft 2020-12) of what is written as JSON, made from the classes that are written."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Literal

import msgspec

from materia.dataset.documents import Document
from materia.dataset.layout import Commit, DatasetInfo

SchemaName = Literal["sample", "commit", "dataset"]
_WRITTEN: dict[SchemaName, type[msgspec.Struct]] = {"sample": Document, "commit": Commit, "dataset": DatasetInfo}


@functools.cache
def json_schema(name: SchemaName) -> dict[str, Any]:
    """Of KEY.json ("sample"), commits/NNNNNN.json ("commit") or dataset.json ("dataset")."""
    schema = msgspec.json.schema(_WRITTEN[name])
    for part in schema["$defs"].values():
        if "description" in part:
            part["description"] = inspect.cleandoc(part["description"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
