"""How well generated subjects match their references, where masks and identities are known (tools/synthetic_world.py).

In: a run, and shards with exact masks of identities that it was not trained on. Every clip is generated twice from the same
caption and noise: with references of its own subjects, and with those of other identities of the same words. Out: how much
nearer to the *true* references the first are, for each clip, with intervals. A subject's colours are read off where the caption
puts it: inside its mask in the true clip. What a generated subject looks like is compared as a distribution of colours (CIELAB,
sliced Wasserstein distance), which no network had a hand in, and by features of the packaged image encoder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from materia.base import storage
from materia.base.intervals import Interval, wilson
from materia.benchmark import metrics
from materia.benchmark.cases import Case, EvalOptions, read_cases
from materia.benchmark.statistics import bootstrap
from materia.dataset.reader import Dataset
from materia.report.grid import GridRow, grid
from trainer.config import EncoderSettings
from trainer.data.batch import Item
from trainer.data.encode import encode
from trainer.encoders import build
from trainer.encoders.base import ImageEncoder
from trainer.run.sampling import load_run
from trainer.sample.generate import Trained, default_steps, generate

CANDIDATES = 8
"""Identities among which the true one is looked for; chance is one in eight."""
SHOWN = 6
"""Clips of the picture beside the scores."""


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
    for index, case in enumerate(cases):
        for item, note, videos in zip(
            (case.own, case.shuffled), ("", " - with references of other clips"), generated, strict=True
        ):
            references = [(reference.word, reference.pixels) for reference in item.references]
            rows.append(GridRow(item.caption + note, references, videos[index], None if note else item.video))
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


def score(cases: Sequence[Case], own: np.ndarray, shuffled: np.ndarray, scorer: ImageEncoder, seed: int) -> list[ClipScore]:
    """Scores of generated clips (N, T, H, W, 3) uint8 RGB against the true references of their cases."""
    rng = np.random.default_rng(seed)
    references = [[metrics.colours(metrics.opaque(subject.crops)) for subject in case.subjects] for case in cases]
    everyone = [(clip, index) for clip, case in enumerate(cases) for index in range(len(case.subjects))]
    word = {(clip, index): cases[clip].subjects[index].word for clip, index in everyone}
    features = [[metrics.features(subject.crops, scorer) for subject in case.subjects] for case in cases]
    scores = []
    for clip, case in enumerate(cases):
        looks = [metrics.looks(own[clip], subject.regions) for subject in case.subjects]
        others = [metrics.looks(shuffled[clip], subject.regions) for subject in case.subjects]
        tables = [metrics.colours(metrics.opaque(crops)) for crops in looks]
        distance = [metrics.apart(a, b) for a, b in zip(tables, references[clip], strict=True)]
        found = []
        for index, table in enumerate(tables):
            foreign = [other for other in everyone if other[0] != clip]
            same = [other for other in foreign if word[other] == word[clip, index]]
            rivals = _choose(rng, same, CANDIDATES - 1)
            rivals += _choose(rng, [other for other in foreign if other not in same], CANDIDATES - 1 - len(rivals))
            found.append(all(distance[index] < metrics.apart(table, references[a][b]) for a, b in rivals))
        scores.append(
            ClipScore(
                key=case.own.key,
                words=[subject.word for subject in case.subjects],
                distance=distance,
                distance_shuffled=_distances(others, references[clip]),
                similarity=_similarities(looks, features[clip], scorer),
                similarity_shuffled=_similarities(others, features[clip], scorer),
                found=found,
                assigned=metrics.assigned(tables, references[clip]) if len(tables) == 2 else None,
                motion=metrics.motion(own[clip]) / max(metrics.motion(case.own.video), 1e-6),
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
    table = _table(runs)
    summary = {name: bootstrap(values, rng) for name, values in table.items()}
    if len(runs) == 1 and "assigned" in table:
        summary["assigned"] = wilson(int(table["assigned"].sum()), table["assigned"].size)
    return summary


def compare(runs: Sequence[Sequence[ClipScore]], others: Sequence[Sequence[ClipScore]], seed: int = 0) -> dict[str, Interval]:
    """By how much the means of `runs` are above those of `others`, with 95 % intervals by drawing runs and clips again.

    Runs in the same place were trained with the same seed, and all were scored on the same clips: differences are of pairs.
    """
    rng = np.random.default_rng(seed)
    mine, theirs = _table(runs), _table(others)
    return {name: bootstrap(mine[name] - theirs[name], rng) for name in mine}


def _table(runs: Sequence[Sequence[ClipScore]]) -> dict[str, np.ndarray]:
    """Of each score (runs, clips) float64; of `assigned` the clips with two subjects, and nothing where there are none."""
    table = {
        "distance": _matrix(runs, lambda clip: np.mean(clip.distance)),
        "distance_shuffled": _matrix(runs, lambda clip: np.mean(clip.distance_shuffled)),
        "margin": _matrix(runs, lambda clip: np.mean(clip.distance_shuffled) - np.mean(clip.distance)),
        "similarity": _matrix(runs, lambda clip: np.mean(clip.similarity)),
        "similarity_margin": _matrix(runs, lambda clip: np.mean(clip.similarity) - np.mean(clip.similarity_shuffled)),
        "found": _matrix(runs, lambda clip: np.mean(clip.found)),
        "motion": _matrix(runs, lambda clip: clip.motion),
    }
    pairs = [[clip for clip in run if clip.assigned is not None] for run in runs]
    return table | ({"assigned": _matrix(pairs, lambda clip: float(clip.assigned is True))} if pairs[0] else {})


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


def _distances(looks: Sequence[Sequence[np.ndarray]], references: Sequence[np.ndarray]) -> list[float]:
    pairs = zip(looks, references, strict=True)
    return [metrics.apart(metrics.colours(metrics.opaque(crops)), reference) for crops, reference in pairs]


def _similarities(looks: Sequence[Sequence[np.ndarray]], features: Sequence[np.ndarray], scorer: ImageEncoder) -> list[float]:
    return [metrics.cosine(metrics.features(crops, scorer), own) for crops, own in zip(looks, features, strict=True)]


def _choose(rng: np.random.Generator, offers: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    return [offers[place] for place in rng.permutation(len(offers))[:most]]


def _matrix(runs: Sequence[Sequence[ClipScore]], value: Callable[[ClipScore], Any]) -> np.ndarray:
    """(runs, clips) float64."""
    return np.array([[value(clip) for clip in run] for run in runs], float)
