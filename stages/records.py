"""The records that flow from a manifest row to a shard, all typed, in one place.

In: nothing but numpy, Pillow and msgspec. Out: the vocabulary of every stage and of the pipeline.
Records travel between processes as msgpack (never pickle), so a record holds only numbers, text and small encoded results:
JPEG frames, PNG crops, run-length masks. Boxes are `xyxy` in pixels of the frame of record, x to the right, y down,
end exclusive; scores lie in [0, 1]; times are seconds; shares are fractions in [0, 1].
"""

from __future__ import annotations

import io
from functools import cached_property
from typing import Any, Literal

import msgspec
import numpy as np
from PIL import Image

MIDDLE = 1
"""Index of the frame of record that becomes the background."""
Category = Literal["subject", "object", "background"]
StageName = str
"""A name in the table of stages (stages/specs.py), or "source"."""
Dropped = Literal["nobody_seen", "odd_one", "low_mask_score", "small_mask", "somebody_elses"]
"""Why a box that the detector or a link chose is no reference: a second look (link.people) sees no person in it, its links are
below link.min_score, the segmenter is not sure of its mask, the mask is too small, or most of what it shows is another
instance's."""
Flag = Literal["still", "damaged", "portrait", "long", "several_shots", "hdr", "interlaced", "ambiguous_identity"]


class Clip(msgspec.Struct, tag="clip", frozen=True, kw_only=True):
    """One manifest row that passed the source checks.

    `row` is the 0-based manifest row (blank lines are no rows). `uri` is what the sample records: relative to the
    manifest's root where the video lies below it. `address` is what stages open (an absolute path or fsspec address);
    it is filled in on the worker and never written to a shard. `start_s`/`end_s` cut the clip, null: whole file.
    """

    row: int
    key: str
    id: str | None = None
    source_id: str
    uri: str
    address: str = ""
    start_s: float | None = None
    end_s: float | None = None
    caption: str
    extra: dict[str, Any] = {}


class EntityWord(msgspec.Struct, frozen=True, kw_only=True):
    """A word (or phrase) of the caption, verbatim, with every place where it stands.

    `spans` are [start, end) in code points of the caption; `caption[start:end].casefold() == word.casefold()` for each.
    """

    word: str
    category: Category
    spans: list[tuple[int, int]]


class VideoInfo(msgspec.Struct, kw_only=True):
    """What a probe by decoding found; for a cut clip, of the cut.

    `width`/`height` are as displayed: `mirrored` left to right, then after rotation (degrees clockwise, 0/90/180/270), and
    with the sample aspect ratio (`sar`, "num:den"). `n_frames` is counted, never read from a header. `container` is the
    probed short name and the member's extension: mp4, webm, mkv, avi, ts, mov, gif, mpg, flv, wmv.
    """

    container: str
    codec: str
    width: int
    height: int
    rotation: int
    sar: str
    fps: float
    duration_s: float
    n_frames: int
    mirrored: bool = False
    reencoded: bool = False


class FrameFacts(msgspec.Struct, kw_only=True):
    """`percent` of the clip (5, 50, 95), `index` of the frame within the clip in display order (0-based),
    `time_s` from the clip's start.
    """

    percent: int
    index: int
    time_s: float


class Frame(FrameFacts, kw_only=True, dict=True):
    """A frame of record: the pixels of `jpeg`, decoded by Pillow, *are* the frame for everything after it."""

    jpeg: bytes

    @cached_property
    def rgb(self) -> np.ndarray:
        """Pixels, (H, W, 3) uint8 RGB, read-only; decoded once per process."""
        pixels = np.asarray(Image.open(io.BytesIO(self.jpeg)).convert("RGB"))
        pixels.setflags(write=False)
        return pixels


class Motion(msgspec.Struct, frozen=True, kw_only=True):
    """Points that were followed from frame of record `start` to `end`, forward and backward: what was lost is not here.

    `points`: (N, 4) little-endian float32, x and y in the one, x and y in the other, pixels of the frames of record.
    """

    start: int
    end: int
    points: bytes

    @property
    def array(self) -> np.ndarray:
        """(N, 4) float32: x, y in frame `start`, x, y in frame `end`."""
        return np.frombuffer(self.points, "<f4").reshape(-1, 4)


class Donor(msgspec.Struct, frozen=True, kw_only=True):
    """Another frame of the clip, at `time_s`, of which the background may borrow what the middle frame hides.

    `jpeg` has the shape of the frames of record and may be smaller. `points`: those that were followed between it and the
    middle frame, as in `Motion`, in pixels of the frames of record.
    """

    time_s: float
    jpeg: bytes
    points: bytes


class BoxFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a word may be in a frame of record: a candidate of the detector, or one that was `carried` there from another frame
    by what moved, where the detector found nothing.

    At most one of a word and frame is `chosen`: it becomes a reference unless it is `dropped`, for that reason.
    """

    word: str
    category: Category
    frame: int
    box_xyxy_px: tuple[float, float, float, float]
    score: float
    chosen: bool = True
    carried: bool = False
    dropped: Dropped | None = None


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """Which individual a word's references show. `score`: mean of the links between its chosen boxes, null with fewer than two.

    `second_best`: how good a choice the best individual beside it would have been, as a share of how good this one is, 0-1,
    whether another word was given that one or none; null if there is no other. `ambiguous`: it would have been as good.
    """

    word: str
    score: float | None
    second_best: float | None
    ambiguous: bool = False


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Why an instance is taken for the same individual as its word's others: means over them, 0 (another) to 1 (the same).

    null: it says nothing, as motion where no point was followed, or a face where none is seen.
    """

    motion: float | None = None
    appearance: float | None = None
    face: float | None = None


class Box(BoxFacts, frozen=True, kw_only=True, omit_defaults=True):
    """`link_score` and `evidence` go to the instance that is cut out of a chosen box."""

    link_score: float | None = None
    evidence: Evidence | None = None


class MaskRle(msgspec.Struct, frozen=True, kw_only=True):
    """A mask in COCO's compressed run-length code. `size` is [height, width] of the frame."""

    size: tuple[int, int]
    counts: str


class InstanceFacts(msgspec.Struct, kw_only=True):
    """One masked subject or object (or a face) in one frame: where it is and how sure that is.

    `area_share` is mask area / frame area, `crop_xyxy_px` (integers) the mask's bounding box. A face has `is_face`,
    `face_score` (how sure the face detector is) and `parent`, the index in `Sample.instances` of its human. `link_score`: mean
    of its links to the word's other instances, and `evidence` what they stand on; null where there is no other, and where links
    were not looked for. `overlap_share`: the share of the mask, as the segmenter drew it, that lay in masks of other instances
    of the frame; null for faces.
    """

    word: str
    category: Category
    frame: int
    box_xyxy_px: tuple[float, float, float, float]
    detector_score: float
    mask_rle: MaskRle
    mask_score: float
    area_share: float
    crop_xyxy_px: tuple[int, int, int, int]
    is_face: bool = False
    parent: int | None = None
    face_score: float | None = None
    overlap_share: float | None = None
    link_score: float | None = None
    evidence: Evidence | None = None


class Instance(InstanceFacts, kw_only=True):
    """`png` is the reference crop: RGBA, alpha 0 or 255, of `crop_xyxy_px`."""

    png: bytes


class BackgroundFacts(msgspec.Struct, kw_only=True):
    """`word` is the background word of the caption, `masked_share` the share of the frame that was replaced, `residual` the
    best detector score that each subject word still gets on the result.

    `mask_rle`: which pixels were replaced, null where instances tell, as published. `borrowed_share`: the share of these that
    came from other frames of the clip, `borrowed_rle` which; the others are invented. null: nothing was to be borrowed.
    `residual_at_large`: the best detector score that anybody of `background.also` has where it was replaced; `sharpness` of
    that beside its surroundings; `quality`: how good it is by all of this (stages/background/quality.py). null: not measured.
    """

    word: str | None
    method: str
    masked_share: float
    residual: dict[str, float]
    mask_rle: MaskRle | None = None
    borrowed_share: float | None = None
    borrowed_rle: MaskRle | None = None
    residual_at_large: float | None = None
    sharpness: float | None = None
    quality: float | None = None


class Background(BackgroundFacts, kw_only=True):
    """The middle frame without its subjects: `png` (RGB, lossless) equals frame 1 outside the mask, bit for bit."""

    png: bytes


class SampleFacts(msgspec.Struct, kw_only=True):
    """What stages find out about a whole clip and KEY.json takes over as it is: a field added here is in both."""

    flags: list[Flag] = []
    entities: list[EntityWord] = []


class Sample(SampleFacts, tag="sample", kw_only=True):
    """A clip on its way; each stage fills in its part. `media` holds the clip's bytes only if they were re-encoded.

    `motion` is what moved between the frames of record (0-1, 1-2, 0-2); `links` is empty where they were not looked for.
    `bystanders` are boxes of the middle frame that only the background is to know of, and `hidden` their masks.

    `source_bytes` is the size of the clip's file when it was decoded; if it has another one when its shard is written, the
    frames are no longer those of the clip.
    """

    clip: Clip
    video: VideoInfo | None = None
    source_bytes: int | None = None
    frames: list[Frame] = []
    motion: list[Motion] = []
    donors: list[Donor] = []
    boxes: list[Box] = []
    links: list[Link] = []
    bystanders: list[Box] = []
    hidden: list[MaskRle] = []
    instances: list[Instance] = []
    background: Background | None = None
    media: bytes | None = None


class Rejection(msgspec.Struct, tag="rejection", kw_only=True):
    """Why a row did not become a sample. `found` says what there was until then: entities, boxes, scores."""

    row: int
    key: str | None
    id: str | None
    source_id: str | None
    uri: str | None
    caption: str | None
    stage: str
    reason: str
    message: str
    found: dict[str, Any] = {}


Row = Sample | Rejection


def reject(sample: Sample, stage: StageName, reason: str, message: str) -> Rejection:
    """Turn a sample into a rejection that keeps what was found so far."""
    clip = sample.clip
    found: dict[str, Any] = {}
    if sample.entities:
        found["entities"] = [msgspec.to_builtins(entity) for entity in sample.entities]
    if sample.boxes:
        found["boxes"] = [msgspec.to_builtins(box) for box in sample.boxes]
    return Rejection(
        row=clip.row,
        key=clip.key,
        id=clip.id,
        source_id=clip.source_id,
        uri=clip.uri,
        caption=clip.caption,
        stage=stage,
        reason=reason,
        message=message,
        found=found,
    )


def encode_rows(rows: list[Row]) -> bytes:
    """Rows as msgpack, for a pipe, Ray or a file."""
    return msgspec.msgpack.encode(rows)


_DECODER = msgspec.msgpack.Decoder(list[Row])


def decode_rows(data: bytes | memoryview) -> list[Row]:
    """Inverse of `encode_rows`; raises msgspec.ValidationError when a field has another type."""
    return _DECODER.decode(data)
