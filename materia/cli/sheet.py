"""The command `materia sheet`: which cards are asked for, and which wishes go together."""

from __future__ import annotations

from collections.abc import Mapping

import click

from materia.cli.shared import Command, guarded, out_argument

EXAMPLES = """\b
Examples:
  materia sheet out/ --output sheet.png
  materia sheet out/ --output dogs.png --where '"dog" in subject_words' --where 'residual < 0.3' --samples 20
  materia sheet out/ --output worst.png --sort min_mask_score
  materia sheet out/ --output many.png --sort -instances --samples 3
  materia sheet out/ --output two.png --key clip-0007 --key clip-0012
  materia sheet out/ --output lost.png --rejected no_instance --samples 12
  materia sheet out/ --output figure.pdf --key clip-0007
  materia sheet before/ --compare after/ --output changed.png --samples 10
"""


@click.command(cls=Command, epilog=EXAMPLES)
@out_argument
@click.option("-o", "--output", "picture", required=True, type=click.Path(), help="File to write: .png, or .pdf for print.")
@click.option("--samples", type=click.IntRange(1, 100), help="Most cards on the sheet; 6 if it is not given.")
@click.option("--where", multiple=True, metavar="EXPR", help="Only samples that this admits; repeatable, then all must.")
@click.option("--sort", metavar="COLUMN", help="By a column of numbers of the index, smallest first; -COLUMN: largest first.")
@click.option("--key", "keys", multiple=True, metavar="KEY", help="The sample of this key; repeatable, drawn in this order.")
@click.option("--rejected", metavar="REASON", help="Instead of samples, rows that were rejected for this reason.")
@click.option("--compare", metavar="OUT", help="Clips as they are in OUT too, those that differ most first.")
def sheet(
    out: str,
    picture: str,
    samples: int | None,
    where: tuple[str, ...],
    sort: str | None,
    keys: tuple[str, ...],
    rejected: str | None,
    compare: str | None,
) -> None:
    """Draw a contact sheet: frames with boxes and masks, reference crops, clean background.

    Which samples: a variety of words, or those that --where, --sort or --key ask for. With --rejected, rows that became no
    sample: their frames, if the clip can be opened, the boxes found until then, and why. With --compare, what is different in
    another output of the same clips.
    """
    from materia.report.compared_sheet import compared_sheet
    from materia.report.contact_sheet import SAMPLES, contact_sheet, rejected_sheet

    given = {
        "--samples": samples,
        "--where": where,
        "--sort": sort,
        "--key": keys,
        "--rejected": rejected,
        "--compare": compare,
    }
    _refuse_together(given, "--compare", ["--where", "--sort", "--rejected"], "it shows what differs")
    _refuse_together(given, "--rejected", ["--where", "--sort", "--key"], "it draws rows that are no samples")
    _refuse_together(given, "--key", ["--where", "--sort", "--samples"], "it names each sample")
    n = SAMPLES if samples is None else samples
    if compare is not None:
        guarded(lambda: compared_sheet(out, compare, picture, n=n, keys=keys))
    elif rejected is not None:
        guarded(lambda: rejected_sheet(out, picture, rejected, n=n))
    else:
        guarded(lambda: contact_sheet(out, picture, n=n, where=where, sort=sort, keys=keys))
    click.echo(picture)


def _refuse_together(given: Mapping[str, object], one: str, others: list[str], why: str) -> None:
    """Raises click.UsageError for an option beside which others that were given would do nothing."""
    wrong = [other for other in others if given[one] not in (None, ()) and given[other] not in (None, ())]
    if wrong:
        raise click.UsageError(f"{one} takes no {' and no '.join(wrong)} beside it: {why}")
