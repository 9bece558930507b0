"""Which clips show a place and nobody in it, and who can walk there.

In: a manifest of captioned clips, as `materia run` reads it, and an output whose references are cut-outs. Out: places with a
still of each, why the other clips are none, and cut-outs of people and animals. A place is a clip whose caption names nobody
and in whose frames of record the detector of the stage `localise` finds nobody.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from typing import NamedTuple

import numpy as np
from rich.progress import Progress

import materia
from materia.base.errors import UserError
from materia.dataset.reader import StoredSample
from pipeline.sources import find_source, read_rows
from pipeline.sources.access import resolve
from pipeline.sources.settings import SourceSettings
from stages.answers import detect
from stages.backends import Detector
from stages.entities.lexicon import lemmas, table
from stages.frames import Frames
from stages.localise.shared import acquire, release
from stages.localise.vocabulary import class_names, classes_of
from stages.records import Clip, EntityWord, Rejection, Sample
from stages.settings import FramesSettings, LocaliseSettings
from tools.eval_identity.pairs import LIVING

CLIPS_PER_WALKER = 8
"""Clips of a long manifest that are looked at, a walker: most show somebody."""
MIN_CUTOUT_PX = 150
"""Least height of a cut-out; smaller ones would be blurs."""
MIN_DETECTOR_SCORE, MIN_MASK_SCORE = 0.5, 0.75
"""Of a cut-out: what is hardly seen as what it is, or badly cut, tests the detector and not the background."""
_CUTOUT_SAMPLES = 200  # of an output that are looked through for cut-outs
_SEVERAL = frozenset({"people", "folk", "folks", "wildlife", "someone", "somebody"})  # no noun of the tables, yet living


class Place(NamedTuple):
    """A clip that shows nobody; `still`: its middle frame of record, (H, W, 3) uint8 RGB."""

    clip: Clip
    duration_s: float
    still: np.ndarray


class Places(NamedTuple):
    """The places of a manifest, in its order, and why how many other clips are none."""

    places: list[Place]
    left_out: Counter[str]


class Cutout(NamedTuple):
    """Somebody who can walk: the key of the clip that shows them, what its caption calls them, `rgba` (H, W, 4) uint8."""

    key: str
    word: str
    rgba: np.ndarray


def find_places(manifest: str, n_walkers: int, seed: int, bar: Progress) -> Places:
    """Clips that show nobody; of a long manifest, of a selection by `seed`. Raises SourceError, UserError if there is none."""
    settings = SourceSettings()
    source = find_source(manifest, settings)
    rows = list(read_rows(source, settings))
    picked = np.sort(np.random.default_rng(seed).permutation(len(rows))[: CLIPS_PER_WALKER * n_walkers])
    found = [resolve(row, source.root, settings) if isinstance(row, Clip) else row for row in (rows[i] for i in picked)]
    left_out = Counter(row.reason for row in found if isinstance(row, Rejection))
    frames, localise = Frames(FramesSettings(motion=False)), LocaliseSettings()
    frames.setup()
    detector = acquire(localise)
    places: list[Place] = []
    for clip in bar.track([row for row in found if isinstance(row, Clip)], description="looking at clips"):
        if names_somebody(clip.caption):
            left_out["its caption names somebody"] += 1
            continue
        [row] = frames.process([Sample(clip=clip)])
        if isinstance(row, Rejection) or row.video is None:
            left_out[row.reason if isinstance(row, Rejection) else "unreadable"] += 1
        elif _shows_somebody(row, detector, localise.min_score):
            left_out["the detector finds somebody"] += 1
        else:
            places.append(Place(clip, row.video.duration_s, row.frames[1].rgb))
    release(localise)
    if not places:
        told = "; ".join(f"{why}: {count}" for why, count in left_out.most_common())
        raise UserError(f"no clip of {manifest} shows a place and nobody ({told}); give a manifest with some that do")
    return Places(places, left_out)


def names_somebody(caption: str) -> bool:
    """Whether any of its words can be a person, an animal or several of them, in the singular or the plural."""
    words = re.findall(r"[^\W\d_]+", caption.casefold())
    forms = {form for word in words for form in (word, *lemmas(word).get("NOUN", ()))}
    return any(LIVING & set(classes_of(form, "object")) or form in table("collectives.txt") | _SEVERAL for form in forms)


def _shows_somebody(sample: Sample, detector: Detector, min_score: float) -> bool:
    words = [EntityWord(word=class_names()[index], category="subject", spans=[]) for index in sorted(LIVING)]
    pictures = [frame.rgb for frame in sample.frames]
    found = detect(detector, "localise.backend", pictures, [words] * len(pictures))
    return any(float(one.scores.max(initial=0)) > min_score for one in found)


def cutouts_of(out: str) -> list[Cutout]:
    """Of each sample of an output the tallest person or animal that no side of the picture cuts off, but the lower one.

    Raises OutputError, UserError if there is none.
    """
    found = [_tallest(sample) for sample in islice(materia.open_dataset(out), _CUTOUT_SAMPLES)]
    cutouts = [cutout for cutout in found if cutout is not None]
    if not cutouts:
        raise UserError(
            f"{out} has no reference of a person or an animal of {MIN_CUTOUT_PX} px or more that is seen whole;"
            " give another output"
        )
    return cutouts


def _tallest(sample: StoredSample) -> Cutout | None:
    width = sample.document.video.width
    whole = [
        Cutout(sample.key, instance.word, rgba)
        for instance, rgba in zip(sample.document.instances, sample.references, strict=True)
        if not instance.is_face
        and instance.category == "subject"
        and LIVING & set(classes_of(instance.word, "subject"))
        and len(rgba) >= MIN_CUTOUT_PX
        and instance.detector_score >= MIN_DETECTOR_SCORE
        and instance.mask_score >= MIN_MASK_SCORE
        and instance.crop_xyxy_px[0] > 0
        and instance.crop_xyxy_px[1] > 0
        and instance.crop_xyxy_px[2] < width
    ]
    return max(whole, key=lambda cutout: len(cutout.rgba), default=None)
