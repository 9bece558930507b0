"""What is written about a row: KEY.json of a sample, its row in the index, a rejection's row in rejects.

In: records of stages/. Out: plain dicts that follow the schemas beside this module, in the schemas' field order. The index row
is made from KEY.json alone, so the writer and `materia validate` share one definition of every column. Numbers are rounded
(pixels to 0.01, everything else to 1e-6): a float32's last digits are noise and are not recorded as if they meant something.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import msgspec

from materia.dataset.schema import CONTAINERS, VERSION
from stages.records import Category, Instance, Rejection, Sample
from stages.specs import FINGERPRINTED

CAPTION_CHARS = 2000
"""Code points of a rejected row's caption that are kept: it may be the very thing that was too long."""


class Provenance(msgspec.Struct, frozen=True):
    """What made a sample: content hash of the prompt, and stage -> fingerprint (settings, prompt, weights)."""

    prompt_sha: str
    stage_sha: dict[str, str]


class Member(msgspec.Struct, frozen=True):
    """One file of a sample in a tar: name without the leading `KEY.`, byte offset of its data, bytes."""

    name: str
    offset: int
    size: int


def sample_document(sample: Sample, provenance: Provenance) -> dict[str, Any]:
    """KEY.json of a finished sample. Raises ValueError when a part is missing or a number is not finite."""
    clip, video, background = sample.clip, sample.video, sample.background
    if video is None or background is None or len(sample.frames) != 3 or not sample.instances:
        raise ValueError("a stage handed the sample on without its video, three frames, instances or background")
    if video.container not in CONTAINERS:
        raise ValueError(f"video.container {video.container!r} is not one of {', '.join(CONTAINERS)}")
    return {
        "schema": VERSION,
        "row": clip.row,
        "key": clip.key,
        "id": clip.id,
        "source_id": clip.source_id,
        "uri": clip.uri,
        "start_s": None if clip.start_s is None else _finite(clip.start_s, "start_s"),
        "end_s": None if clip.end_s is None else _finite(clip.end_s, "end_s"),
        "caption": clip.caption,
        "extra": clip.extra,
        "flags": list(sample.flags),
        "video": {
            "member": video.container,
            "container": video.container,
            "codec": video.codec,
            "width": video.width,
            "height": video.height,
            "rotation": video.rotation,
            "sar": video.sar,
            "fps": _finite(video.fps, "fps"),
            "duration_s": _finite(video.duration_s, "duration_s"),
            "n_frames": video.n_frames,
            "reencoded": video.reencoded,
        },
        "entities": [
            {"word": entity.word, "category": entity.category, "spans": [list(span) for span in entity.spans]}
            for entity in sample.entities
        ],
        "frames": [
            {
                "percent": frame.percent,
                "index": frame.index,
                "time_s": _finite(frame.time_s, "time_s"),
                "member": f"frame{number}.jpg",
            }
            for number, frame in enumerate(sample.frames)
        ],
        "instances": [_instance(instance, number) for number, instance in enumerate(sample.instances)],
        "background": {
            "member": "background.png",
            "word": background.word,
            "method": background.method,
            "masked_share": _finite(background.masked_share, "masked_share"),
            "residual": {word: _finite(score, f"residual of {word!r}") for word, score in background.residual.items()},
        },
        "provenance": {
            "prompt_sha": provenance.prompt_sha,
            "stage_sha": {stage: provenance.stage_sha[stage] for stage in FINGERPRINTED},
        },
    }


def index_row(document: dict[str, Any], shard: str, members: list[Member]) -> dict[str, Any]:
    """The index row of a sample, from its KEY.json and the place of its members in `shard` (path relative to the output)."""
    masked = [instance for instance in document["instances"] if not instance["is_face"]]
    subjects, subject_instances = _words(document, "subject")
    objects, object_instances = _words(document, "object")
    backgrounds, _ = _words(document, "background")
    area_shares = [instance["area_share"] for instance in masked]
    video = document["video"]
    return {
        "row": document["row"],
        "key": document["key"],
        "id": document["id"],
        "source_id": document["source_id"],
        "shard": shard,
        "n_subjects": len(subject_instances),
        "n_objects": len(object_instances),
        "n_instances": len(masked),
        "n_faces": len(document["instances"]) - len(masked),
        "subject_words": subjects,
        "object_words": objects,
        "background_words": backgrounds,
        "subject_instances": subject_instances,
        "object_instances": object_instances,
        "frames_with_subject": len({instance["frame"] for instance in masked if instance["category"] == "subject"}),
        "min_detector_score": min((instance["detector_score"] for instance in masked), default=0.0),
        "min_mask_score": min((instance["mask_score"] for instance in masked), default=0.0),
        "min_area_share": min(area_shares, default=0.0),
        "max_area_share": max(area_shares, default=0.0),
        "masked_share": document["background"]["masked_share"],
        "residual": max(document["background"]["residual"].values(), default=None),
        "duration_s": video["duration_s"],
        "fps": video["fps"],
        "width": video["width"],
        "height": video["height"],
        "caption_chars": len(document["caption"]),
        "flags": document["flags"],
        "bytes": sum(member.size for member in members),
        "members": [msgspec.to_builtins(member) for member in members],
    }


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


def _instance(instance: Instance, number: int) -> dict[str, Any]:
    about = f"of {instance.word!r} in frame {instance.frame}"
    return {
        "word": instance.word,
        "category": instance.category,
        "frame": instance.frame,
        "box_xyxy_px": [_finite(side, f"box {about}", digits=2) for side in instance.box_xyxy_px],
        "detector_score": _finite(instance.detector_score, f"detector_score {about}"),
        "mask_rle": {"size": list(instance.mask_rle.size), "counts": instance.mask_rle.counts},
        "mask_score": _finite(instance.mask_score, f"mask_score {about}"),
        "area_share": _finite(instance.area_share, f"area_share {about}"),
        "is_face": instance.is_face,
        "parent": instance.parent,
        "member": f"ref{number:02d}.png",
        "crop_xyxy_px": list(instance.crop_xyxy_px),
    }


def _words(document: dict[str, Any], category: Category) -> tuple[list[str], list[int]]:
    """Words of a category, those with an instance first (else in the caption's order), and the instances of each of these."""
    instances = Counter(instance["word"] for instance in document["instances"] if not instance["is_face"])
    words = [entity["word"] for entity in document["entities"] if entity["category"] == category]
    found = [word for word in words if word in instances]
    return found + [word for word in words if word not in instances], [instances[word] for word in found]


def _finite(value: float, what: str, digits: int = 6) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{what} is {value}, not a finite number")
    return round(float(value), digits) + 0.0  # + 0.0: no negative zero


def _text(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")
