"""What is generated and compared: clips of shards with own references, and with those of other identities of the same words."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from materia.dataset.documents import Document
from materia.dataset.masks import decode_rle
from materia.dataset.reader import Dataset
from trainer.config import BucketSettings, TrainConfig
from trainer.data.batch import Item
from trainer.data.items import Draw, DrawnReference, cover, crops_of, read_item, reference_pixels, window_times
from trainer.errors import TrainError


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """How clips are generated and how many are looked at."""

    clips: int = 192
    steps: int | None = None  # None: by resolution, as `materia sample`
    text_guidance: float = 2.0
    image_guidance: float = 2.0
    batch: int = 16
    seed: int = 0
    scorer: str = "efficientnet"  # image encoder whose features are compared, whatever the run was trained with


class Subject(NamedTuple):
    """A word of a clip and its identity: its crops (h, w, 4) uint8 RGBA, and its mask in some frames of the generated clip."""

    word: str
    crops: list[np.ndarray]
    regions: list[tuple[int, np.ndarray]]  # frame, (H, W) bool


class Case(NamedTuple):
    """A clip to be generated, with its own references and with others'."""

    own: Item
    shuffled: Item
    subjects: list[Subject]


def read_cases(samples: Dataset, config: TrainConfig, bucket: BucketSettings, options: EvalOptions) -> list[Case]:
    """One crop of each subject and object is its reference, unaugmented, in random order; foreign ones are of the same word
    where another clip has it."""
    rng = np.random.default_rng(options.seed)
    data = config.data.model_copy(update={"augment": False, "windows": 1})
    if len(samples) < 2:
        raise TrainError(f"{samples.out} has one clip; references can be shuffled among several only")
    numbers = range(min(max(options.clips, 2), len(samples)))
    documents = [samples.document(index) for index in numbers]
    crops = [crops_of(document) for document in documents]
    offers = [(word, index, member) for index in numbers for word, members in crops[index].items() for member in members]

    def pixels(number: int, member: str) -> np.ndarray:
        return reference_pixels(samples.read(number, [member])[member], "", member, 0, data, config.seed)

    cases = []
    for index, document in enumerate(documents):
        spans = {entity.word: entity.spans[0] for entity in document.entities}
        words = [list(crops[index])[place] for place in rng.permutation(len(crops[index]))]
        drawn = [DrawnReference(word, spans[word], str(rng.choice(crops[index][word])), 0) for word in words]
        own = read_item(samples, index, document, index, Draw(0, drawn), bucket, data, config.seed)
        foreign = []
        for reference in own.references:
            others = [offer for offer in offers if offer[1] != index]
            others = [offer for offer in others if offer[0] == reference.word] or others
            _, other, member = others[int(rng.integers(len(others)))]
            foreign.append(reference._replace(pixels=pixels(other, member)))
        times_s = window_times(document, bucket, data, 0, config.seed)
        cases.append(Case(own, replace(own, references=foreign), _subjects(samples, index, document, bucket, times_s)))
    return cases


def _subjects(
    samples: Dataset, number: int, document: Document, bucket: BucketSettings, times_s: Sequence[float]
) -> list[Subject]:
    """Each word's crops, and its masks of the frames of record laid on the nearest frames of the bucket's clip."""
    found: dict[str, Subject] = {}
    pngs = samples.read(number, [instance.member for instance in document.instances])
    for instance in document.instances:
        subject = found.setdefault(instance.word, Subject(instance.word, [], []))
        subject.crops.append(_rgba(pngs[instance.member]))
        height, width = instance.mask_rle.size
        mask = decode_rle(instance.mask_rle.counts, (height, width))
        if mask is None:
            raise TrainError(f"{samples.out}: {document.key} has a broken mask; run: materia validate {samples.out}")
        frame = int(np.abs(np.subtract(times_s, document.frames[instance.frame].time_s)).argmin())
        subject.regions.append((frame, cover(mask.astype(np.uint8) * 255, bucket.height, bucket.width) > 127))
    return list(found.values())


def _rgba(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
        return np.asarray(picture.convert("RGBA"))
