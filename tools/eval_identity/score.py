"""How many words of an output of pairs have references of one individual only.

In: an output of `materia run` and the folder of pairs that it was made from. Out: a `Report`, plain data that turns into JSON,
and text for a person. Counted are words with two or more references, faces left out, in clips that became samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

import materia
from materia.base.errors import UserError
from materia.base.intervals import wilson
from materia.base.terminal import plural, printable
from materia.dataset.reader import StoredSample
from materia.dataset.why import collect_rejections
from tools.eval_identity.film import Variant

MANIFEST = "manifest.jsonl"
STRADDLES = 0.1
"""A reference with more than this share of its mask in each half shows both: its box reached over the seam."""
Side = Literal["left", "right", "both"]


class HalfRow(msgspec.Struct, frozen=True, kw_only=True):
    """A half of a pair: the key of its clip, and the word of its subject."""

    id: str
    word: str


class PairRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the manifest of pairs; `seam_px`: the first column of the right half."""

    id: str
    video: str
    caption: str
    seam_px: int
    left: HalfRow
    right: HalfRow
    variant: Variant


class WordScore(msgspec.Struct, frozen=True, kw_only=True):
    """A word with two or more references: in which frames, and from which half each.

    `one`: all are of one half; `own`: of the half whose caption has the word. `link_score`, `second_best`: of the word, and
    `link_scores` of each reference; null where the output has none.
    """

    key: str
    word: str
    frames: list[int]
    sides: list[Side]
    one: bool
    own: bool
    link_score: float | None
    second_best: float | None
    link_scores: list[float | None]


class Report(msgspec.Struct, kw_only=True):
    """`pairs` of the manifest, `samples` that came of them. `references`: all that were kept, also of words with one.

    `share` = `of_one` / `words` with its 95 % interval, as if words were independent, which two of a clip are not quite; null
    without words. `rejections`: "stage: reason" -> rows.
    """

    pairs: int
    samples: int
    references: int
    words: int
    of_one: int
    of_own: int
    share: float | None
    low: float | None
    high: float | None
    rejections: dict[str, int]
    scores: list[WordScore]


def read_pairs(folder: Path) -> dict[str, PairRow]:
    """Rows of a folder's manifest by id. Raises UserError naming what is missing, or no row of `make`."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{path}: no such file; FOLDER is what `make` wrote")
    rows: dict[str, PairRow] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = msgspec.json.decode(line, type=PairRow)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UserError(f"{path}, line {number}: not a pair as `make` writes it: {error}") from None
        rows[row.id] = row
    return rows


def score(out: str, folder: Path) -> Report:
    """Look at every sample of an output. Raises OutputError, UserError if it was made of something else than these pairs."""
    pairs = read_pairs(folder)
    dataset = materia.open_dataset(out)
    scores: list[WordScore] = []
    references = 0
    for sample in dataset:
        if (pair := pairs.get(sample.document.id or "")) is None:
            raise UserError(f"{out} has a sample {sample.key}, which is not in {folder / MANIFEST}; is it another output's?")
        references += sum(not instance.is_face for instance in sample.document.instances)
        scores += _words(sample, pair)
    of_one = sum(word.one for word in scores)
    share, low, high = wilson(of_one, len(scores)) if scores else (None, None, None)
    return Report(
        pairs=len(pairs),
        samples=len(dataset),
        references=references,
        words=len(scores),
        of_one=of_one,
        of_own=sum(word.own for word in scores),
        share=share,
        low=low,
        high=high,
        rejections={f"{why.stage}: {why.reason}": why.count for why in collect_rejections(out).reasons},
        scores=scores,
    )


def side_of(mask: np.ndarray, seam: float) -> Side:
    """The half in which a mask (H, W) bool lies; `seam`: the first column of the right half, as a share of the width."""
    on_the_left = mask[:, : round(seam * mask.shape[1])].sum() / max(1, mask.sum())
    if STRADDLES < on_the_left < 1 - STRADDLES:
        return "both"
    return "left" if on_the_left >= 0.5 else "right"


def _words(sample: StoredSample, pair: PairRow) -> Iterator[WordScore]:
    document = sample.document
    seam = pair.seam_px / document.video.width
    links = {link.word: link for link in getattr(document, "links", [])}
    for entity in document.entities:
        numbers = [i for i, part in enumerate(document.instances) if part.word == entity.word and not part.is_face]
        if len(numbers) < 2:
            continue
        found = [document.instances[number] for number in numbers]
        sides = [side_of(sample.masks[number], seam) for number in numbers]
        link = links.get(entity.word)
        one = len(set(sides)) == 1 and "both" not in sides
        yield WordScore(
            key=sample.key,
            word=entity.word,
            frames=[part.frame for part in found],
            sides=sides,
            one=one,
            own=one and getattr(pair, sides[0]).word.casefold() == entity.word.casefold(),
            link_score=link.score if link else None,
            second_best=link.second_best if link else None,
            link_scores=[getattr(part, "link_score", None) for part in found],
        )


def text(report: Report) -> Iterator[str]:
    """Lines for a person."""
    yield f"{plural(report.pairs, 'pair')}, {plural(report.samples, 'sample')}, {plural(report.references, 'reference')} kept"
    for why, count in report.rejections.items():
        yield f"  rejected: {printable(why)} {count}"
    if report.share is None:
        yield "no word has two or more references"
        return
    yield f"words with two or more references: {report.words}"
    yield (
        f"  of one individual: {report.of_one} = {report.share:.1%}, 95 % interval {report.low:.1%} to {report.high:.1%};"
        f" of the one that the caption names: {report.of_own}"
    )
    mixed = [word for word in report.scores if not word.one]
    over = sum(len(set(word.sides) - {"both"}) < 2 for word in mixed)
    if mixed:
        yield f"  mixed: {len(mixed)}, of these {over} only by references that reach over the seam"
    for word in mixed:
        sides = ", ".join(f"frame {frame} {side}" for frame, side in zip(word.frames, word.sides, strict=True))
        yield f"    {word.key} {printable(word.word)!r}: {sides}"
    for name, words in (("one individual", [word for word in report.scores if word.one]), ("mixed", mixed)):
        yield from _spread(f"link score of words, {name}", [word.link_score for word in words])
        yield from _spread(f"second best of words, {name}", [word.second_best for word in words])
        yield from _spread(f"link score of references, {name}", [part for word in words for part in word.link_scores])


def _spread(name: str, values: Sequence[float | None]) -> Iterator[str]:
    there = [value for value in values if value is not None]
    if there:
        shown = " ".join(f"{value:.2f}" for value in np.quantile(there, (0, 0.05, 0.5, 0.95, 1)))
        yield f"  {name}: {shown} (least, 5 %, median, 95 %, most; of {len(there)})"
