"""How well generated subjects match their references, where masks and identities are known (tools/synthetic_world.py).

In: a run, and shards with exact masks of identities that it was not trained on. Every clip is generated twice from the same
caption and noise: with references of its own subjects, and with those of other identities of the same words. Out: how much
nearer to the *true* references the first are, for each clip, with intervals. A subject's colours are read off where the caption
puts it: inside its mask in the true clip. What a generated subject looks like is compared as a distribution of colours (CIELAB,
sliced Wasserstein distance), which no network had a hand in, and by features of the packaged image encoder.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

from materia.base import storage
from materia.dataset.documents import Document
from materia.dataset.masks import decode_rle
from materia.dataset.reader import Dataset
from materia.report.grid import GridRow, grid
from trainer.config import BucketSettings, EncoderSettings, TrainConfig
from trainer.data.augment import on_white_square
from trainer.data.batch import Item
from trainer.data.encode import encode
from trainer.data.items import Draw, DrawnReference, cover, crops_of, read_item, reference_pixels, window_times
from trainer.encoders import build
from trainer.encoders.base import ImageEncoder
from trainer.errors import TrainError
from trainer.run.sampling import load_run
from trainer.sample.generate import Trained, default_steps, generate

CANDIDATES = 8
"""Identities among which the true one is looked for; chance is one in eight."""
DIRECTIONS, QUANTILES = 48, 32
"""Of the sliced Wasserstein distance."""
SIDE_PX = 224
"""Of the pictures whose features are compared."""
SHOWN = 6
"""Clips of the picture beside the scores."""
RESAMPLES = 10_000
CONFIDENCE = 0.95


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


@dataclass(frozen=True)
class ClipScore:
    """Of one clip, a number for each of its subjects and objects.

    `distance`: colours of the generated region against the true references, in units of CIELAB (a region that differs by a
    uniform shift has its length); `similarity`: cosine of image features; `found`: the true identity is the nearest of
    CANDIDATES by colour. `assigned`: of clips with two of them, whether regions and references match better as the caption
    says than crosswise; None for others. `motion`: mean change from frame to frame, as a share of the true clip's.
    """

    key: str
    words: list[str]
    distance: list[float]
    distance_shuffled: list[float]
    similarity: list[float]
    similarity_shuffled: list[float]
    found: list[bool]
    assigned: bool | None
    motion: float


class Interval(NamedTuple):
    """An estimate and its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


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


class Evaluation(NamedTuple):
    """Scores of all clips, and rows of a picture of the first: with own references beside the truth, then with others'."""

    scores: list[ClipScore]
    rows: list[GridRow]


def evaluate(run: str, shards: str, options: EvalOptions, device: str = "auto") -> Evaluation:
    """Generate and score clips of `shards` (its first `options.clips`). Raises TrainError, OutputError."""
    trained = load_run(run, device)
    bucket = max(trained.config.data.buckets, key=lambda bucket: (bucket.weight, bucket.frames * bucket.height * bucket.width))
    cases = read_cases(Dataset(shards), trained.config, bucket, options)
    scorer: ImageEncoder = build("image", EncoderSettings(backend=options.scorer))
    scorer.setup(str(trained.device))
    own = _generate([case.own for case in cases], trained, options)
    shuffled = _generate([case.shuffled for case in cases], trained, options)
    return Evaluation(score(cases, own, shuffled, scorer, options.seed), _rows(cases[:SHOWN], own, shuffled))


def _rows(cases: Sequence[Case], *generated: np.ndarray) -> list[GridRow]:
    """Two a clip: own and shuffled references with what was `generated` from each, (clips, T, H, W, 3) uint8 RGB."""
    rows = []
    for number, case in enumerate(cases):
        for item, note, videos in zip(
            (case.own, case.shuffled), ("", " - with references of other clips"), generated, strict=True
        ):
            references = [(reference.word, reference.pixels) for reference in item.references]
            rows.append(GridRow(item.caption + note, references, videos[number], None if note else item.video))
    return rows


def write(evaluation: Evaluation, options: EvalOptions, path: str) -> None:
    """Write summary, options and clips as JSON, and the picture beside it (NAME.sheet.png)."""
    summary = {name: list(interval) for name, interval in summarise([evaluation.scores]).items()}
    content = {"summary": summary, "options": asdict(options), "clips": [asdict(clip) for clip in evaluation.scores]}
    sheet = grid(evaluation.rows)
    storage.atomic_write(f"{path.removesuffix('.json')}.sheet.png", lambda file: sheet.save(file, "PNG"))
    storage.atomic_write(path, json.dumps(content, indent=1).encode())


def read(path: str) -> list[ClipScore]:
    """The scores that `write` wrote."""
    return [ClipScore(**clip) for clip in json.loads(Path(path).read_bytes())["clips"]]


def read_cases(samples: Dataset, config: TrainConfig, bucket: BucketSettings, options: EvalOptions) -> list[Case]:
    """One crop of each subject and object is its reference, unaugmented, in random order; foreign ones are of the same word
    where another clip has it."""
    rng = np.random.default_rng(options.seed)
    data = config.data.model_copy(update={"augment": False, "windows": 1})
    if len(samples) < 2:
        raise TrainError(f"{samples.out} has one clip; references can be shuffled among several only")
    numbers = range(min(max(options.clips, 2), len(samples)))
    documents = [samples.document(number) for number in numbers]
    crops = [crops_of(document) for document in documents]
    offers = [(word, number, member) for number in numbers for word, members in crops[number].items() for member in members]

    def pixels(number: int, member: str) -> np.ndarray:
        return reference_pixels(samples.read(number, [member])[member], "", member, 0, data, config.seed)

    cases = []
    for number, document in enumerate(documents):
        spans = {entity.word: entity.spans[0] for entity in document.entities}
        words = [list(crops[number])[place] for place in rng.permutation(len(crops[number]))]
        drawn = [DrawnReference(word, spans[word], str(rng.choice(crops[number][word])), 0) for word in words]
        own = read_item(samples, number, document, number, Draw(0, drawn), bucket, data, config.seed)
        foreign = []
        for reference in own.references:
            others = [offer for offer in offers if offer[1] != number]
            others = [offer for offer in others if offer[0] == reference.word] or others
            _, other, member = others[int(rng.integers(len(others)))]
            foreign.append(reference._replace(pixels=pixels(other, member)))
        times_s = window_times(document, bucket, data, 0, config.seed)
        cases.append(Case(own, replace(own, references=foreign), _subjects(samples, number, document, bucket, times_s)))
    return cases


def score(cases: Sequence[Case], own: np.ndarray, shuffled: np.ndarray, scorer: ImageEncoder, seed: int) -> list[ClipScore]:
    """Scores of generated clips (N, T, H, W, 3) uint8 RGB against the true references of their cases."""
    rng = np.random.default_rng(seed)
    references = [[colours(_opaque(subject.crops)) for subject in case.subjects] for case in cases]
    places = [(clip, place) for clip, case in enumerate(cases) for place in range(len(case.subjects))]
    word = {(clip, place): cases[clip].subjects[place].word for clip, place in places}
    features = [[_features(subject.crops, scorer) for subject in case.subjects] for case in cases]
    scores = []
    for clip, case in enumerate(cases):
        looks = [_looks(own[clip], subject.regions) for subject in case.subjects]
        others = [_looks(shuffled[clip], subject.regions) for subject in case.subjects]
        tables = [colours(_opaque(crops)) for crops in looks]
        distance = [apart(a, b) for a, b in zip(tables, references[clip], strict=True)]
        found = []
        for place, table in enumerate(tables):
            foreign = [other for other in places if other[0] != clip]
            same = [other for other in foreign if word[other] == word[clip, place]]
            rivals = _choose(rng, same, CANDIDATES - 1)
            rivals += _choose(rng, [other for other in foreign if other not in same], CANDIDATES - 1 - len(rivals))
            found.append(all(distance[place] < apart(table, references[a][b]) for a, b in rivals))
        scores.append(
            ClipScore(
                key=case.own.key,
                words=[subject.word for subject in case.subjects],
                distance=distance,
                distance_shuffled=[apart(colours(_opaque(a)), b) for a, b in zip(others, references[clip], strict=True)],
                similarity=[_cosine(_features(a, scorer), b) for a, b in zip(looks, features[clip], strict=True)],
                similarity_shuffled=[_cosine(_features(a, scorer), b) for a, b in zip(others, features[clip], strict=True)],
                found=found,
                assigned=_assigned(tables, references[clip]) if len(tables) == 2 else None,
                motion=_motion(own[clip]) / max(_motion(case.own.video), 1e-6),
            )
        )
    return scores


def summarise(runs: Sequence[Sequence[ClipScore]], seed: int = 0) -> dict[str, Interval]:
    """Means over clips and runs (of different seeds) with 95 % intervals: clips, and runs where there are several, are drawn
    again with replacement. All runs were scored on the same clips.

    `margin`: by how much foreign references are worse, in colour; `similarity_margin` likewise. `found`: chance is
    1 / CANDIDATES. `assigned`: share of the clips with two subjects that have them the right way round; chance is 1/2; of a
    single run its interval is Wilson's.
    """
    rng = np.random.default_rng(seed)
    table = {
        "distance": _matrix(runs, lambda clip: np.mean(clip.distance)),
        "distance_shuffled": _matrix(runs, lambda clip: np.mean(clip.distance_shuffled)),
        "margin": _matrix(runs, lambda clip: np.mean(clip.distance_shuffled) - np.mean(clip.distance)),
        "similarity": _matrix(runs, lambda clip: np.mean(clip.similarity)),
        "similarity_margin": _matrix(runs, lambda clip: np.mean(clip.similarity) - np.mean(clip.similarity_shuffled)),
        "found": _matrix(runs, lambda clip: np.mean(clip.found)),
        "motion": _matrix(runs, lambda clip: clip.motion),
    }
    summary = {name: bootstrap(values, rng) for name, values in table.items()}
    pairs = [[clip for clip in run if clip.assigned is not None] for run in runs]
    if pairs[0]:
        right = _matrix(pairs, lambda clip: float(clip.assigned is True))
        summary["assigned"] = wilson(int(right.sum()), right.size) if len(runs) == 1 else bootstrap(right, rng)
    return summary


def bootstrap(values: np.ndarray, rng: np.random.Generator) -> Interval:
    """Mean of (runs, clips) and the 2.5 % and 97.5 % quantiles of the means of runs and clips drawn again (Efron 1979)."""
    runs, clips = values.shape
    of_runs = rng.multinomial(runs, np.full(runs, 1 / runs), size=RESAMPLES) / runs  # (RESAMPLES, runs)
    of_clips = rng.multinomial(clips, np.full(clips, 1 / clips), size=RESAMPLES) / clips  # (RESAMPLES, clips)
    means = (of_runs @ values * of_clips).sum(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def wilson(right: int, n: int) -> Interval:
    """A share and its interval (Wilson 1927), which stays inside [0, 1]."""
    z, p = 1.959964, right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n))


def colours(rgb: np.ndarray) -> np.ndarray:
    """Distribution of colours (n, 3) uint8 RGB: quantiles of their CIELAB values along directions, (DIRECTIONS, QUANTILES)."""
    lab = cv2.cvtColor(rgb[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]  # (n, 3)
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return np.asarray(np.quantile(lab @ _directions().T, levels, axis=0).T)


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Sliced Wasserstein-1 distance of two `colours`, times 2: so that a shift by a vector counts its length (the mean of
    |cos| over the sphere is 1/2)."""
    return 2 * float(np.abs(a - b).mean())


def _directions() -> np.ndarray:
    """Evenly spread over the half sphere by the golden angle, (DIRECTIONS, 3)."""
    place = np.arange(DIRECTIONS) + 0.5
    z, angle = place / DIRECTIONS, np.pi * (1 + math.sqrt(5)) * place
    ring = np.sqrt(1 - z**2)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)


def _generate(items: Sequence[Item], trained: Trained, options: EvalOptions) -> np.ndarray:
    videos = []
    for first in range(0, len(items), options.batch):
        some = items[first : first + options.batch]
        videos.append(
            generate(
                trained,
                encode(some, trained.encoders),
                [options.seed * 1_000_003 + first + place for place in range(len(some))],
                steps=options.steps or default_steps(*items[0].video.shape[1:3]),
                text_guidance=options.text_guidance,
                image_guidance=options.image_guidance,
            )
        )
    return np.concatenate(videos)


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


def _looks(video: np.ndarray, regions: Sequence[tuple[int, np.ndarray]]) -> list[np.ndarray]:
    """What is seen in a subject's regions of a clip (T, H, W, 3): crops (h, w, 4) uint8 RGBA."""
    crops = []
    for frame, mask in regions:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            crops.append(np.dstack([video[frame][box], np.where(mask[box], np.uint8(255), np.uint8(0))]))
    return crops


def _opaque(crops: Sequence[np.ndarray]) -> np.ndarray:
    """All opaque pixels of some crops, (n, 3) uint8 RGB."""
    return np.concatenate([crop[crop[..., 3] > 127][:, :3] for crop in crops])


def _features(crops: Sequence[np.ndarray], scorer: ImageEncoder) -> np.ndarray:
    """Mean token of crops on white, (width,)."""
    tokens = scorer.encode(torch.from_numpy(np.stack([on_white_square(crop, SIDE_PX) for crop in crops])))
    return np.asarray(tokens.mean(dim=(0, 1)).cpu())


def _assigned(tables: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> bool:
    straight = apart(tables[0], references[0]) + apart(tables[1], references[1])
    return straight < apart(tables[0], references[1]) + apart(tables[1], references[0])


def _motion(video: np.ndarray) -> float:
    return float(np.abs(np.diff(video.astype(np.float32), axis=0)).mean()) if len(video) > 1 else 0.0


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _rgba(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
        return np.asarray(picture.convert("RGBA"))


def _choose(rng: np.random.Generator, offers: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    return [offers[place] for place in rng.permutation(len(offers))[:most]]


def _matrix(runs: Sequence[Sequence[ClipScore]], value: Callable[[ClipScore], Any]) -> np.ndarray:
    """(runs, clips) float64."""
    return np.array([[value(clip) for clip in run] for run in runs], float)
