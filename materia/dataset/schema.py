"""The contract of an output's tables: `INDEX`, `INSTANCES` and `REJECTS`, every column with its meaning in its metadata.

Of KEY.json it is in documents.py, of the other records in layout.py. A change of any of them needs another `VERSION`
(documents.py). Version 2 adds to 1 the flags `hdr`, `interlaced` and `ambiguous_identity`, `video.mirrored`, the containers
mpg, flv and wmv, the reasons `several_sizes`, `no_consistent_subject` and `low_quality`, `boxes`, `links`, of an instance
`face_score`, `overlap_share`, `link_score` and `evidence`, of the background its mask, what was borrowed and its scores, the
columns `LATER` and `extra` of the index, and the instances. Readers take both, and outputs of version 2 without these columns
and without instances.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import pyarrow as pa

from materia.dataset.extra import ExtraType


def _column(name: str, kind: pa.DataType, meaning: str, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"description": meaning})


def _list(kind: pa.DataType) -> pa.ListType:
    return pa.list_(pa.field("element", kind, nullable=False))


_MEMBER = pa.struct(
    [
        _column("name", pa.string(), "as in KEY.json: the tar member's name without its leading `KEY.`"),
        _column("offset", pa.int64(), "of the member's first data byte in the tar"),
        _column("size", pa.int64(), "bytes"),
    ]
)

INDEX = pa.schema(
    [
        _column("row", pa.int64(), "0-based manifest row"),
        _column("key", pa.string(), "name of the sample, unique in the output"),
        _column("id", pa.string(), "the manifest's id, verbatim", null=True),
        _column("source_id", pa.string(), "the original video"),
        _column("shard", pa.string(), "path of the tar relative to the output"),
        _column("n_subjects", pa.int32(), "subject words with at least one instance"),
        _column("n_objects", pa.int32(), "object words with at least one instance"),
        _column("n_instances", pa.int32(), "masked subjects and objects over the three frames, faces not counted"),
        _column("n_faces", pa.int32(), "face crops over the three frames"),
        _column(
            "subject_words",
            _list(pa.string()),
            "subject words; the first n_subjects have an instance, the others were not found",
        ),
        _column(
            "object_words", _list(pa.string()), "object words; the first n_objects have an instance, the others were not found"
        ),
        _column("background_words", _list(pa.string()), "background words"),
        _column(
            "subject_instances", _list(pa.int32()), "instances of each of the first n_subjects subject words, faces left out"
        ),
        _column("object_instances", _list(pa.int32()), "instances of each of the first n_objects object words"),
        _column("frames_with_subject", pa.int32(), "frames of record (0 to 3) with a subject instance"),
        _column("min_detector_score", pa.float64(), "over instances, faces left out"),
        _column("min_mask_score", pa.float64(), "over instances, faces left out"),
        _column(
            "min_link_score",
            pa.float64(),
            "over instances that are linked to others of their word; null: none is, or links were not looked for",
            True,
        ),
        _column("ambiguous_words", _list(pa.string()), "words for which another individual would have been as good"),
        _column("n_dropped", pa.int32(), "chosen boxes that became no reference"),
        _column(
            "dropped",
            _list(pa.string()),
            "why, for each of these: nobody_seen, odd_one, low_mask_score, small_mask, somebody_elses",
        ),
        _column("min_area_share", pa.float64(), "mask area / frame area, over instances, faces left out"),
        _column("max_area_share", pa.float64(), "mask area / frame area, over instances, faces left out"),
        _column("masked_share", pa.float64(), "share of the background picture that was replaced"),
        _column(
            "borrowed_share",
            pa.float64(),
            "share of the replaced pixels that other frames of the clip show; null: nothing was to be borrowed",
            True,
        ),
        _column(
            "residual",
            pa.float64(),
            "largest detector score that a subject word has left on the background; null: none measured",
            True,
        ),
        _column(
            "residual_at_large",
            pa.float64(),
            "largest detector score that anybody of background.also has on what was replaced; null: not measured",
            True,
        ),
        _column(
            "background_sharpness",
            pa.float64(),
            "how sharp the replaced part is beside its surroundings: 1 as sharp, 0 a smear; null: not measured",
            True,
        ),
        _column(
            "background_quality",
            pa.float64(),
            "how good the background is, 0 to 1, see docs/data-quality.md; null: not measured",
            True,
        ),
        _column("duration_s", pa.float64(), "seconds"),
        _column("fps", pa.float64(), "mean frames per second"),
        _column("width", pa.int32(), "pixels as displayed"),
        _column("height", pa.int32(), "pixels as displayed"),
        _column("caption", pa.string(), "the whole caption"),
        _column("caption_chars", pa.int32(), "code points of the caption"),
        _column(
            "flags", _list(pa.string()), "still, damaged, portrait, long, several_shots, hdr, interlaced, ambiguous_identity"
        ),
        _column("bytes", pa.int64(), "sum of the members' sizes"),
        _column("members", _list(_MEMBER), "the sample's files in the tar, in order"),
    ]
)
"""index/NNNNNN.parquet: one row a sample, in manifest order; without `extra`, see `index_schema`."""

REJECTS = pa.schema(
    [
        _column("row", pa.int64(), "0-based manifest row"),
        _column("key", pa.string(), "null if the row was too broken to have one", null=True),
        _column("id", pa.string(), "the manifest's id, verbatim", null=True),
        _column("source_id", pa.string(), "the original video", null=True),
        _column("uri", pa.string(), "of the clip", null=True),
        _column("caption", pa.string(), "its first 2000 code points", null=True),
        _column("stage", pa.string(), "that the clip left the way in"),
        _column("reason", pa.string(), "code, see stages.specs.REASONS"),
        _column("message", pa.string(), "for a person: what was wrong and what to do"),
        _column("found", pa.string(), "JSON: entities, boxes and scores found until then"),
    ]
)
"""rejects/NNNNNN.parquet: one row a manifest row that did not become a sample, in manifest order."""


INSTANCES = pa.schema(
    [
        _column("row", pa.int64(), "0-based manifest row of the sample"),
        _column("key", pa.string(), "name of the sample"),
        _column(
            "number", pa.int32(), "place in `instances` of KEY.json, from 0; its crop is the member refNN.png of that number"
        ),
        _column("word", pa.string(), "as in the caption"),
        _column("category", pa.string(), "subject or object"),
        _column("frame", pa.int32(), "frame of record that it is in, 0 to 2"),
        _column(
            "track",
            pa.int32(),
            "individual of the sample: a word's instances and their faces have the same number, the word's place in `links` of"
            " KEY.json; null: links were not looked for",
            True,
        ),
        _column("is_face", pa.bool_(), "whether it is a face"),
        _column("parent", pa.int32(), "of a face: number of the instance whose face it is", True),
        *(
            _column(f"{kind}_{side}", number, f"{edge} edge of the {what}, pixels of the frame")
            for kind, number, what in (("box", pa.float64(), "detector's box"), ("crop", pa.int32(), "mask and of the crop"))
            for side, edge in (("x1", "left"), ("y1", "upper"), ("x2", "right"), ("y2", "lower"))
        ),
        _column("area_share", pa.float64(), "mask area / frame area"),
        _column("box_area_share", pa.float64(), "box area / frame area"),
        _column("detector_score", pa.float64(), "how sure the detector is of the box"),
        _column("mask_score", pa.float64(), "how sure the segmenter is of the mask"),
        _column("face_score", pa.float64(), "how sure the face detector is; null: no face, or not recorded", True),
        _column(
            "overlap_share",
            pa.float64(),
            "share of the mask that lay in masks of other instances before each pixel was given to one; null: a face, or not"
            " recorded",
            True,
        ),
        _column(
            "link_score",
            pa.float64(),
            "how well it is linked to the word's others; null: there is none, or it is a face, or links were not looked for",
            True,
        ),
        *(
            _column(f"evidence_{kind}", pa.float64(), f"what the link stands on: {what}, 0 to 1; null: it says nothing", True)
            for kind, what in (("motion", "points that move along"), ("appearance", "looks"), ("face", "the face"))
        ),
        _column(
            "second_best",
            pa.float64(),
            "of the word: how well the best other individual fits it, as a share of how well this one does; null: no other",
            True,
        ),
        _column(
            "carried",
            pa.bool_(),
            "whether motion carried the box (of a face: its person's) here from another frame, for the detector found none",
        ),
    ]
)
"""instances/NNNNNN.parquet: one row an instance, faces too, by sample in manifest order and then by number."""


LATER = (
    "caption",
    "min_link_score",
    "ambiguous_words",
    "n_dropped",
    "dropped",
    "borrowed_share",
    "residual_at_large",
    "background_sharpness",
    "background_quality",
)
"""Columns that indices of earlier versions lack."""


def index_schema(extra: Mapping[str, ExtraType]) -> pa.Schema:
    """`INDEX` with a last column `extra` for the user's own columns, name -> type; as it is where there are none."""
    if not extra:
        return INDEX
    struct = pa.struct([pa.field(name, pa.type_for_alias(kind)) for name, kind in extra.items()])
    return INDEX.append(_column("extra", struct, "the manifest's other columns; null where a row has no value"))


def extra_types(schema: pa.Schema) -> dict[str, ExtraType]:
    """The user's own columns of an index, name -> type; without those of a type that is none of them."""
    if "extra" not in schema.names or not pa.types.is_struct(struct := schema.field("extra").type):
        return {}
    known: dict[str, ExtraType] = {kind: kind for kind in get_args(ExtraType)}
    return {field.name: known[str(field.type)] for field in struct if str(field.type) in known}


def index_schema_like(schema: pa.Schema) -> pa.Schema:
    """What the schema of an index file must be, by its columns: one may lack those of `LATER`, and has any `extra` or none."""
    expected = index_schema(extra_types(schema))
    for name in LATER:
        if name not in schema.names:
            expected = expected.remove(expected.get_field_index(name))
    return expected
