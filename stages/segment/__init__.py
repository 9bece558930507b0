"""Masks and reference crops of what was localised.

In: samples with boxes. Out: `Sample.instances`, one for each box whose mask passes the gate, with its mask in COCO's run-length
code and its crop as PNG (RGBA, alpha 0 or 255, the pixels under alpha 0 kept); or the rejection `low_mask_score` when no
subject is left. Boxes stay in `Sample.boxes`, masked or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np

from materia.base.weights.files import Missing
from stages.answers import each_alone, segment
from stages.backends import Segmenter, build_backend
from stages.images import crop_png, encode_mask, mask_extent
from stages.records import Box, Frame, Instance, Row, Sample, StageName, reject
from stages.segment.tidy import tidy
from stages.settings import SegmentSettings

GROUP_BYTES = 256 * 2**20
"""Most bytes of masks, one a pixel, that are asked of the segmenter at once."""


class Segment:
    """Stage 2c."""

    name: StageName = "segment"

    def __init__(self, settings: SegmentSettings) -> None:
        self.settings = settings
        self.segmenter = cast(Segmenter, build_backend("segment", settings.backend, settings.options))

    def missing(self) -> list[Missing]:
        """What the segmenter lacks on this machine."""
        return self.segmenter.missing()

    def identity(self) -> dict[str, str]:
        """Hashes of the segmenter's weights."""
        return self.segmenter.identity()

    def setup(self) -> None:
        """Load the segmenter."""
        self.segmenter.setup(self.settings.device, self.settings.threads)

    def close(self) -> None:
        """Give the segmenter back."""
        self.segmenter.close()

    def process(self, samples: list[Sample]) -> list[Row]:
        """Samples with boxes -> samples with instances, or rejections `low_mask_score`.

        The frames of all samples go to the segmenter together, so that it can fill its batches.
        """
        return each_alone(self.name, samples, self._segment)

    def _segment(self, samples: list[Sample]) -> list[Row]:
        name = f"segment.backend {self.settings.backend}"
        instances: list[list[Instance]] = [[] for _ in samples]
        best: list[dict[str, float]] = [{} for _ in samples]
        for group in _groups(_frames_with_boxes(samples)):
            found = segment(self.segmenter, name, [frame.rgb for _, frame, _ in group], [boxes for _, _, boxes in group])
            for (n, frame, boxes), masks in zip(group, found, strict=True):
                for box, mask, score in zip(boxes, masks.masks, masks.scores, strict=True):
                    best[n][box.word] = max(best[n].get(box.word, 0.0), round(float(score), 4))
                    instances[n] += self._instances(box, frame.rgb, mask, float(score))
        for sample, kept in zip(samples, instances, strict=True):
            sample.instances = kept
        return [self._row(sample, scores) for sample, scores in zip(samples, best, strict=True)]

    def _instances(self, box: Box, image: np.ndarray, mask: np.ndarray, score: float) -> list[Instance]:
        """The instance of one mask; none if it does not pass the gate."""
        if score < self.settings.min_score:
            return []
        mask = tidy(mask, self.settings.min_part_share, self.settings.max_hole_share)
        return [_instance(box, image, mask, score)] if mask.sum() >= self.settings.min_area_px else []

    def _row(self, sample: Sample, best: dict[str, float]) -> Row:
        """The sample, if an instance of a subject is left; `best`: word -> score of its best mask, for the rejection."""
        if any(instance.category == "subject" for instance in sample.instances):
            return sample
        subjects = ", ".join(f"{word} {best[word]:.2f}" for word in _subject_words(sample)) or "none"
        message = (
            f"no mask of a subject reaches segment.min_score {self.settings.min_score:g} and has"
            f" segment.min_area_px {self.settings.min_area_px}; best mask scores: {subjects}"
        )
        rejection = reject(sample, self.name, "low_mask_score", message)
        rejection.found["scores"] = best
        return rejection


FramesBoxes = tuple[int, Frame, list[Box]]
"""Number of a sample, one of its frames, the boxes in it."""


def _frames_with_boxes(samples: list[Sample]) -> Iterator[FramesBoxes]:
    for n, sample in enumerate(samples):
        for index, frame in enumerate(sample.frames):
            if boxes := [box for box in sample.boxes if box.frame == index and box.chosen]:
                yield n, frame, boxes


def _groups(frames: Iterable[FramesBoxes]) -> Iterator[list[FramesBoxes]]:
    """Consecutive frames whose masks stay within GROUP_BYTES together, but one at least."""
    group: list[FramesBoxes] = []
    size = 0
    for n, frame, boxes in frames:
        masks = len(boxes) * frame.rgb.shape[0] * frame.rgb.shape[1]
        if group and size + masks > GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append((n, frame, boxes))
        size += masks
    if group:
        yield group


def _subject_words(sample: Sample) -> list[str]:
    return list(dict.fromkeys(box.word for box in sample.boxes if box.category == "subject"))


def _instance(box: Box, image: np.ndarray, mask: np.ndarray, score: float) -> Instance:
    x1, y1, x2, y2 = (int(v) for v in mask_extent(mask))
    return Instance(
        word=box.word,
        category=box.category,
        frame=box.frame,
        box_xyxy_px=box.box_xyxy_px,
        detector_score=box.score,
        mask_rle=encode_mask(mask),
        mask_score=round(score, 4),
        area_share=round(float(mask.mean()), 6),
        crop_xyxy_px=(x1, y1, x2, y2),
        png=crop_png(image, mask, (x1, y1, x2, y2)),
        link_score=box.link_score,
        evidence=box.evidence,
    )
