"""Outputs whose clips are real videos, every picture with its number in it: what the tests of the readers read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from clips import make_clip
from samples import PROVENANCE, make_dataset, make_sample

from materia.dataset.layout import write_info
from materia.dataset.writer import write_chunk
from stages.records import Sample
from stages.video import probe
from trainer.data.batch import Item

FPS = 24


def make_real_output(folder: Path, seconds: Sequence[float], per_shard: int = 2) -> str:
    """One sample for each duration, `per_shard` of them in a tar; gives the output's address."""
    out, clips = folder / "out", folder / "clips"
    clips.mkdir(parents=True)
    made = [make_real_sample(clips, row, duration) for row, duration in enumerate(seconds)]
    chunks = [made[first : first + per_shard] for first in range(0, len(made), per_shard)]
    write_info(str(out), make_dataset(len(made), len(chunks), per_shard))
    for number, chunk in enumerate(chunks):
        write_chunk(str(out), number, chunk, provenance=PROVENANCE)
    return str(out)


def make_real_sample(folder: Path, row: int, seconds: float) -> Sample:
    """A sample of tests/dataset/samples.py with a clip of that length at 24 frames a second."""
    sample = make_sample(folder, row)
    found = probe(make_clip(Path(sample.clip.address), round(seconds * FPS), fps=FPS, size=(96, 72)))
    assert sample.video is not None
    sample.video.fps, sample.video.duration_s, sample.video.n_frames = found.fps, found.duration_s, found.n_frames
    return sample


def same_item(one: Item, other: Item) -> bool:
    """Whether two items are equal, to the last pixel."""
    return (
        (one.key, one.slot, one.caption) == (other.key, other.slot, other.caption)
        and np.array_equal(one.video, other.video)
        and [reference[:2] for reference in one.references] == [reference[:2] for reference in other.references]
        and all(np.array_equal(a.pixels, b.pixels) for a, b in zip(one.references, other.references, strict=True))
    )
