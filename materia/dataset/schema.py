"""The contract of an output's tables: `INDEX` and `REJECTS`, every column with its meaning in the field's metadata.

Of KEY.json it is in documents.py, of the other records in layout.py. A change of any of them needs another `VERSION`. Version
2 adds to 1 the flags `hdr` and `interlaced`, `video.mirrored`, the containers mpg, flv and wmv, and the reason
`several_sizes`; the columns are the same. Readers take both.
"""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

Version = Literal[1, 2]
"""What readers take."""
VERSION: Version = 2
"""What is written."""


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
        _column("min_area_share", pa.float64(), "mask area / frame area, over instances, faces left out"),
        _column("max_area_share", pa.float64(), "mask area / frame area, over instances, faces left out"),
        _column("masked_share", pa.float64(), "inpainted share of the background picture"),
        _column(
            "residual",
            pa.float64(),
            "largest detector score that a subject word has left on the background; null: none measured",
            True,
        ),
        _column("duration_s", pa.float64(), "seconds"),
        _column("fps", pa.float64(), "mean frames per second"),
        _column("width", pa.int32(), "pixels as displayed"),
        _column("height", pa.int32(), "pixels as displayed"),
        _column("caption_chars", pa.int32(), "code points of the caption"),
        _column("flags", _list(pa.string()), "still, damaged, portrait, long, several_shots, hdr, interlaced"),
        _column("bytes", pa.int64(), "sum of the members' sizes"),
        _column("members", _list(_MEMBER), "the sample's files in the tar, in order"),
    ]
)
"""index/NNNNNN.parquet: one row a sample, in manifest order."""

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
