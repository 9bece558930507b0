"""Masks and reference crops of what was localised.

In: samples with boxes. Out: `Sample.instances`, one for each box whose mask passes the gate, with its mask in COCO's run-length
code and its crop as PNG (RGBA, alpha 0 or 255, the pixels under alpha 0 kept); or a rejection when no subject is left. Boxes
stay in `Sample.boxes`, with the reason where they gave no instance; `Sample.hidden` has masks of subjects and bystanders of the
middle frame that are no instances. In samples with links a pixel belongs to one instance of a frame (exclusive.py); the
published method, which looks for no links, leaves masks as they are drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, cast

import msgspec
import numpy as np

from materia.base.weights.files import Missing
from stages.answers import each_alone, segment
from stages.backends import Masks, Segmenter, build_backend
from stages.boxes import iou
from stages.images import crop_png, encode_mask, mask_extent
from stages.records import MIDDLE, Box, Dropped, Frame, Instance, Row, Sample, StageName, reject
from stages.segment.exclusive import share_out
from stages.segment.tidy import tidy
from stages.settings import SegmentSettings

SAME_PLACE = 0.6
"""Intersection over union from which on two boxes show the same one."""
GROUP_BYTES = 256 * 2**20
"""Most bytes of masks, one a pixel, that are asked of the segmenter at once."""


class Cut(NamedTuple):
    """A box with its mask (H, W) bool and the segmenter's score of it; why it is no reference, None: it is one; and the share
    of the mask that was in others, None where that was not asked.
    """

    box: Box
    mask: np.ndarray
    score: float
    dropped: Dropped | None
    overlap: float | None = None


class Segment:
    """Stage 2c."""

    name: StageName = "segment"

    def __init__(self, settings: SegmentSettings, also: Sequence[str] = ()) -> None:
        """`also`: whom the background must not show besides those whom the caption names; empty: nothing is masked for it."""
        self.settings = settings
        self.for_background = bool(also)
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
        for group in _groups(_frames_with_boxes(samples, self.for_background)):
            found = segment(self.segmenter, name, [frame.rgb for _, frame, _ in group], [boxes for _, _, boxes in group])
            for (n, frame, boxes), masks in zip(group, found, strict=True):
                instances[n] += self._instances(samples[n], frame.rgb, boxes, masks)
                for box, score in zip(boxes, masks.scores, strict=True):
                    if box.chosen:
                        best[n][box.word] = max(best[n].get(box.word, 0.0), round(float(score), 4))
        for sample, kept in zip(samples, instances, strict=True):
            sample.instances = kept
        return [self._row(sample, scores) for sample, scores in zip(samples, best, strict=True)]

    def _instances(self, sample: Sample, image: np.ndarray, boxes: list[Box], masks: Masks) -> list[Instance]:
        """The instances of a frame whose masks pass the gate; the boxes of the others are marked with the reason.

        Masks of subjects that are no instances are noted, for the background.
        """
        asked = [self._gated(*one) for one in zip(boxes, masks.masks, masks.scores, strict=True)]
        cut = [one for one in asked if one.box.chosen]
        if sample.links:
            cut = self._exclusive(image, cut) if self.settings.exclusive else cut
            why = {one.box: one.dropped for one in cut}
            sample.boxes = [msgspec.structs.replace(box, dropped=why.get(box, box.dropped)) for box in sample.boxes]
        if self.for_background and sample.links:
            others = [one for one in asked if not one.box.chosen] + [one for one in cut if one.dropped]
            sample.hidden += [
                encode_mask(one.mask)
                for one in others
                if one.box.frame == MIDDLE and one.box.category == "subject" and one.mask.any()
            ]
        return [_instance(one, image) for one in cut if one.dropped is None]

    def _gated(self, box: Box, mask: np.ndarray, score: float) -> Cut:
        if score < self.settings.min_score:
            return Cut(box, mask, float(score), "low_mask_score")
        mask = tidy(mask, self.settings.min_part_share, self.settings.max_hole_share)
        return self._large_enough(Cut(box, mask, float(score), None))

    def _exclusive(self, image: np.ndarray, cut: list[Cut]) -> list[Cut]:
        """Of the masks that passed the gate none overlap any more. One that loses too much is dropped, the worst first, and
        what it took from others is theirs again.
        """
        overlap: dict[Box, float] = {}
        while True:
            kept = [one for one in cut if one.dropped is None]
            masks = np.array([one.mask for one in kept]).reshape(-1, *image.shape[:2])
            boxes = np.array([one.box.box_xyxy_px for one in kept], np.float32).reshape(-1, 4)
            shared = share_out(image, masks, boxes, [one.box.score for one in kept])
            overlap = overlap or {one.box: round(share, 4) for one, share in zip(kept, shared.overlap, strict=True)}
            lost = {one.box: float(1 - left.sum() / one.mask.sum()) for one, left in zip(kept, shared.masks, strict=True)}
            worst = max(lost, key=lost.__getitem__, default=None)
            if worst is None or lost[worst] <= self.settings.max_lost_share:
                break
            cut = [one._replace(dropped="somebody_elses") if one.box == worst else one for one in cut]
        own = {one.box: mask for one, mask in zip(kept, shared.masks, strict=True)}
        return [
            self._large_enough(one._replace(mask=own[one.box], overlap=overlap[one.box])) if one.box in own else one
            for one in cut
        ]

    def _large_enough(self, one: Cut) -> Cut:
        return one if one.mask.sum() >= self.settings.min_area_px else one._replace(dropped="small_mask")

    def _row(self, sample: Sample, best: dict[str, float]) -> Row:
        """The sample, if an instance of a subject is left; `best`: word -> score of its best mask, for the rejection."""
        if any(instance.category == "subject" for instance in sample.instances):
            return sample
        subjects = ", ".join(f"{word} {best[word]:.2f}" for word in _subject_words(sample)) or "none"
        if any(box.category == "subject" and box.dropped == "somebody_elses" for box in sample.boxes):
            message = (
                f"masks of subjects lie by more than segment.max_lost_share {self.settings.max_lost_share:g} in those of other"
                f" instances, or do not pass the gate; best mask scores: {subjects}"
            )
            return reject(sample, self.name, "no_subject_alone", message)
        message = (
            f"no mask of a subject reaches segment.min_score {self.settings.min_score:g} and has"
            f" segment.min_area_px {self.settings.min_area_px}; best mask scores: {subjects}"
        )
        rejection = reject(sample, self.name, "low_mask_score", message)
        rejection.found["scores"] = best
        return rejection


FramesBoxes = tuple[int, Frame, list[Box]]
"""Number of a sample, one of its frames, the boxes in it."""


def _frames_with_boxes(samples: list[Sample], for_background: bool) -> Iterator[FramesBoxes]:
    for n, sample in enumerate(samples):
        for index, frame in enumerate(sample.frames):
            boxes = [box for box in sample.boxes if box.frame == index and box.chosen]
            if index == MIDDLE and for_background and sample.links:
                boxes = boxes + _bystanders(sample, boxes)
            if boxes:
                yield n, frame, boxes


def _bystanders(sample: Sample, chosen: list[Box]) -> list[Box]:
    """Whom the background must not show besides the `chosen` boxes of the middle frame, each once, the surest first."""
    candidates = [box for box in sample.boxes if box.frame == MIDDLE and not box.chosen and box.category == "subject"]
    taken = [box.box_xyxy_px for box in chosen]
    found: list[Box] = []
    for box in sorted([*sample.bystanders, *candidates], key=lambda box: -box.score):
        if not taken or iou(np.array([box.box_xyxy_px], np.float32), np.array(taken, np.float32)).max() < SAME_PLACE:
            found.append(box)
            taken.append(box.box_xyxy_px)
    return found


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


def _instance(one: Cut, image: np.ndarray) -> Instance:
    box = one.box
    x1, y1, x2, y2 = (int(v) for v in mask_extent(one.mask))
    return Instance(
        word=box.word,
        category=box.category,
        frame=box.frame,
        box_xyxy_px=box.box_xyxy_px,
        detector_score=box.score,
        mask_rle=encode_mask(one.mask),
        mask_score=round(one.score, 4),
        area_share=round(float(one.mask.mean()), 6),
        crop_xyxy_px=(x1, y1, x2, y2),
        png=crop_png(image, one.mask, (x1, y1, x2, y2)),
        overlap_share=one.overlap,
        link_score=box.link_score,
        evidence=box.evidence,
    )
