"""Other frames of a clip as donors of what the middle frame hides: which of their pixels are not to be taken.

In: a sample with donors, motion, boxes and instances. Out: frames for borrow.py. In a donor that is no frame of record nobody
was looked for: where they are is told from where they are before and after, or from the points on them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from stages.background.borrow import DonorFrame
from stages.images import decode_mask
from stages.link.carry import carry
from stages.records import Box, Sample

MIDDLE = 1
GROWN = 0.2
"""How much larger a box is taken on each side where it is told from others, as a share of its sides."""
DILATED = 0.01
"""How much masks of frames of record are grown, as a share of the frame's longer side."""


def donor_frames(sample: Sample) -> list[DonorFrame]:
    """The other frames of record, then the donors in order of time."""
    moved = {(motion.start, motion.end): motion.array for motion in sample.motion}
    moved |= {(end, start): points[:, [2, 3, 0, 1]] for (start, end), points in moved.items()}
    record = [
        DonorFrame(frame.rgb, moved[index, MIDDLE], _masked(sample, index))
        for index, frame in enumerate(sample.frames)
        if (index, MIDDLE) in moved
    ]
    return [*record, *_between(sample)]


def _between(sample: Sample) -> Iterator[DonorFrame]:
    size = sample.frames[MIDDLE].rgb.shape[:2]
    for donor in sample.donors:
        points = np.frombuffer(donor.points, "<f4").reshape(-1, 4)
        rgb = np.asarray(Image.open(io.BytesIO(donor.jpeg)).convert("RGB"))
        hidden = np.zeros(rgb.shape[:2], bool)
        scale = rgb.shape[1] / size[1]
        for box in _boxes_at(sample, donor.time_s, points, size):
            grown = GROWN * (box[2:] - box[:2])
            x1, y1 = np.floor((box[:2] - grown) * scale).astype(int).clip(0)
            x2, y2 = np.ceil((box[2:] + grown) * scale).astype(int).clip(0)
            hidden[y1:y2, x1:x2] = True
        yield DonorFrame(rgb, points, hidden)


def _boxes_at(sample: Sample, time_s: float, points: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Where each word's individual is at a time, (4,): between where it is before and after, or carried from the middle."""
    times_s = [frame.time_s for frame in sample.frames]
    words: dict[str, dict[int, Box]] = {}
    for box in sample.boxes:
        if box.chosen or box.carried:
            words.setdefault(box.word, {})[box.frame] = box
    for seen in words.values():
        before = max((frame for frame in seen if times_s[frame] <= time_s), default=None)
        after = min((frame for frame in seen if times_s[frame] >= time_s), default=None)
        if before is not None and after is not None:
            share = (time_s - times_s[before]) / max(1e-6, times_s[after] - times_s[before])
            first, second = (np.array(seen[frame].box_xyxy_px) for frame in (before, after))
            yield first + share * (second - first)
        elif MIDDLE in seen and (there := carry(np.array(seen[MIDDLE].box_xyxy_px), points[:, [2, 3, 0, 1]], size)):
            yield there.box


def _masked(sample: Sample, frame: int) -> np.ndarray:
    """(H, W) bool: what is masked in a frame of record, and candidates of subjects."""
    import cv2

    height, width = sample.frames[frame].rgb.shape[:2]
    hidden = np.zeros((height, width), np.uint8)
    for instance in sample.instances:
        if instance.frame == frame:
            hidden |= decode_mask(instance.mask_rle).astype(np.uint8)
    reach = 2 * max(1, round(DILATED * max(height, width))) + 1
    hidden = cv2.dilate(hidden, np.ones((reach, reach), np.uint8))
    for box in sample.boxes:
        if box.frame == frame and box.category == "subject":
            x1, y1, x2, y2 = np.rint(box.box_xyxy_px).astype(int).clip(0)
            hidden[y1:y2, x1:x2] = 1
    found: np.ndarray = hidden > 0
    return found
