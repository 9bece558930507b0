"""What the page shows of one sample or one rejected row, as plain data: no picture is in it, and no word of it is markup.

In: an output and a number. Out: dictionaries for JSON. Whatever cannot be read becomes `problem`, a sentence.
"""

from __future__ import annotations

from typing import Any

import msgspec

from materia.dataset.documents import Document, InstanceDocument
from materia.dataset.layout import OutputError
from materia.dataset.why import cure
from materia.view.output import BRIEF, Output
from stages.records import EntityWord


def tracks_of(document: Document) -> dict[str, int]:
    """Word (case-folded) -> number of its individual: its place in `links`, or where there are none, among the words masked."""
    words = [link.word for link in document.links]
    words += [one.word for one in document.instances]
    return {word: number for number, word in enumerate(dict.fromkeys(word.casefold() for word in words))}


def card(output: Output, number: int) -> dict[str, Any]:
    """A sample in the grid: caption with its words, the boxes of its frames and its references."""
    try:
        row = output.row(number, columns=BRIEF)
    except OutputError as error:
        return {"n": number, "problem": str(error)}
    about = {"n": number, "key": row["key"], "caption": row.get("caption")}
    try:
        document = output.document(number)
    except OutputError as error:
        return about | {"problem": str(error)}
    tracks = tracks_of(document)
    return about | {
        "caption": document.caption,
        "width": document.instances[0].mask_rle.size[1],
        "height": document.instances[0].mask_rle.size[0],
        "entities": [_entity(entity, tracks) for entity in document.entities],
        "frames": msgspec.to_builtins(document.frames),
        "instances": [_instance(one, tracks) for one in document.instances],
    }


def _entity(entity: EntityWord, tracks: dict[str, int]) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(entity)
    return values | {"track": tracks.get(entity.word.casefold())}


def _instance(one: InstanceDocument, tracks: dict[str, int]) -> dict[str, Any]:
    """All of it but its mask, which is a picture of its own."""
    values: dict[str, Any] = msgspec.to_builtins(one)
    del values["mask_rle"]
    return values | {"track": tracks[one.word.casefold()]}


def sample(output: Output, number: int) -> dict[str, Any]:
    """A sample by itself: its card, and everything else that is known of it."""
    about = card(output, number)
    if "key" not in about:
        return about
    row = output.row(number)
    about |= {"extra": row.get("extra") or {}, "shard": row["shard"], "members": row["members"]}
    about["row"] = {name: value for name, value in row.items() if name not in ("members", "extra", "caption")}
    if "problem" in about:
        return about
    document = output.document(number)
    background = msgspec.to_builtins(document.background)
    about |= {
        "video": msgspec.to_builtins(document.video),
        "links": msgspec.to_builtins(document.links),
        "candidates": [msgspec.to_builtins(box) for box in document.boxes if not box.chosen or box.dropped],
        "background": {name: value for name, value in background.items() if not name.endswith("_rle")},
        "has_borrowed": document.background.borrowed_rle is not None,
        "provenance": msgspec.to_builtins(document.provenance),
        "extra": document.extra,
        "source": {name: getattr(document, name) for name in ("uri", "source_id", "start_s", "end_s", "id", "row")},
    }
    return about


def rejection(output: Output, number: int) -> dict[str, Any]:
    """A rejected row: why, what to do about it, and what was found until then."""
    try:
        row = output.row(number, "rejects")
    except OutputError as error:
        return {"n": number, "problem": str(error)}
    try:
        found = msgspec.json.decode(row.pop("found") or "{}")
    except (msgspec.MsgspecError, RecursionError):
        found = {}
    found = found if isinstance(found, dict) else {}
    entities = [one for one in _dictionaries(found.get("entities")) if isinstance(one.get("word"), str)]
    words = dict.fromkeys(str(one["word"]).casefold() for one in entities if one.get("category") != "background")
    tracks = {word: number for number, word in enumerate(words)}
    boxes = [
        {**box, "track": tracks.get(box["word"].casefold(), 0)}
        for box in _dictionaries(found.get("boxes"))
        if isinstance(box.get("word"), str) and _is_box(box.get("box_xyxy_px")) and box.get("frame") in (0, 1, 2)
    ]
    entities = [{**one, "track": tracks.get(one["word"].casefold()), "spans": _spans(one.get("spans"))} for one in entities]
    return row | {"n": number, "cure": cure(row["reason"]), "entities": entities, "boxes": boxes, "found": found}


def _dictionaries(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(isinstance(side, int | float) for side in value)


def _spans(value: Any) -> list[list[int]]:
    spans = value if isinstance(value, list) else []
    return [span for span in spans if isinstance(span, list) and len(span) == 2 and all(isinstance(end, int) for end in span)]
