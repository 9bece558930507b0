"""KEY.json, typed: what is recorded of a sample, as a reader gets it and as the writer makes it from records.

In: records of stages/. Out: a `Document`, its JSON, and the JSON Schema of both, made from these classes. What stages find is
declared once, in the *Facts* of stages/records.py; here come the names of members, identity and provenance, and what a number
may be. Numbers are rounded (pixels to 0.01, everything else to 1e-6): a float32's last digits are noise and are not recorded as
if they meant something.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from stages.records import (
    BackgroundFacts,
    BoxFacts,
    EntityWord,
    Evidence,
    Flag,
    FrameFacts,
    InstanceFacts,
    Link,
    MaskRle,
    Sample,
    SampleFacts,
    VideoInfo,
)
from stages.specs import ALWAYS_FINGERPRINTED, FINGERPRINTED

Version = Literal[1, 2]
"""Of an output's records and tables (schema.py), that readers take."""
VERSION: Version = 2
"""What is written."""
Container = Literal["mp4", "webm", "mkv", "avi", "ts", "mov", "gif", "mpg", "flv", "wmv"]
"""Probed containers, each the extension of its clip's member."""
Text = Annotated[str, Meta(min_length=1)]
Hash = Annotated[str, Meta(min_length=1, max_length=128)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
Pixel = Annotated[float, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What made a sample: content hash of the prompt, and stage -> fingerprint (settings, prompt, weights)."""

    prompt_sha: Hash
    stage_sha: dict[str, Hash]


class VideoDocument(VideoInfo, kw_only=True, forbid_unknown_fields=True):
    """The clip. `member`: its own bytes, or a re-encoded cut (`reencoded`)."""

    member: Container
    container: Container
    codec: Text
    width: Annotated[int, Meta(ge=1)]
    height: Annotated[int, Meta(ge=1)]
    rotation: Literal[0, 90, 180, 270]
    sar: Annotated[str, Meta(pattern="^[0-9]+:[0-9]+$")]
    fps: Annotated[float, Meta(gt=0)]
    duration_s: Annotated[float, Meta(gt=0)]
    n_frames: Annotated[int, Meta(ge=1)]


class FrameDocument(FrameFacts, kw_only=True, forbid_unknown_fields=True):
    """A frame of record: the pixels of the JPEG `member`."""

    percent: Annotated[int, Meta(ge=0, le=100)]
    index: Count
    time_s: Seconds
    member: Literal["frame0.jpg", "frame1.jpg", "frame2.jpg"]


class MaskDocument(MaskRle, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mask in COCO's compressed run-length code. `size` is [height, width] of the frame."""

    size: tuple[Annotated[int, Meta(ge=1, le=65536)], Annotated[int, Meta(ge=1, le=65536)]]
    counts: Annotated[str, Meta(min_length=1, pattern="^[0-o]+$")]


class BoxDocument(BoxFacts, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a word may be in a frame of record."""

    word: Text
    category: Literal["subject", "object"]
    frame: Literal[0, 1, 2]
    box_xyxy_px: tuple[Pixel, Pixel, Pixel, Pixel]
    score: Share


class LinkDocument(Link, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which individual a word's references show, and how sure that is."""

    word: Text
    score: Share | None
    second_best: Share | None


class EvidenceDocument(Evidence, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why an instance is taken for the same individual as its word's others."""

    motion: Share | None = None
    appearance: Share | None = None
    face: Share | None = None


class InstanceDocument(InstanceFacts, kw_only=True, forbid_unknown_fields=True):
    """A masked subject or object, or a face. `member`: its reference crop, RGBA, alpha 0 or 255."""

    word: Text
    category: Literal["subject", "object"]
    frame: Literal[0, 1, 2]
    box_xyxy_px: tuple[Pixel, Pixel, Pixel, Pixel]
    detector_score: Share
    mask_rle: MaskDocument
    mask_score: Share
    area_share: Share
    crop_xyxy_px: tuple[Count, Count, Count, Count]
    is_face: bool
    parent: Count | None
    face_score: Share | None = None
    overlap_share: Share | None = None
    link_score: Share | None = None
    evidence: EvidenceDocument | None = None
    member: Annotated[str, Meta(pattern="^ref[0-9]{2,}\\.png$")]


class BackgroundDocument(BackgroundFacts, kw_only=True, forbid_unknown_fields=True):
    """The middle frame without its subjects, objects and faces: the PNG `member` equals frame 1 outside of the mask.

    `method`: the inpainter; +dilate1, +dilate2: the drawing with a mask dilated further, once or twice, was the best.
    """

    member: Literal["background.png"]
    method: Text
    masked_share: Share
    residual: dict[str, Share]
    mask_rle: MaskDocument | None = None
    borrowed_share: Share | None = None
    borrowed_rle: MaskDocument | None = None
    residual_at_large: Share | None = None
    sharpness: Share | None = None
    quality: Share | None = None


class Document(SampleFacts, kw_only=True, forbid_unknown_fields=True):
    """KEY.json. Member names are those of the sample's files in the tar without the leading `KEY.`.

    `row`: 0-based manifest row. `key`: the sample's name, unique in the output. `uri`: where the clip came from, relative to
    the manifest's root where it lies below it. `start_s`, `end_s`: where it was cut out of its file; null: at its start, at its
    end. `extra`: other columns of the manifest. `frames` are in order of time; `instances` are masked subjects and objects, and
    faces. `boxes` are all candidates, and `links` one for each word that has some; both are absent where links were not looked
    for, as are `overlap_share` and `face_score` of instances; `link_score` and `evidence` also of an instance that has no other
    to be linked to.
    """

    schema: Version
    row: Count
    key: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,120}$")]
    id: str | None
    source_id: str
    uri: str
    start_s: Seconds | None
    end_s: Seconds | None
    caption: Text
    extra: dict[str, Any] = msgspec.field(default_factory=dict)
    flags: list[Flag]
    video: VideoDocument
    entities: Annotated[list[EntityWord], Meta(min_length=1)]
    frames: Annotated[list[FrameDocument], Meta(min_length=3, max_length=3)]
    boxes: list[BoxDocument] = msgspec.field(default_factory=list)
    links: list[LinkDocument] = msgspec.field(default_factory=list)
    instances: Annotated[list[InstanceDocument], Meta(min_length=1)]
    background: BackgroundDocument
    provenance: Provenance

    @property
    def members(self) -> list[str]:
        """Names of the sample's members, in the order of the tar."""
        frames, references = ([part.member for part in parts] for parts in (self.frames, self.instances))
        return [self.video.member, "json", *frames, *references, self.background.member]


_ORDER: dict[type, tuple[str, ...]] = {
    Document: (
        "schema", "row", "key", "id", "source_id", "uri", "start_s", "end_s", "caption", "extra", "flags", "video", "entities",
        "frames", "boxes", "links", "instances", "background", "provenance",
    ),
    VideoDocument: ("member",),
    InstanceDocument: (
        "word", "category", "frame", "box_xyxy_px", "detector_score", "mask_rle", "mask_score", "area_share", "is_face",
        "parent", "face_score", "overlap_share", "link_score", "evidence", "member", "crop_xyxy_px",
    ),
    BackgroundDocument: ("member",),
}  # fmt: skip
"""Fields that are written first, in this order; then come the others, as declared."""
_ABSENT = {
    "boxes",
    "links",
    "face_score",
    "overlap_share",
    "link_score",
    "evidence",
    "mask_rle",
    "borrowed_share",
    "borrowed_rle",
    "residual_at_large",
    "sharpness",
    "quality",
}
"""Fields that are left out where there is nothing to say."""


def document_of(sample: Sample, provenance: Provenance) -> Document:
    """KEY.json of a finished sample. Raises ValueError when a part is missing, or is not what the contract says."""
    clip, video, background = sample.clip, sample.video, sample.background
    if video is None or background is None or len(sample.frames) != 3 or not sample.instances:
        raise ValueError("a stage handed the sample on without its video, three frames, instances or background")
    missing = [stage for stage in ALWAYS_FINGERPRINTED if stage not in provenance.stage_sha]
    if missing:
        raise ValueError(f"provenance has no fingerprint of {', '.join(missing)}")
    values = {
        "schema": VERSION,
        **{name: getattr(clip, name) for name in Document.__struct_fields__ if hasattr(clip, name) and name != "extra"},
        **{name: getattr(sample, name) for name in SampleFacts.__struct_fields__},
        "boxes": [_fields(box, BoxFacts) for box in sample.boxes] if sample.links else [],
        "links": sample.links,
        "video": {"member": video.container, **_fields(video, VideoInfo)},
        "frames": [{**_fields(frame, FrameFacts), "member": f"frame{index}.jpg"} for index, frame in enumerate(sample.frames)],
        "instances": [
            {
                **_fields(instance, InstanceFacts, () if sample.links else ("face_score", "overlap_share")),
                "member": f"ref{index:02d}.png",
            }
            for index, instance in enumerate(sample.instances)
        ],
        "background": {**_fields(background, BackgroundFacts), "member": "background.png"},
        "provenance": {
            "prompt_sha": provenance.prompt_sha,
            "stage_sha": {stage: provenance.stage_sha[stage] for stage in FINGERPRINTED if stage in provenance.stage_sha},
        },
    }
    try:
        document = msgspec.convert(_rounded(msgspec.to_builtins(values), ""), Document)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    document.extra = clip.extra  # verbatim
    return document


def encode_document(document: Document) -> bytes:
    """As it is written: fields in the order of the contract."""
    return msgspec.json.encode(_in_order(document))


# Made here: msgspec crashes where threads decode a type for the first time together.
_DOCUMENTS = msgspec.json.Decoder(Document)


def decode_document(data: bytes) -> Document:
    """Raises ValueError for what is no KEY.json of a version that this one reads."""
    try:
        return _DOCUMENTS.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _fields(record: msgspec.Struct, facts: type[msgspec.Struct], without: tuple[str, ...] = ()) -> dict[str, Any]:
    return {name: getattr(record, name) for name in facts.__struct_fields__ if name not in without}


def _in_order(value: Any) -> Any:
    """Structs as dictionaries in `_ORDER`."""
    if isinstance(value, list):
        return [_in_order(part) for part in value]
    if not isinstance(value, msgspec.Struct):
        return value
    fields = msgspec.structs.asdict(value)
    names = [*_ORDER.get(type(value), ()), *fields]
    return {
        name: _in_order(fields[name]) for name in dict.fromkeys(names) if fields[name] not in (None, []) or name not in _ABSENT
    }


def _rounded(value: Any, name: str, digits: int = 6) -> Any:
    """Numbers as they are recorded. Raises ValueError naming one that is not finite."""
    if isinstance(value, dict):
        return {key: _rounded(part, f"{name}.{key}".lstrip("."), _digits(key, part)) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part, f"{name}[{index}]", digits) for index, part in enumerate(value)]
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}, not a finite number")
    return round(value, digits) + 0.0  # + 0.0: no negative zero


def _digits(field: str, value: Any) -> int:
    return 2 if field.endswith("_px") and isinstance(value, list) else 6
