"""Other frames of a clip as donors of what the middle frame hides: which of their pixels are not to be taken.

In: a sample with donors, motion and boxes, and the hole in its middle frame. Out: frames for borrow.py. Whoever is in the hole
is somewhere in a donor, too, with all that they cover: each part of the hole is moved along with the boxes in it, to where
these are in a frame of record, between two of them, or as far as the points on them tell. Where that is not known nothing is
hidden, and only what most donors agree on is taken.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from stages.background.borrow import DonorFrame
from stages.link.carry import carry
from stages.records import MIDDLE, Box, Sample
from stages.video.motion import both_ways

GROWN = 0.1
"""How much larger a part of the hole is where it is moved to, as a share of its box's longer side: people move their arms."""


def donor_frames(sample: Sample, hole: np.ndarray) -> list[DonorFrame]:
    """The other frames of record, then the donors in order of time. `hole`: (H, W) bool."""
    moved = both_ways(sample.motion)
    found = [
        (frame.rgb, frame.time_s, moved[index, MIDDLE]) for index, frame in enumerate(sample.frames) if (index, MIDDLE) in moved
    ]
    found += [
        (
            np.asarray(Image.open(io.BytesIO(donor.jpeg)).convert("RGB")),
            donor.time_s,
            np.frombuffer(donor.points, "<f4").reshape(-1, 4),
        )
        for donor in sample.donors
    ]
    parts = list(_parts(sample, hole))
    return [DonorFrame(rgb, points, _hidden(sample, parts, time_s, points, rgb.shape[:2])) for rgb, time_s, points in found]


Tracks = dict[int, Box]
"""An individual's boxes by frame of record."""


def _parts(sample: Sample, hole: np.ndarray) -> Iterator[tuple[np.ndarray, Tracks]]:
    """Connected parts (H, W) uint8 of the hole, each with each individual whose box it reaches into."""
    import cv2

    individuals: dict[str, Tracks] = {}
    for box in sample.boxes:
        if box.chosen or box.carried:
            individuals.setdefault(box.word, {})[box.frame] = box
    n, labels = cv2.connectedComponents(hole.astype(np.uint8))
    for part in range(1, n):
        mask = (labels == part).astype(np.uint8)
        for track in individuals.values():
            if MIDDLE in track:
                x1, y1, x2, y2 = np.rint(track[MIDDLE].box_xyxy_px).astype(int).clip(0)
                if mask[y1:y2, x1:x2].any():
                    yield mask, track


def _hidden(
    sample: Sample, parts: list[tuple[np.ndarray, Tracks]], time_s: float, points: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """`size` bool: where the parts of the hole are in a donor of that (height, width)."""
    import cv2

    hidden = np.zeros(size, np.uint8)
    for mask, track in parts:
        there = _box_at(sample, track, time_s, points, mask.shape)
        if there is None:
            continue
        here = np.array(track[MIDDLE].box_xyxy_px)
        scale = np.sqrt((there[2:] - there[:2]).prod() / max(1e-6, (here[2:] - here[:2]).prod()))
        shift = (there[:2] + there[2:]) / 2 - scale * (here[:2] + here[2:]) / 2
        smaller = size[1] / mask.shape[1]
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]]) * smaller
        moved = cv2.warpAffine(mask, matrix, size[::-1], flags=cv2.INTER_NEAREST)
        reach = 2 * max(1, round(GROWN * smaller * float((there[2:] - there[:2]).max()))) + 1
        hidden |= cv2.dilate(moved, cv2.getStructuringElement(cv2.MORPH_RECT, (reach, reach)))
    return hidden > 0


def _box_at(sample: Sample, track: Tracks, time_s: float, points: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """Where an individual is at a time, (4,): between its boxes before and after, or carried from the middle frame; or None."""
    times_s = [frame.time_s for frame in sample.frames]
    before = max((frame for frame in track if times_s[frame] <= time_s), default=None)
    after = min((frame for frame in track if times_s[frame] >= time_s), default=None)
    if before is not None and after is not None:
        share = (time_s - times_s[before]) / max(1e-6, times_s[after] - times_s[before])
        first, second = (np.array(track[frame].box_xyxy_px) for frame in (before, after))
        place: np.ndarray = first + share * (second - first)
        return place
    there = carry(np.array(track[MIDDLE].box_xyxy_px), points[:, [2, 3, 0, 1]], size)
    return there.box if there else None
