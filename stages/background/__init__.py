"""The clean background: the middle frame without what was masked in it.

In: samples with instances. Out: `Sample.background`, or the rejection `nothing_left` when too much of the frame is masked.
Recipe of the method: union of the masks, dilated, holes filled, inpainted; outside the mask the picture is the frame of record,
bit for bit. Then the residual check [ours], which the paper's authors did by hand: the detector looks for the subjects again.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from stages.backends import Detector, Inpainter, build_backend
from stages.images import decode_mask, encode_png, fill_holes
from stages.localise.shared import acquire, make, release
from stages.records import Background, Row, Sample, StageName, reject
from stages.settings import BackgroundSettings, LocaliseSettings
from stages.weights import Missing

MIDDLE = 1
"""Index of the frame that becomes the background."""


class CleanBackground:
    """Stage 3. The detector of the residual check is that of `localise`, shared within a process."""

    name: StageName = "background"

    def __init__(self, settings: BackgroundSettings, localise: LocaliseSettings) -> None:
        self.settings = settings
        self.localise = localise
        self.inpainter = cast(Inpainter, build_backend("background", settings.backend, settings.options))
        self.detector: Detector = make(localise)

    def missing(self) -> list[Missing]:
        """What the inpainter and the detector lack on this machine."""
        return self.inpainter.missing() + self.detector.missing()

    def identity(self) -> dict[str, str]:
        """Hashes of the inpainter's and the detector's weights; the residual depends on both."""
        detector = {f"detector.{name}": sha for name, sha in self.detector.identity().items()}
        return {
            **self.inpainter.identity(),
            **detector,
            "detector": self.localise.backend,
            "options": str(self.localise.options),
        }

    def setup(self) -> None:
        """Load the inpainter, and the detector unless this process has it already."""
        self.inpainter.setup(self.settings.device, self.settings.threads)
        self.detector = acquire(self.localise)

    def close(self) -> None:
        """Give both back."""
        self.inpainter.close()
        release(self.localise)

    def process(self, samples: list[Sample]) -> list[Row]:
        """Samples with instances -> samples with a background, or rejections `nothing_left`."""
        return [self._clean(sample) for sample in samples]

    def _clean(self, sample: Sample) -> Row:
        frame = sample.frames[MIDDLE].rgb
        masks = [decode_mask(instance.mask_rle) for instance in sample.instances if instance.frame == MIDDLE]
        mask = hole(masks, frame.shape[:2], self.settings.dilate_px, self.settings.dilate_times)
        share = float(mask.mean())
        if share > self.settings.max_masked_share:
            most = self.settings.max_masked_share
            message = f"masks cover {share:.2f} of the middle frame; background.max_masked_share is {most:g}"
            return reject(sample, self.name, "nothing_left", message)
        word = next((entity.word for entity in sample.entities if entity.category == "background"), None)
        clean = frame
        if mask.any():
            clean = np.where(mask[..., None], self.inpainter.inpaint([frame], [mask], [word])[0], frame)
        sample.background = Background(
            word=word,
            method=self.inpainter.method,
            masked_share=round(share, 6),
            residual=self._residual(sample, clean),
            png=encode_png(clean),
        )
        return sample

    def _residual(self, sample: Sample, clean: np.ndarray) -> dict[str, float]:
        """Best detector score that each subject word still gets on the result."""
        subjects = [entity for entity in sample.entities if entity.category == "subject"]
        scores = self.detector.detect([clean], [subjects])[0].scores
        return {entity.word: round(float(column.max(initial=0)), 4) for entity, column in zip(subjects, scores.T, strict=True)}


def hole(masks: list[np.ndarray], size: tuple[int, int], dilate_px: int, dilate_times: int) -> np.ndarray:
    """What must be inpainted: union of masks (H, W) bool, dilated `dilate_times` by a square of ones, holes filled (method)."""
    import cv2

    union = np.zeros(size, np.uint8)
    for mask in masks:
        union |= mask.astype(np.uint8)
    grown = cv2.dilate(union, np.ones((dilate_px, dilate_px), np.uint8), iterations=dilate_times)
    return fill_holes(grown > 0)
