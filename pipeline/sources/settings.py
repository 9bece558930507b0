"""What may be configured about the input: where videos may lie, what the columns are called, how long a row may be.

All of it can change what is written, so every field is a *result* field. Light to import: pydantic only.
"""

from __future__ import annotations

from pydantic import Field

from materia.base.settings import Settings


class ColumnNames(Settings):
    """What the manifest calls the columns that we know; every other column is carried along in `extra`."""

    video: str = Field("video", description="address of the video, relative to the manifest's folder or absolute; required")
    caption: str = Field("caption", description="text that describes the clip; required")
    id: str = Field("id", description="text or integer that names the clip; unique")
    start: str = Field("start", description="where the clip starts in the video: seconds, a duration or H:M:S.f")
    end: str = Field("end", description="where the clip ends in the video: seconds, a duration or H:M:S.f")
    source_id: str = Field("source_id", description="name of the original video that the clip was taken from")


class SourceSettings(Settings):
    """Reading manifests and finding videos (design: "Inputs", "Safety of sources")."""

    allowed_roots: list[str] | None = Field(
        None,
        description="folders that videos may lie in, checked on real paths; absolute, or relative to the manifest's folder; "
        "null: the manifest's folder (of a folder as input: that one; of a pattern: the one before its first wildcard)",
    )
    schemes: list[str] = Field(["file"], description="address schemes that may be opened, the manifest's too: file, s3")
    max_caption_chars: int = Field(2000, ge=1, description="longer captions: caption_too_long, in code points")
    max_line_bytes: int = Field(4 * 2**20, ge=1024, description="longer rows: broken_line; they are never held in memory whole")
    columns: ColumnNames = ColumnNames()
