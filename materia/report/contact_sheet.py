"""A contact sheet: some samples of an output on one picture, to see at a glance whether the right things were cut out; or some
of the rows that were rejected for one reason, to see whether rightly.

In: an output's address and what to show. Out: a PNG, or a PDF for print, with a card a sample (sample_card.py) or rejected row
(rejected_card.py); a word has one colour all over the sheet.
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
_PAGE_INCHES = 7.2
"""Width of a sheet in a PDF: that of the text of a page."""


def contact_sheet(
    out: str, target: str, n: int = SAMPLES, where: Sequence[str] = (), sort: str | None = None, keys: Sequence[str] = ()
) -> None:
    """Draw the samples named by `keys`, in that order; else up to `n` that all of `where` admit, by `sort` (see choice.py).

    Raises OutputError when there is none, or one that cannot be read; FilterError.
    """
    dataset = Dataset(out, at_most=None if where or sort or keys else CANDIDATES)
    numbers = samples_named(dataset, keys) if keys else chosen_samples(dataset, n, where, sort)
    samples = [dataset[number] for number in numbers]
    colours = colours_of([instance.word for instance in sample.document.instances] for sample in samples)
    write_sheet([sample_card(sample, colours, _sorted_by(sample, sort)) for sample in samples], target)


def _sorted_by(sample: StoredSample, sort: str | None) -> list[str]:
    """What the samples are sorted by, and its value here."""
    if sort is None:
        return []
    column = column_of(sort)
    value = sample.dataset.index[column][sample.number].as_py()
    shown = "missing" if value is None else f"{value:.4g}" if isinstance(value, float) else f"{value}"
    return [f"{column} {shown}"]


def rejected_sheet(out: str, target: str, reason: str, n: int = SAMPLES) -> None:
    """Draw up to `n` rows that were rejected for `reason`, spread over all of them.

    Raises OutputError when there is none, or a table that cannot be read.
    """
    from materia.report.rejected_card import Job, found_of, rejected_card

    rows = rejected_rows(out, reason, n)
    job = Job(out)
    colours = colours_of([box.word for box in found_of(row).boxes] for row in rows)
    write_sheet([rejected_card(row, job.look(row), colours) for row in rows], target)


def write_sheet(cards: Sequence[Image.Image], target: str) -> None:
    """One card below the other. A name that ends in .pdf becomes a page as wide as a page's text, sharp enough for print; any
    other a PNG."""
    is_pdf = target.lower().endswith(".pdf")
    scale = 1 if is_pdf else SCALE
    shown = [card.resize((card.width // scale, card.height // scale), Image.Resampling.LANCZOS) for card in cards]
    margin, width = MARGIN // scale, WIDTH // scale
    sheet = Image.new("RGB", (width, sum(card.height + margin for card in shown) + margin), PAPER)
    y = margin
    for card in shown:
        sheet.paste(card, (margin, y))
        y += card.height + margin
    same = {"title": "contact sheet", "creationDate": None, "modDate": None}  # whenever and wherever it is drawn
    options = {"resolution": width / _PAGE_INCHES, "quality": 92, **same} if is_pdf else {}
    storage.atomic_write(target, lambda file: sheet.save(file, "PDF" if is_pdf else "PNG", **options))
