"""A contact sheet: some samples of an output on one picture, to see at a glance whether the right things were cut out; or some
of the rows that were rejected for one reason, to see whether rightly.

In: an output's address and what to show. Out: a PNG with a card a sample (sample_card.py) or rejected row (rejected_card.py); a
word has one colour all over the sheet.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from materia.base import storage
from materia.dataset.reader import Dataset, StoredSample
from materia.report.choice import CANDIDATES, chosen_samples, column_of, rejected_rows, samples_named
from materia.report.drawing import MARGIN, PAPER, SCALE, WIDTH, colours_of
from materia.report.sample_card import sample_card

SAMPLES = 6
"""Cards on a sheet, if nothing else is asked for."""


def contact_sheet(
    out: str, target_png: str, n: int = SAMPLES, where: Sequence[str] = (), sort: str | None = None, keys: Sequence[str] = ()
) -> None:
    """Draw the samples named by `keys`, in that order; else up to `n` that all of `where` admit, by `sort` (see choice.py).

    Raises OutputError when there is none, or one that cannot be read; FilterError.
    """
    dataset = Dataset(out, at_most=None if where or sort or keys else CANDIDATES)
    numbers = samples_named(dataset, keys) if keys else chosen_samples(dataset, n, where, sort)
    samples = [dataset[number] for number in numbers]
    colours = colours_of([instance.word for instance in sample.document.instances] for sample in samples)
    _write([sample_card(sample, colours, _sorted_by(sample, sort)) for sample in samples], target_png)


def _sorted_by(sample: StoredSample, sort: str | None) -> list[str]:
    """What the samples are sorted by, and its value here."""
    if sort is None:
        return []
    column = column_of(sort)
    value = sample.dataset.index[column][sample.number].as_py()
    shown = "missing" if value is None else f"{value:.4g}" if isinstance(value, float) else f"{value}"
    return [f"{column} {shown}"]


def rejected_sheet(out: str, target_png: str, reason: str, n: int = SAMPLES) -> None:
    """Draw up to `n` rows that were rejected for `reason`, spread over all of them.

    Raises OutputError when there is none, or a table that cannot be read.
    """
    from materia.report.rejected_card import Job, found_of, rejected_card

    rows = rejected_rows(out, reason, n)
    job = Job(out)
    colours = colours_of([box.word for box in found_of(row).boxes] for row in rows)
    _write([rejected_card(row, job.look(row), colours) for row in rows], target_png)


def _write(cards: Sequence[Image.Image], target_png: str) -> None:
    margin = MARGIN // SCALE
    sheet = Image.new("RGB", (WIDTH // SCALE, sum(card.height + margin for card in cards) + margin), PAPER)
    y = margin
    for card in cards:
        sheet.paste(card, (margin, y))
        y += card.height + margin
    storage.atomic_write(target_png, lambda file: sheet.save(file, "PNG"))
