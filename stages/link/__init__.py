"""Links: which candidates of the three frames show the same individual, so that the references of a word are of one.

In: samples with candidate boxes and motion. Out: `Sample.boxes` with the chosen ones marked, at most one a word and frame, and
`Sample.links`; or the rejection `no_consistent_subject`. The published method takes a word's best box in each frame by itself
(`link.backend: none`); here one choice is made for all words of a clip, from how well boxes show the words (the detector) and
how well boxes of different frames fit each other (evidence.py). What does not fit is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, product
from typing import NamedTuple, cast

import msgspec
import numpy as np

from materia.base.weights.files import Missing
from stages.answers import describe, each_alone, recognise, verify
from stages.backends import FaceRecogniser, PersonVerifier, Recogniser, build_backend
from stages.boxes import iou
from stages.link.carry import Carried, carry
from stages.link.choice import NONE, Choices, choices_of, choose, second_best
from stages.link.evidence import Pairs, weigh
from stages.localise.vocabulary import is_human
from stages.records import Box, Category, Evidence, Link, Row, Sample, StageName, reject
from stages.settings import (
    NO_FACES,
    NO_LINKS,
    NO_PEOPLE,
    LinkFacesSettings,
    LinkPeopleSettings,
    LinkSettings,
    LocaliseSettings,
)
from stages.video.motion import both_ways, camera_motion

FRAMES = (0, 1, 2)
AREA_BONUS, AREA_FULL = 0.25, 0.125
"""A large box shows whom a caption is about rather than a small one: the bonus grows up to this share of the frame."""
HELD_SHARE, APART, LEAST_PART = 0.8, 0.1, 0.2
"""A box holds two individuals if two others lie in it by the first share at least, overlap by less than the second, and have
the third share of its area at least: smaller ones are an arm and a head."""
SAME_PLACE = 0.5
"""Intersection over union from which on a carried box is where another word's individual is, or a candidate not chosen."""
LEAST_FIT = 0.15
"""Detector score of a box that is worth no more than none."""

Places = frozenset[tuple[float, float, float, float]]
"""Boxes of a frame, xyxy in pixels."""


class Seen(NamedTuple):
    """The distinct boxes of a frame: `boxes` (N, 4) float32, `scores` word -> (N,) float32, NaN: no candidate of the word, or
    one in which nobody is seen; `human` (N,) bool: candidates of a word for a person."""

    boxes: np.ndarray
    scores: dict[str, np.ndarray]
    human: np.ndarray


class Looks(NamedTuple):
    """Of the N boxes of a frame: descriptions (N, D) float32, and of their faces (N, E) float32, NaN where none is seen."""

    appearance: np.ndarray
    faces: np.ndarray


class LinkInstances:
    """Stage between boxes and masks."""

    name: StageName = "link"

    def __init__(self, settings: LinkSettings, localise: LocaliseSettings) -> None:
        self.settings = settings
        self.min_score = localise.min_score
        self.min_subject_frames = localise.min_subject_frames
        self.recogniser = cast(Recogniser, build_backend("link", settings.backend, settings.options))
        faces = settings.faces if settings.backend != NO_LINKS else LinkFacesSettings(backend=NO_FACES)
        self.face_recogniser = cast(FaceRecogniser, build_backend("link.faces", faces.backend, faces.options))
        self.people = settings.people if settings.backend != NO_LINKS else LinkPeopleSettings(backend=NO_PEOPLE)
        self.verifier = cast(PersonVerifier, build_backend("link.people", self.people.backend, self.people.options))

    def missing(self) -> list[Missing]:
        """What the recognisers and the verifier lack on this machine."""
        return self.recogniser.missing() + self.face_recogniser.missing() + self.verifier.missing()

    def identity(self) -> dict[str, str]:
        """Hashes of the backends' weights, and what localise says that an individual must have."""
        return {
            **self.recogniser.identity(),
            **{f"faces.{name}": sha for name, sha in self.face_recogniser.identity().items()},
            **{f"people.{name}": sha for name, sha in self.verifier.identity().items()},
            "min_score": str(self.min_score),
            "min_subject_frames": str(self.min_subject_frames),
        }

    def setup(self) -> None:
        """Load the recognisers and the verifier."""
        for backend in (self.recogniser, self.face_recogniser, self.verifier):
            backend.setup(self.settings.device, self.settings.threads)

    def close(self) -> None:
        """Give them back."""
        for backend in (self.recogniser, self.face_recogniser, self.verifier):
            backend.close()

    def process(self, samples: list[Sample]) -> list[Row]:
        """Samples with candidates -> samples with one chosen box a word and frame at most, or rejections."""
        if self.settings.backend == NO_LINKS:
            return [_only_chosen(sample) for sample in samples]
        return each_alone(self.name, samples, self._link)

    def _link(self, samples: list[Sample]) -> list[Row]:
        nobodies = self._nobodies(samples)
        for sample, places in zip(samples, nobodies, strict=True):
            sample.boxes = [_unseen(box) if box.chosen and _is_nobody(box, places) else box for box in sample.boxes]
        seen = [[_seen(sample, frame, places) for frame in FRAMES] for sample, places in zip(samples, nobodies, strict=True)]
        images = [frame.rgb for sample in samples for frame in sample.frames]
        looks = iter(self._looks(images, [own for frames in seen for own in frames]))
        return [self._linked(sample, own, [next(looks) for _ in FRAMES]) for sample, own in zip(samples, seen, strict=True)]

    def _nobodies(self, samples: list[Sample]) -> list[list[Places]]:
        """Of each frame of each sample the boxes of people in which detector and verifier together see none. Boxes of which the
        detector alone is sure enough are not looked at again.
        """
        if self.people.backend == NO_PEOPLE:
            return [[frozenset() for _ in FRAMES] for _ in samples]
        least = 2 * self.people.min_score
        doubtful = [
            {box.box_xyxy_px: box.score for box in sample.boxes if box.frame == frame and _is_human(box) and box.score < least}
            for sample in samples
            for frame in FRAMES
        ]
        images = [frame.rgb for sample in samples for frame in sample.frames]
        boxes = [np.array(list(own), np.float32).reshape(-1, 4) for own in doubtful]
        found = verify(self.verifier, f"link.people.backend {self.people.backend}", images, boxes)
        nobodies = iter(
            frozenset(place for (place, score), seen in zip(own.items(), scores, strict=True) if score + seen < least)
            for own, scores in zip(doubtful, found, strict=True)
        )
        return [[next(nobodies) for _ in FRAMES] for _ in samples]

    def _looks(self, images: list[np.ndarray], seen: list[Seen]) -> list[Looks]:
        """What recognisers say of the boxes of each image; only people are asked for faces."""
        settings = self.settings
        looks = describe(self.recogniser, f"link.backend {settings.backend}", images, [own.boxes for own in seen])
        people = [own.boxes[own.human] for own in seen]
        found = recognise(self.face_recogniser, f"link.faces.backend {settings.faces.backend}", images, people)
        faces = [np.full((len(own.boxes), some.shape[1]), np.nan, np.float32) for own, some in zip(seen, found, strict=True)]
        for all_of_them, own, some in zip(faces, seen, found, strict=True):
            all_of_them[own.human] = some
        return [Looks(*both) for both in zip(looks, faces, strict=True)]

    def _linked(self, sample: Sample, seen: list[Seen], looks: list[Looks]) -> Row:
        pairs = _pairs(sample, seen, looks, self.recogniser.alike, self.face_recogniser.alike)
        links = {frames: found.score for frames, found in pairs.items()}
        words = list(dict.fromkeys((box.word, box.category) for box in sample.boxes))
        choices = [self._choices(word, category, sample, seen, links) for word, category in words]
        same = [iou(own.boxes, own.boxes) >= self.settings.same_thing for own in seen]
        best = choose(choices, same)
        chosen = [self._without_odd_ones(boxes, links) for boxes in best]
        subjects = [boxes != NONE for boxes, (_, category) in zip(chosen, words, strict=True) if category == "subject"]
        n_frames = int(np.any(subjects, axis=0).sum())
        if n_frames < self.min_subject_frames:
            message = (
                f"individuals are seen in {n_frames} of {len(FRAMES)} frames, localise.min_subject_frames is"
                f" {self.min_subject_frames}; link.min_score is {self.settings.min_score:g}, link.people.min_score"
                f" {self.people.min_score:g}"
            )
            return reject(sample, self.name, "no_consistent_subject", message)
        sample.links = [
            self._link_of(word, boxes, links, second_best(own, whole, same))
            for (word, _), boxes, whole, own in zip(words, chosen, best, choices, strict=True)
        ]
        found = {word: (own, all_of_it) for (word, _), own, all_of_it in zip(words, chosen, best, strict=True)}
        sample.boxes = [_marked(box, seen[box.frame], *found[box.word], pairs) for box in sample.boxes]
        sample.boxes += self._carried(sample)
        if any(link.ambiguous for link in sample.links):
            sample.flags = [*sample.flags, "ambiguous_identity"]
        return sample

    def _choices(
        self, word: str, category: Category, sample: Sample, seen: list[Seen], links: dict[tuple[int, int], np.ndarray]
    ) -> Choices:
        least = max(self.min_score, self.settings.min_object_score) if category == "object" else self.min_score
        fit, sure = [], []
        for frame, own in zip(sample.frames, seen, strict=True):
            scores = own.scores.get(word, np.full(len(own.boxes), np.nan, np.float32))
            sides = own.boxes[:, 2:] - own.boxes[:, :2]
            share = sides.prod(axis=1) / (frame.rgb.shape[0] * frame.rgb.shape[1])
            scores = np.where(groups(own.boxes, ~np.isnan(scores)), np.nan, scores)
            fit.append(scores - LEAST_FIT + AREA_BONUS * np.minimum(1, share / AREA_FULL))
            sure.append(scores > least)
        return choices_of(fit, sure, links)

    def _without_odd_ones(self, boxes: np.ndarray, links: dict[tuple[int, int], np.ndarray]) -> np.ndarray:
        """The boxes of a word that are linked well enough to its others; the worst goes first."""
        boxes = boxes.copy()
        while True:
            scores = {frame: _mean_link(frame, boxes, links) for frame in FRAMES if boxes[frame] != NONE}
            worst = min((frame for frame in scores if scores[frame] is not None), key=lambda f: scores[f] or 0.0, default=None)
            if worst is None or (scores[worst] or 0.0) >= self.settings.min_score:
                return boxes
            boxes[worst] = NONE

    def _link_of(self, word: str, boxes: np.ndarray, links: dict[tuple[int, int], np.ndarray], other: float | None) -> Link:
        pairs = [float(table[boxes[f], boxes[g]]) for (f, g), table in links.items() if boxes[f] != NONE and boxes[g] != NONE]
        return Link(
            word=word,
            score=round(sum(pairs) / len(pairs), 4) if pairs else None,
            second_best=None if other is None else round(other, 4),
            ambiguous=other is not None and other >= 1 - self.settings.ambiguous_share,
        )

    def _carried(self, sample: Sample) -> list[Box]:
        """Boxes of individuals in frames in which the detector did not find them and nobody else is in their place."""
        chosen = [box for box in sample.boxes if box.chosen]
        moved = both_ways(sample.motion)
        found = []
        for frame, word in product(FRAMES, dict.fromkeys(box.word for box in chosen)):
            own = {box.frame: box for box in chosen if box.word == word}
            size = sample.frames[frame].rgb.shape[:2]
            ways = [
                (there, box)
                for start, box in own.items()
                if frame not in own and (start, frame) in moved and (there := carry(_place(box), moved[start, frame], size))
            ]
            if not ways:
                continue
            there, box = max(ways, key=lambda way: way[0].share)
            taken = [_place(other) for other in sample.boxes if other.frame == frame and (other.chosen or other.word == word)]
            if not (iou(there.box[None], np.array(taken, np.float32).reshape(-1, 4)) >= SAME_PLACE).any():
                found.append(_carried_box(box, frame, there, self.settings.carried))
        return found


def _carried_box(box: Box, frame: int, there: Carried, chosen: bool) -> Box:
    """With the score of the box that it comes from; how sure its link is, is how many points went there."""
    share = round(there.share, 4)
    return msgspec.structs.replace(
        box,
        frame=frame,
        box_xyxy_px=tuple(round(float(side), 2) for side in there.box),
        carried=True,
        chosen=chosen,
        link_score=share if chosen else None,
        evidence=Evidence(motion=share) if chosen else None,
    )


def _place(box: Box) -> np.ndarray:
    return np.array(box.box_xyxy_px, np.float32)


def _only_chosen(sample: Sample) -> Row:
    """The published method: a word's best box of each frame."""
    sample.boxes = [box for box in sample.boxes if box.chosen]
    return sample


def _is_human(box: Box) -> bool:
    return is_human(box.word, box.category)


def _is_nobody(box: Box, nobodies: list[Places]) -> bool:
    return box.box_xyxy_px in nobodies[box.frame] and _is_human(box)


def _unseen(box: Box) -> Box:
    return msgspec.structs.replace(box, chosen=False, dropped="nobody_seen")


def _seen(sample: Sample, frame: int, nobodies: list[Places]) -> Seen:
    places = {box.box_xyxy_px: None for box in sample.boxes if box.frame == frame}
    number = {place: n for n, place in enumerate(places)}
    scores: dict[str, np.ndarray] = {}
    human = np.zeros(len(number), bool)
    for box in sample.boxes:
        if box.frame == frame:
            place = number[box.box_xyxy_px]
            own = scores.setdefault(box.word, np.full(len(number), np.nan, np.float32))
            own[place] = np.nan if _is_nobody(box, nobodies) else box.score
            human[place] |= _is_human(box)
    return Seen(np.array(list(places), np.float32).reshape(-1, 4), scores, human)


def _pairs(
    sample: Sample, seen: list[Seen], looks: list[Looks], alike: tuple[float, float], faces_alike: tuple[float, float]
) -> dict[tuple[int, int], Pairs]:
    """Evidence between the boxes of each two frames."""
    moved = {(motion.start, motion.end): motion.array for motion in sample.motion}
    found = {}
    for f, g in combinations(FRAMES, 2):
        points = moved.get((f, g), np.zeros((0, 4), np.float32))
        appearance = _alike(looks[f].appearance, looks[g].appearance, alike)
        faces = _alike(looks[f].faces, looks[g].faces, faces_alike)
        camera, _ = camera_motion(points)
        found[f, g] = weigh(seen[f].boxes, seen[g].boxes, points, camera, appearance, faces)
    return found


def _alike(first: np.ndarray, second: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """Descriptions (N, D), (M, D) -> (N, M) float32: 0 up to the first bound of their dot products, 1 from the second on."""
    low, high = bounds
    alike: np.ndarray = np.clip((first @ second.T - low) / (high - low), 0, 1).astype(np.float32)
    return alike


def groups(boxes: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Which boxes (N, 4) hold two others that lie apart: they show several people. `among` (N,): candidates of one word."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    common = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    inside = common.clip(0).prod(axis=2) >= HELD_SHARE * areas[None]  # [a, b]: b lies in a
    inside &= areas[None] >= LEAST_PART * areas[:, None]
    inside &= among[:, None] & among[None] & ~np.eye(len(boxes), dtype=bool)
    apart = iou(boxes, boxes) < APART
    found: np.ndarray = (inside[:, :, None] & inside[:, None, :] & apart[None]).any(axis=(1, 2))
    return found


def _mean_link(frame: int, boxes: np.ndarray, links: dict[tuple[int, int], np.ndarray]) -> float | None:
    """Mean link of a word's box of a frame to its others; None if there is no other."""
    found = list(_between(frame, boxes, links))
    return sum(found) / len(found) if found else None


def _between(frame: int, boxes: np.ndarray, tables: dict[tuple[int, int], np.ndarray]) -> Iterable[float]:
    """What tables of pairs say of the box of a frame and the word's other boxes."""
    for (f, g), table in tables.items():
        if frame in (f, g) and boxes[f] != NONE and boxes[g] != NONE:
            yield float(table[boxes[f], boxes[g]])


def _marked(box: Box, seen: Seen, taken: np.ndarray, best: np.ndarray, pairs: dict[tuple[int, int], Pairs]) -> Box:
    """The candidate with whether it was chosen, and on what evidence. `taken`: boxes of its word, `best`: odd ones included."""
    place = np.flatnonzero((seen.boxes == np.array(box.box_xyxy_px, np.float32)).all(axis=1))[0]
    if taken[box.frame] != place:
        return msgspec.structs.replace(box, chosen=False, dropped="odd_one" if best[box.frame] == place else box.dropped)
    score = _mean_link(box.frame, taken, {frames: found.score for frames, found in pairs.items()})
    kinds = {
        kind: _mean(_between(box.frame, taken, {frames: getattr(found, kind) for frames, found in pairs.items()}))
        for kind in ("motion", "appearance", "face")
    }
    linked = None if score is None else round(score, 4)
    return msgspec.structs.replace(
        box, chosen=True, link_score=linked, evidence=Evidence(**kinds) if linked is not None else None
    )


def _mean(values: Iterable[float]) -> float | None:
    """Of those that say something."""
    known = [value for value in values if not np.isnan(value)]
    return round(sum(known) / len(known), 4) if known else None
