"""Random samples and random rejections of a report, as small pictures with what is known of them.

In: an output, a seed and numbers. Out: plain data for the template; pictures are WebP in `data:` addresses. What cannot be read
- a broken shard, a clip that is gone - becomes a sentence in the picture's place. Chosen by chance, the same for the same seed;
only the tables of the chunks that were chosen are held in memory.
"""

from __future__ import annotations

import base64
import heapq
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from materia.dataset.documents import Document, InstanceDocument
from materia.dataset.layout import OutputError, commits, read_commit
from materia.dataset.reader import Dataset, StoredSample, read_table
from materia.dataset.stats import ReasonCount
from materia.report.clip_frames import Answer
from materia.report.drawing import PALETTE, Colour, Marked, colours_of, pieces
from materia.report.rejected_card import Job, drawn_picture, found_of
from materia.report.sample_card import drawn_background, drawn_frame, facts_of, marked_words, replaced

REASONS, PER_REASON = 10, 3
"""The most frequent reasons, and rows of each, that are shown."""
_DRAWN, _SHOWN = (640, 480), (480, 360)
"""A frame is drawn and then shown in these px at most; labels are made for the first."""
_REJECTED_SHOWN = (300, 225)
_CROP = (176, 176)
_QUALITY = 68
_TIMEOUT_S = 20.0
_AT_A_TIME = 2


class Picture(NamedTuple):
    """`source`: a `data:` address. `colour`: number of the word's colour in PALETTE, None: it has none."""

    source: str
    size: tuple[int, int]
    alt: str
    title: str
    colour: int | None = None


class Piece(NamedTuple):
    """A part of a caption; `colour`: of an entity word, number in PALETTE, -1: it has no masks; None: it is no entity word."""

    text: str
    colour: int | None


class Card(NamedTuple):
    """A sample or rejected row. `problem`: why there are no pictures; `message`: why it became no sample."""

    key: str
    caption: list[Piece]
    facts: list[str]
    pictures: Sequence[Picture] = ()
    crops: Sequence[Picture] = ()
    problem: str = ""
    message: str = ""


class Rejected(NamedTuple):
    """Some of the rows that were rejected for one reason."""

    reason: ReasonCount
    cards: list[Card]


def sample_cards(out: str, n: int, seed: int, where: str | None) -> list[Card]:
    """At most `n` samples, in manifest order. `where`: of those that it admits; then the whole index is read.

    Raises OutputError for a broken index, or if none is admitted; FilterError. Empty for an output without samples.
    """
    if where is not None:
        dataset = Dataset(out, where)
        numbers = _some(len(dataset), n, seed)
    else:
        counts = [(commit.chunk, commit.samples) for commit in commits(out)]
        ends = np.cumsum([samples for _, samples in counts])
        if not counts or not ends[-1]:
            return []
        chosen = _some(int(ends[-1]), n, seed)
        places = np.searchsorted(ends, chosen, side="right")
        chunks = sorted({int(place) for place in places})
        dataset = Dataset(out, chunks=[counts[place][0] for place in chunks])
        before = dict(zip(chunks, np.cumsum([0, *(counts[place][1] for place in chunks)]).tolist(), strict=False))
        numbers = [
            int(at - ends[place] + counts[place][1]) + before[int(place)] for at, place in zip(chosen, places, strict=True)
        ]
    colours = colours_of(_words(dataset[number]) for number in numbers)
    cards = [_sample_card(dataset[number], colours) for number in numbers]  # one after the other: its pixels are let go
    dataset.close()
    return cards


def rejected_cards(out: str, reasons: Sequence[ReasonCount], seed: int) -> list[Rejected]:
    """Of the first `REASONS` of `reasons`, `PER_REASON` rows each. Raises OutputError for a broken table."""
    rows = _some_rejected(out, reasons[:REASONS], seed)
    job, everything = Job(out), [row for those in rows.values() for row in those]
    with ThreadPoolExecutor(_AT_A_TIME) as threads:  # each waits for a process that decodes
        answers = list(threads.map(lambda row: job.look(row, _TIMEOUT_S), everything))
    colours = colours_of([box.word for box in found_of(row).boxes] for row in everything)
    seen = iter(zip(everything, answers, strict=True))
    return [
        Rejected(one, [_rejected_card(*next(seen), colours) for _ in rows[one.stage, one.reason]]) for one in reasons[:REASONS]
    ]


def _some(total: int, n: int, seed: int) -> list[int]:
    """`n` different ones of 0 .. total - 1, ascending; all, if there are no more."""
    numbers: list[int] = np.sort(np.random.default_rng(seed).choice(total, min(n, total), replace=False)).tolist()
    return numbers


def _some_rejected(out: str, reasons: Sequence[ReasonCount], seed: int) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Rows of the rejects by stage and reason: those with the smallest random numbers."""
    drawn: dict[tuple[str, str], list[tuple[float, int, int]]] = {(one.stage, one.reason): [] for one in reasons}
    for commit in commits(out):
        table = read_table(out, commit, "rejects", ["stage", "reason"])
        chances = np.random.default_rng((seed, commit.chunk)).random(len(table)).tolist()
        at = zip(table["stage"].to_pylist(), table["reason"].to_pylist(), strict=True)
        for place, (why, chance) in enumerate(zip(at, chances, strict=True)):
            if why in drawn:
                keep = heapq.heappush if len(drawn[why]) < PER_REASON else heapq.heappushpop
                keep(drawn[why], (-chance, commit.chunk, place))
    chosen = {(chunk, place) for those in drawn.values() for _, chunk, place in those}
    rows = {}
    for chunk in {chunk for chunk, _ in chosen}:
        table = read_table(out, read_commit(out, chunk), "rejects", verify=True)
        rows.update({(chunk, place): table.slice(place, 1).to_pylist()[0] for one, place in chosen if one == chunk})
    return {
        why: [rows[chunk, place] for _, chunk, place in sorted(those, key=lambda one: one[1:])] for why, those in drawn.items()
    }


def _words(sample: StoredSample) -> list[str]:
    """Words with masks; none of a sample that cannot be read."""
    try:
        return [instance.word for instance in sample.document.instances]
    except OutputError:
        return []


def _sample_card(sample: StoredSample, colours: Mapping[str, Colour]) -> Card:
    try:
        document = sample.document
        caption = _pieces(document.caption, marked_words(document, colours))
        return Card(sample.key, caption, facts_of(document)[1:], _pictures(sample, colours), _crops(sample, colours))
    except ValueError as error:  # OutputError, or what a stranger's KEY.json does not fit together to
        caption = _pieces(str(sample.dataset.index["caption"][sample.number]), []) if _has_captions(sample.dataset) else []
        return Card(sample.key, caption, [], problem=str(error))


def _has_captions(dataset: Dataset) -> bool:
    return "caption" in dataset.index.column_names  # one of an earlier version has none


def _pictures(sample: StoredSample, colours: Mapping[str, Colour]) -> list[Picture]:
    """Three frames and the background."""
    document = sample.document
    height, width = sample.frames.shape[1:3]
    size = _fitting((width, height), _DRAWN)
    shown = [
        _picture(
            drawn_frame(sample, number, size, colours),
            _SHOWN,
            f"Frame {number + 1}: {_seen(document, number)}",
            f"{frame.percent} % · {frame.time_s:.1f} s",
        )
        for number, frame in enumerate(document.frames)
    ]
    about = document.background
    alt = f"The background without its subjects, {replaced(about)}"
    return [*shown, _picture(drawn_background(sample, size), _SHOWN, alt, f"{about.word or 'background'} · {replaced(about)}")]


def _seen(document: Document, number: int) -> str:
    words = dict.fromkeys(one.word for one in document.instances if one.frame == number and not one.is_face)
    return "boxes and masks of " + ", ".join(words) if words else "no mask"


def _crops(sample: StoredSample, colours: Mapping[str, Colour]) -> list[Picture]:
    """The reference crops, transparent around the mask, word by word."""
    pairs = zip(sample.document.instances, sample.references, strict=True)
    order = list(colours)
    return [
        _picture(Image.fromarray(crop), _CROP, f"Reference of {_name(one)} from frame {one.frame + 1}", *_about(one, colours))
        for one, crop in sorted(pairs, key=lambda pair: (order.index(pair[0].word.casefold()), pair[0].is_face))
    ]


def _name(one: InstanceDocument) -> str:
    return f"{one.word}, face" if one.is_face else one.word


def _about(one: InstanceDocument, colours: Mapping[str, Colour]) -> tuple[str, int]:
    linked = "" if one.link_score is None else f"\u00a0·\u00a0{one.link_score:.2f}"
    return f"{_name(one)} {one.frame + 1}{linked}", PALETTE.index(colours[one.word.casefold()])


def _rejected_card(row: Mapping[str, Any], seen: Answer, colours: Mapping[str, Colour]) -> Card:
    found = found_of(row)
    words = [Marked(*span, colours.get(entity.word.casefold())) for entity in found.entities for span in entity.spans]
    pictures = []
    for number, one in enumerate(seen.pictures[:3]):
        image = drawn_picture(one, number, _fitting((one.width, one.height), _DRAWN), found.boxes, colours)
        alt = f"The clip at {one.percent} % of its length"
        pictures.append(_picture(image, _REJECTED_SHOWN, alt, f"{one.percent} % · {one.time_s:.1f} s"))
    facts = [f"row {row['row']}", row["uri"] or "no video"]
    caption = _pieces(row["caption"] or "(no caption)", words)
    return Card(row["key"] or "no key", caption, facts, pictures, problem=seen.problem, message=row["message"])


def _pieces(caption: str, words: list[Marked]) -> list[Piece]:
    return [
        Piece(text, None if word is None else -1 if word.colour is None else PALETTE.index(word.colour))
        for text, word in pieces(caption, words)
        if text
    ]


def _picture(image: Image.Image, within: tuple[int, int], alt: str, title: str, colour: int | None = None) -> Picture:
    size = _fitting(image.size, within)
    file = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(file, "WEBP", quality=_QUALITY, method=4)
    source = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return Picture(source, size, alt, title, colour)


def _fitting(size: tuple[int, int], within: tuple[int, int]) -> tuple[int, int]:
    """The largest (width, height) of the same shape within these, px."""
    scale = min(within[0] / size[0], within[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
