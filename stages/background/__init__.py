"""The clean background: the middle frame without what was masked in it.

In: samples with instances. Out: `Sample.background`, or the rejection `nothing_left` when too much of the frame is masked.
Recipe of the method: union of the masks, dilated, holes filled, inpainted; outside the mask the picture is the frame of record,
bit for bit. Where a mask may not hold all of its individual it reaches further [ours, leftover.py]. What other frames of the
clip show of it is taken from them [ours, borrow.py] before the rest is invented. Then the residual check [ours], which the
paper's authors did by hand: the detector looks for the subjects again. Where a part of one is found beside the mask, that is
masked too and the picture drawn again; where one is still found, again without what was borrowed, and with a larger mask if
`retry_dilate` says so. What it is worth is recorded [ours, quality.py]; below `min_quality` it is the rejection `low_quality`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import numpy as np

from materia.base.weights.files import Missing
from stages.answers import detect, each_alone, inpaint
from stages.backends import Detections, Detector, Inpainter, build_backend
from stages.background.borrow import Borrowed, borrow
from stages.background.donors import donor_frames
from stages.background.leftover import found_again, unsure
from stages.background.quality import Quality, assess
from stages.images import decode_mask, encode_mask, encode_png, fill_holes
from stages.localise.shared import acquire, make, release
from stages.records import MIDDLE, Background, EntityWord, Rejection, Row, Sample, StageName, reject
from stages.settings import BackgroundSettings, LocaliseSettings

MARGIN = 0.006
"""Share of the frame's longer side."""
GROUP_PIXELS = 32 * 1280 * 720
"""Pictures that are inpainted and looked at together have at most this many pixels: a slice of 720p, three or four of 4K."""


@dataclass(frozen=True)
class Drawing:
    """One attempt at a clip: `mask` (H, W) bool, `borrowed` (H, W) bool, what of it came from other frames, `picture` (H, W, 3)
    uint8 RGB, the best score of each subject on it, what it is worth, None: not asked for, and `left` (H, W) bool, where a part
    of somebody is found beside the mask.

    `dilated_again`: how often the mask was dilated further than the settings' first time, 0 to `retry_dilate`.
    """

    mask: np.ndarray
    borrowed: np.ndarray
    picture: np.ndarray
    residual: dict[str, float]
    quality: Quality | None
    left: np.ndarray
    dilated_again: int

    @property
    def worst(self) -> float:
        """Score of whoever is most visible still, a subject or anybody else that must not be seen; 0 without any."""
        at_large = self.quality.residual_at_large if self.quality else None
        return max([*self.residual.values(), at_large or 0.0])

    @property
    def loss(self) -> float:
        """The less, the better the drawing; where its quality is not asked for, only who is left counts."""
        return self.worst if self.quality is None else -self.quality.overall


class Seen(NamedTuple):
    """What the detector finds on a drawing: of the subjects, and of whoever of `also`; None where nobody asks."""

    subjects: Detections
    at_large: Detections | None


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
        """Samples with instances -> samples with a background, or rejections `nothing_left`; one row each, in order."""
        return [row for group in _groups(samples) for row in each_alone(self.name, group, self._clean)]

    def _clean(self, samples: list[Sample]) -> list[Row]:
        """Draw all samples together, then those again on which a subject is still found, with a larger mask and without what
        was borrowed; of each, the best drawing stays, the earlier one if two are equal."""
        holes = [self._hole(sample, 0) for sample in samples]
        best: dict[int, Drawing] = {}
        todo = {index: mask for index, mask in enumerate(holes) if self._leaves_enough(mask)}
        for again in range(self.settings.retry_dilate + 1):
            if again:
                todo = self._larger(samples, todo, best, again)
            drawings = self._draw([samples[index] for index in todo], list(todo.values()), again, self.settings.borrow)
            for index, drawing in zip(todo, drawings, strict=True):
                best[index] = self._better(best.get(index, drawing), drawing)
        self._mend(samples, best)
        for index, drawing in best.items():
            if drawing.borrowed.any() and self._is_bad(drawing):
                [invented] = self._draw([samples[index]], [drawing.mask], drawing.dilated_again, borrow=False)
                best[index] = self._better(drawing, invented)
        return [
            self._judged(sample, best[index]) if index in best else self._nothing_left(sample, holes[index])
            for index, sample in enumerate(samples)
        ]

    def _mend(self, samples: list[Sample], best: dict[int, Drawing]) -> None:
        """Draw those again of whom a part is found beside what was replaced, with that part masked; what shows less stays."""
        wider = {index: drawing.mask | with_margin(drawing.left) for index, drawing in best.items() if drawing.left.any()}
        todo = {index: mask for index, mask in wider.items() if self._leaves_enough(mask)}
        drawings = self._draw([samples[index] for index in todo], list(todo.values()), 0, self.settings.borrow)
        for index, drawing in zip(todo, drawings, strict=True):
            before = best[index]
            if drawing.worst <= before.worst:
                best[index] = replace(drawing, dilated_again=before.dilated_again)

    def _judged(self, sample: Sample, drawing: Drawing) -> Row:
        """The sample with its background, unless that is worse than `min_quality`."""
        least = self.settings.min_quality
        if drawing.quality is None or drawing.quality.overall >= least:
            return self._record(sample, drawing)
        message = f"the background's quality is {drawing.quality.overall:.3f}; background.min_quality is {least:g}"
        return reject(sample, self.name, "low_quality", message)

    def _better(self, one: Drawing, other: Drawing) -> Drawing:
        """One on which nobody is found, before one that only looks better."""
        return min(one, other, key=lambda drawing: (self._is_bad(drawing), drawing.loss))

    def _is_bad(self, drawing: Drawing) -> bool:
        return drawing.worst > self.settings.max_residual

    def _larger(
        self, samples: list[Sample], drawn: dict[int, np.ndarray], best: dict[int, Drawing], again: int
    ) -> dict[int, np.ndarray]:
        """Of the samples just drawn those on which a subject is still found, with a mask that is really larger and leaves
        enough of the frame."""
        found = [place for place in drawn if self._is_bad(best[place])]
        larger = {place: self._hole(samples[place], again) for place in found}
        return {
            place: mask
            for place, mask in larger.items()
            if self._leaves_enough(mask) and not np.array_equal(mask, drawn[place])
        }

    def _hole(self, sample: Sample, again: int) -> np.ndarray:
        instances = [instance.mask_rle for instance in sample.instances if instance.frame == MIDDLE]
        masks = [decode_mask(rle) for rle in [*instances, *sample.hidden]]
        size = sample.frames[MIDDLE].rgb.shape[:2]
        found = hole(masks, size, self.settings.dilate_px, dilations(self.settings.dilate_times, again))
        if not (sample.links and self.settings.also):
            return found
        wider = (with_margin(found | unsure(sample, size, share)) for share in (1.0, 0.5, 0.0))
        return next((mask for mask in wider if self._leaves_enough(mask)), with_margin(found))

    def _leaves_enough(self, mask: np.ndarray) -> bool:
        return float(mask.mean()) <= self.settings.max_masked_share

    def _draw(self, samples: list[Sample], masks: list[np.ndarray], again: int, borrow: bool) -> list[Drawing]:
        """Borrow for each, inpaint what is left of all in one call, compose, and look for their subjects in one call."""
        if not samples:
            return []
        borrowed = [
            self._borrowed(sample, mask) if borrow else Borrowed(sample.frames[MIDDLE].rgb, np.zeros_like(mask))
            for sample, mask in zip(samples, masks, strict=True)
        ]
        pictures = [one.rgb for one in borrowed]
        left = {index: mask & ~borrowed[index].mask for index, mask in enumerate(masks)}
        left = {index: mask for index, mask in left.items() if mask.any()}
        if left:
            words = [_background_word(samples[index]) for index in left]
            name = f"background.backend {self.settings.backend}"
            filled = inpaint(self.inpainter, name, [pictures[index] for index in left], list(left.values()), words)
            for index, picture in zip(left, filled, strict=True):
                pictures[index] = np.where(left[index][..., None], picture, pictures[index])
        drawn = zip(samples, masks, (one.mask for one in borrowed), pictures, self._seen(samples, pictures), strict=True)
        return [self._drawing(*one, again) for one in drawn]

    def _drawing(
        self, sample: Sample, mask: np.ndarray, borrowed: np.ndarray, picture: np.ndarray, seen: Seen, again: int
    ) -> Drawing:
        residual = _best_scores(sample, seen.subjects)
        asks = self._asks_quality(sample)
        quality = assess(picture, mask, borrowed, residual, seen.at_large) if asks else None
        found = [seen.subjects, seen.at_large] if seen.at_large and sample.links else []
        left = found_again(found, mask, self.localise.candidate_score)
        return Drawing(mask, borrowed, picture, residual, quality, left, again)

    def _asks_quality(self, sample: Sample) -> bool:
        """Not of samples without links, which are as published, unless it decides about them."""
        return bool(sample.links) or self.settings.min_quality > 0

    def _borrowed(self, sample: Sample, mask: np.ndarray) -> Borrowed:
        """What other frames show of the hole; nothing in samples without links: the published method invents all of it."""
        rgb = sample.frames[MIDDLE].rgb
        if not sample.links or not mask.any():
            return Borrowed(rgb, np.zeros_like(mask))
        return borrow(rgb, mask, donor_frames(sample, mask))

    def _seen(self, samples: list[Sample], pictures: list[np.ndarray]) -> list[Seen]:
        """What the detector finds on each sample's picture. All in one call, in which a picture comes twice: words share out
        boxes, and are not to get others because more is looked for."""
        also = [EntityWord(word=word, category="subject", spans=[]) for word in self.settings.also]
        asking = [index for index, sample in enumerate(samples) if also and self._asks_quality(sample)]
        name = f"localise.backend {self.localise.backend}"
        images = [*pictures, *(pictures[index] for index in asking)]
        found = detect(self.detector, name, images, [*(_subjects(sample) for sample in samples), *(also for _ in asking)])
        at_large = dict(zip(asking, found[len(samples) :], strict=True))
        return [Seen(found[index], at_large.get(index)) for index in range(len(samples))]

    def _record(self, sample: Sample, drawing: Drawing) -> Sample:
        again = f"+dilate{drawing.dilated_again}" if drawing.dilated_again else ""
        sample.background = Background(
            word=_background_word(sample),
            method=self.inpainter.method + again,
            masked_share=round(float(drawing.mask.mean()), 6),
            residual=drawing.residual,
            png=encode_png(drawing.picture),
        )
        if sample.links and self.settings.also:
            sample.background.mask_rle = encode_mask(drawing.mask)
        if sample.links and drawing.quality:
            sample.background.residual_at_large = drawing.quality.residual_at_large
            sample.background.sharpness = drawing.quality.sharpness
            sample.background.quality = drawing.quality.overall
        if sample.links and self.settings.borrow:
            sample.background.borrowed_share = round(float(drawing.borrowed.sum() / max(1, drawing.mask.sum())), 6)
            sample.background.borrowed_rle = encode_mask(drawing.borrowed) if drawing.borrowed.any() else None
        sample.motion, sample.donors, sample.bystanders, sample.hidden = (
            [],
            [],
            [],
            [],
        )  # they have served, and need not travel on
        return sample

    def _nothing_left(self, sample: Sample, mask: np.ndarray) -> Rejection:
        most = self.settings.max_masked_share
        message = f"masks cover {mask.mean():.2f} of the middle frame; background.max_masked_share is {most:g}"
        return reject(sample, self.name, "nothing_left", message)


def _subjects(sample: Sample) -> list[EntityWord]:
    return [entity for entity in sample.entities if entity.category == "subject"]


def _best_scores(sample: Sample, found: Detections) -> dict[str, float]:
    """The best score that each subject word still gets."""
    columns = zip(_subjects(sample), found.scores.T, strict=True)
    return {entity.word: round(float(column.max(initial=0)), 4) for entity, column in columns}


def dilations(dilate_times: int, again: int) -> int:
    """How often the mask of attempt `again` (0: the first) is dilated: each time as often again, at least once [ours]."""
    return dilate_times + again * max(1, dilate_times)


def hole(masks: list[np.ndarray], size: tuple[int, int], dilate_px: int, dilate_times: int) -> np.ndarray:
    """What must be inpainted: union of masks (H, W) bool, dilated `dilate_times` by a square of ones, holes filled (method)."""
    import cv2

    union = np.zeros(size, np.uint8)
    for mask in masks:
        union |= mask.astype(np.uint8)
    grown = cv2.dilate(union, np.ones((dilate_px, dilate_px), np.uint8), iterations=dilate_times)
    return fill_holes(grown > 0)


def with_margin(mask: np.ndarray) -> np.ndarray:
    """The mask (H, W) bool with MARGIN more around, and twice that below, where shadows fall [ours]."""
    import cv2

    reach = max(1, round(MARGIN * max(mask.shape)))
    around = cv2.dilate(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2))
    below = cv2.dilate(around, np.ones((reach + 1, 1), np.uint8), anchor=(0, reach))
    return fill_holes(below > 0)


def _background_word(sample: Sample) -> str | None:
    return next((entity.word for entity in sample.entities if entity.category == "background"), None)


def _groups(samples: list[Sample]) -> Iterator[list[Sample]]:
    """Consecutive samples with at most GROUP_PIXELS pixels together, at least one."""
    group: list[Sample] = []
    pixels = 0
    for sample in samples:
        height, width = sample.frames[MIDDLE].rgb.shape[:2]
        if group and pixels + height * width > GROUP_PIXELS:
            yield group
            group, pixels = [], 0
        group.append(sample)
        pixels += height * width
    if group:
        yield group
