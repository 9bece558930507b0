"""Boxes: where each subject and object word is seen, in each of the three frames of record.

In: samples with entities and frames. Out: `Sample.boxes`, candidates of which at most one of a word and frame is chosen, or the
rejection `no_instance` with the best score of every word; and `Sample.bystanders`, people and animals of the middle frame whom
the background must not show. Word-to-box rule and threshold of the choice are the method's; the
detector is whatever the configuration names.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from materia.base.weights.files import Missing
from stages.answers import detect, each_alone
from stages.backends import Detections, Detector
from stages.boxes import iou
from stages.localise.shared import acquire, make, release
from stages.records import MIDDLE, Box, EntityWord, Frame, Rejection, Row, Sample, StageName, reject
from stages.settings import LocaliseSettings

MOST_BYSTANDERS = 20
SAME_BOX = 0.6
"""Intersection over union above which the lesser of two boxes of a word is no candidate."""


class Localise:
    """Stage 2b. The detector is shared with the background stage of the same process."""

    name: StageName = "localise"

    def __init__(self, settings: LocaliseSettings, also: Sequence[str] = ()) -> None:
        """`also`: words that are looked for in the middle frame, too, whatever the caption says: for `Sample.bystanders`."""
        self.settings = settings
        self.also = [EntityWord(word=word, category="subject", spans=[]) for word in also]
        self.detector: Detector = make(settings)

    def missing(self) -> list[Missing]:
        """What the detector lacks on this machine."""
        return self.detector.missing()

    def identity(self) -> dict[str, str]:
        """Hashes of the detector's weights and tables, and what is looked for besides the caption's words."""
        also = {"also": ", ".join(word.word for word in self.also)} if self.also else {}
        return {**self.detector.identity(), **also}

    def setup(self) -> None:
        """Load the detector, unless this process has it already."""
        self.detector = acquire(self.settings)

    def close(self) -> None:
        """Give the detector back."""
        release(self.settings)

    def process(self, samples: list[Sample]) -> list[Row]:
        """Samples with frames -> samples with boxes, or rejections `no_instance`."""
        return each_alone(self.name, samples, self._localise)

    def _localise(self, samples: list[Sample]) -> list[Row]:
        words = [localised_words(sample) for sample in samples]
        images = [frame.rgb for sample in samples for frame in sample.frames]
        wanted = [own for own, sample in zip(words, samples, strict=True) for _ in sample.frames]
        name = f"localise.backend {self.settings.backend}"
        found = iter(detect(self.detector, name, images, wanted))  # frames of all clips at once: the detector forms the batches
        rows = [
            self._localised(sample, own, [next(found) for _ in sample.frames])
            for sample, own in zip(samples, words, strict=True)
        ]
        self._look_for_bystanders([row for row in rows if isinstance(row, Sample)])
        return rows

    def _look_for_bystanders(self, samples: list[Sample]) -> None:
        if not self.also or not samples:
            return
        frames = [sample.frames[MIDDLE] for sample in samples]
        name = f"localise.backend {self.settings.backend}"
        seen = detect(self.detector, name, [frame.rgb for frame in frames], [self.also] * len(frames))
        for sample, frame, found in zip(samples, frames, seen, strict=True):
            scores = self._allowed(found, found.scores, frame).max(axis=1, initial=0)
            sure = [place for place in np.argsort(-scores, kind="stable").tolist() if scores[place] > self.settings.min_score]
            word = self.also[0]
            sample.bystanders = [_box(word, MIDDLE, found.boxes_xyxy_px[n], scores[n], False) for n in sure[:MOST_BYSTANDERS]]

    def _localised(self, sample: Sample, words: list[EntityWord], found: list[Detections]) -> Row:
        """The sample with its boxes; `found` are the detections of its frames."""
        shared = [self._allowed(seen, seen.scores, frame) for seen, frame in zip(found, sample.frames, strict=True)]
        scored = [
            self._allowed(seen, seen.scores if seen.unshared is None else seen.unshared, frame)
            for seen, frame in zip(found, sample.frames, strict=True)
        ]
        frames = [best_boxes(scores) for scores in shared]
        scores = np.array([scores for _, scores in frames], np.float32).reshape(len(frames), len(words))
        keep = scores > self.settings.min_score
        sample.boxes = [
            _box(word, index, found[index].boxes_xyxy_px[place], scored[index][place, column], bool(place == chosen))
            for index, (boxes, _) in enumerate(frames)
            for column, word in enumerate(words)
            for chosen in [boxes[column] if keep[index, column] else -1]
            for place in self._candidates(found[index].boxes_xyxy_px, scored[index][:, column], chosen)
        ]
        seen_in = {box.frame for box in sample.boxes if box.category == "subject" and box.chosen}
        if len(seen_in) >= self.settings.min_subject_frames:
            return sample
        return self._no_instance(sample, words, scores.max(axis=0, initial=0), len(seen_in))

    def _allowed(self, found: Detections, scores: np.ndarray, frame: Frame) -> np.ndarray:
        """Scores (N, W), 0 where the box is smaller or larger than the settings allow."""
        sides = found.boxes_xyxy_px[:, 2:] - found.boxes_xyxy_px[:, :2]
        share = sides[:, 0] * sides[:, 1] / (frame.rgb.shape[0] * frame.rgb.shape[1])
        fits = (share >= self.settings.min_area_share) & (share <= self.settings.max_area_share)
        return np.where(fits[:, None], scores, 0)

    def _candidates(self, boxes: np.ndarray, scores: np.ndarray, chosen: int) -> list[int]:
        """Numbers of a word's boxes (N, 4), scores (N,): the chosen one, if there is one, then the others, the best first.

        Boxes that mostly show what a better one shows are none (non-maximum suppression).
        """
        order = [place for place in np.argsort(-scores, kind="stable").tolist() if place != chosen]
        kept: list[int] = []
        for place in [chosen, *order] if chosen >= 0 else order:
            if len(kept) == self.settings.candidates or (scores[place] <= self.settings.candidate_score and place != chosen):
                break
            if not kept or iou(boxes[place][None], boxes[kept]).max() <= SAME_BOX:
                kept.append(place)
        return kept

    def _no_instance(self, sample: Sample, words: list[EntityWord], best: np.ndarray, seen: int) -> Rejection:
        scores = {word.word: round(float(score), 4) for word, score in zip(words, best, strict=True)}
        subjects = ", ".join(f"{w.word} {scores[w.word]:.2f}" for w in words if w.category == "subject") or "none"
        message = (
            f"subjects are seen in {seen} of {len(sample.frames)} frames, localise.min_subject_frames is"
            f" {self.settings.min_subject_frames}; best scores: {subjects}; localise.min_score is {self.settings.min_score:g}"
        )
        sample.boxes = [box for box in sample.boxes if box.chosen]
        rejection = reject(sample, self.name, "no_instance", message)
        rejection.found["scores"] = scores
        return rejection


def localised_words(sample: Sample) -> list[EntityWord]:
    """The words that boxes are looked for: subjects and objects, in the order of the caption."""
    return sorted((e for e in sample.entities if e.category != "background"), key=lambda entity: min(entity.spans))


def best_boxes(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The method's word-to-box rule [paper's evaluation code]: a box belongs to its best word only, a word keeps its best box.

    `scores` (N boxes, W words) in [0, 1] -> for each word the index of its box (W,) int, -1 if it has none, and that box's
    score (W,) float32, 0 if it has none. Ties go to the lower index. A score of 0 means that the box does not show the word.
    """
    n_boxes, n_words = scores.shape
    if not n_boxes or not n_words:
        return np.full(n_words, -1), np.zeros(n_words, np.float32)
    columns = np.arange(n_words)
    own = np.where(scores.argmax(axis=1)[:, None] == columns, scores, 0)
    boxes = own.argmax(axis=0)
    best = own[boxes, columns].astype(np.float32)
    return np.where(best > 0, boxes, -1), best


def _box(word: EntityWord, frame: int, xyxy: np.ndarray, score: float, chosen: bool) -> Box:
    x1, y1, x2, y2 = (round(float(value), 2) for value in xyxy)
    return Box(
        word=word.word,
        category=word.category,
        frame=frame,
        box_xyxy_px=(x1, y1, x2, y2),
        score=round(float(score), 4),
        chosen=chosen,
    )
