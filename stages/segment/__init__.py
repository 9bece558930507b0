"""Masks and reference crops of what was localised.

In: samples with boxes. Out: `Sample.instances`, one for each box whose mask passes the gate, with its mask in COCO's run-length
code and its crop as PNG (RGBA, alpha 0 or 255, the pixels under alpha 0 kept); or the rejection `low_mask_score` when no
subject is left. Boxes stay in `Sample.boxes`, masked or not.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from stages.backends import Segmenter, build_backend
from stages.images import crop_png, encode_mask, mask_extent
from stages.records import Box, Instance, Row, Sample, StageName, reject
from stages.settings import SegmentSettings
from stages.weights import Missing


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
        """Samples with boxes -> samples with instances, or rejections `low_mask_score`."""
        return [self._segment(sample) for sample in samples]

    def _segment(self, sample: Sample) -> Row:
        instances: list[Instance] = []
        best: dict[str, float] = {}
        for number, frame in enumerate(sample.frames):
            boxes = [box for box in sample.boxes if box.frame == number]
            if not boxes:
                continue
            (found,) = self.segmenter.segment([frame.rgb], [boxes])
            for box, mask, score in zip(boxes, found.masks, found.scores, strict=True):
                best[box.word] = max(best.get(box.word, 0.0), round(float(score), 4))
                if score > self.settings.min_score and mask.sum() >= self.settings.min_area_px:
                    instances.append(_instance(box, frame.rgb, mask, float(score)))
        sample.instances = instances
        if any(instance.category == "subject" for instance in instances):
            return sample
        subjects = ", ".join(f"{word} {best[word]:.2f}" for word in _subject_words(sample)) or "none"
        message = (
            f"no mask of a subject is better than segment.min_score {self.settings.min_score:g} and has"
            f" segment.min_area_px {self.settings.min_area_px}; best mask scores: {subjects}"
        )
        rejection = reject(sample, self.name, "low_mask_score", message)
        rejection.found["scores"] = best
        return rejection


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
    )
