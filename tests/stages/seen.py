"""What users of a video see of it: its frames of record, the pictures of its cut, and those that training decodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages.cut import Cut
from stages.frames import Frames
from stages.records import Clip, Rejection, Row, Sample
from stages.settings import CutSettings, FramesSettings
from stages.video import frames_at, in_memory


def frames_row(path: Path | str, start_s: float | None = None, end_s: float | None = None, **settings: object) -> Row:
    """The clip after the frames stage."""
    stage = Frames(FramesSettings(**{"min_duration_s": 0.2, **settings}))  # type: ignore[arg-type]
    stage.setup()
    clip = Clip(row=0, key="k", source_id="s", uri="u", address=str(path), start_s=start_s, end_s=end_s, caption="a disc")
    [row] = stage.process([Sample(clip=clip)])
    return row


def cut_row(path: Path, start_s: float, end_s: float, **settings: object) -> Row:
    """The clip after the frames and the cut stage."""
    [row] = Cut(CutSettings()).process([kept(frames_row(path, start_s, end_s, **settings))])
    return row


def kept(row: Row) -> Sample:
    """The row, which must not be a rejection."""
    assert isinstance(row, Sample), row
    return row


def rejected(row: Row) -> Rejection:
    """The row, which must be a rejection of the frames stage that says why."""
    assert isinstance(row, Rejection), row
    assert row.stage == "frames" and row.message
    return row


def record(row: Row) -> dict[int, np.ndarray]:
    """Index -> frame of record."""
    return {frame.index: frame.rgb for frame in kept(row).frames}


def of_cut(row: Row) -> dict[int, np.ndarray]:
    """Index -> picture of the cut, for the frames of record."""
    sample = kept(row)
    assert sample.media is not None
    with in_memory(sample.media) as name:
        decoded = frames_at(name, [frame.time_s + 1e-3 for frame in sample.frames])
    assert decoded.indices == [frame.index for frame in sample.frames]
    return dict(zip(decoded.indices, decoded.frames, strict=True))


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference of two pictures in grey levels; they must have one size."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other).mean())
