"""Rows of the tables of a sample (index, instances) and of a rejection (rejects): dictionaries that follow schema.py.

A sample's rows are made from KEY.json alone, so the writer and `materia validate` share one definition of every column.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from materia.dataset.documents import Document, InstanceDocument
from materia.dataset.extra import ExtraType, extra_row
from stages.records import Category, Evidence, Rejection

CAPTION_CHARS = 2000
"""Code points of a rejected row's caption that are kept: it may be the very thing that was too long."""


class Member(msgspec.Struct, frozen=True):
    """One file of a sample in a tar: name without the leading `KEY.`, byte offset of its data, bytes."""

    name: str
    offset: int
    size: int


def index_row(document: Document, shard: str, members: list[Member], extra: Mapping[str, ExtraType]) -> dict[str, Any]:
    """The index row of a sample, from its KEY.json and the place of its members in `shard` (path relative to the output).

    `extra`: types of the user's own columns; where there are none, the row has no `extra`.
    """
    masked = [instance for instance in document.instances if not instance.is_face]
    subjects, subject_instances = _words(document, "subject")
    objects, object_instances = _words(document, "object")
    backgrounds, _ = _words(document, "background")
    area_shares = [instance.area_share for instance in masked]
    dropped = [box.dropped for box in document.boxes if box.dropped is not None]
    video = document.video
    return {
        "row": document.row,
        "key": document.key,
        "id": document.id,
        "source_id": document.source_id,
        "shard": shard,
        "n_subjects": len(subject_instances),
        "n_objects": len(object_instances),
        "n_instances": len(masked),
        "n_faces": len(document.instances) - len(masked),
        "subject_words": subjects,
        "object_words": objects,
        "background_words": backgrounds,
        "subject_instances": subject_instances,
        "object_instances": object_instances,
        "frames_with_subject": len({instance.frame for instance in masked if instance.category == "subject"}),
        "min_detector_score": min((instance.detector_score for instance in masked), default=0.0),
        "min_mask_score": min((instance.mask_score for instance in masked), default=0.0),
        "min_link_score": min((one.link_score for one in masked if one.link_score is not None), default=None),
        "ambiguous_words": [link.word for link in document.links if link.ambiguous],
        "n_dropped": len(dropped),
        "dropped": dropped,
        "min_area_share": min(area_shares, default=0.0),
        "max_area_share": max(area_shares, default=0.0),
        "masked_share": document.background.masked_share,
        "borrowed_share": document.background.borrowed_share,
        "residual": max(document.background.residual.values(), default=None),
        "residual_at_large": document.background.residual_at_large,
        "background_sharpness": document.background.sharpness,
        "background_quality": document.background.quality,
        "duration_s": video.duration_s,
        "fps": video.fps,
        "width": video.width,
        "height": video.height,
        "caption": document.caption,
        "caption_chars": len(document.caption),
        "flags": document.flags,
        "bytes": sum(member.size for member in members),
        "members": [msgspec.to_builtins(member) for member in members],
        **({"extra": extra_row(document.extra, extra)} if extra else {}),
    }


def instance_rows(document: Document) -> list[dict[str, Any]]:
    """The rows of a sample's instances, in the order of its KEY.json."""
    tracks = {link.word: number for number, link in enumerate(document.links)}
    second_best = {link.word: link.second_best for link in document.links}
    carried = {(box.word, box.frame) for box in document.boxes if box.chosen and box.carried}
    return [
        {
            "row": document.row,
            "key": document.key,
            "number": number,
            "word": one.word,
            "category": one.category,
            "frame": one.frame,
            "track": tracks.get(one.word),
            "is_face": one.is_face,
            "parent": one.parent,
            **_corners("box", one.box_xyxy_px),
            **_corners("crop", one.crop_xyxy_px),
            "area_share": one.area_share,
            "box_area_share": _box_area_share(one),
            "detector_score": one.detector_score,
            "mask_score": one.mask_score,
            "face_score": one.face_score,
            "overlap_share": one.overlap_share,
            "link_score": one.link_score,
            **{f"evidence_{kind}": getattr(one.evidence, kind, None) for kind in Evidence.__struct_fields__},
            "second_best": second_best.get(one.word),
            "carried": (one.word, one.frame) in carried,
        }
        for number, one in enumerate(document.instances)
    ]


def reject_row(rejection: Rejection) -> dict[str, Any]:
    """The rejects row of a rejection. Never raises for text: what is not valid Unicode is replaced."""
    return {
        "row": rejection.row,
        "key": _text(rejection.key),
        "id": _text(rejection.id),
        "source_id": _text(rejection.source_id),
        "uri": _text(rejection.uri),
        "caption": _text(None if rejection.caption is None else rejection.caption[:CAPTION_CHARS]),
        "stage": rejection.stage,
        "reason": rejection.reason,
        "message": _text(rejection.message),
        "found": msgspec.json.encode(rejection.found).decode(),
    }


def _words(document: Document, category: Category) -> tuple[list[str], list[int]]:
    """Words of a category, those with an instance first (else in the caption's order), and the instances of each of these."""
    instances = Counter(instance.word for instance in document.instances if not instance.is_face)
    words = [entity.word for entity in document.entities if entity.category == category]
    found = [word for word in words if word in instances]
    return found + [word for word in words if word not in instances], [instances[word] for word in found]


def _corners(kind: str, xyxy: tuple[float, float, float, float]) -> dict[str, float]:
    return {f"{kind}_{side}": value for side, value in zip(("x1", "y1", "x2", "y2"), xyxy, strict=True)}


def _box_area_share(instance: InstanceDocument) -> float:
    (x1, y1, x2, y2), (height, width) = instance.box_xyxy_px, instance.mask_rle.size
    return round((x2 - x1) * (y2 - y1) / (width * height), 6)


def _text(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")
