"""The command `materia report`."""

from __future__ import annotations

import click

from materia.base.errors import UserError
from materia.cli.shared import Command, guarded, out_argument

EXAMPLES = """\b
Examples:
  materia report out/ -o report.html
  materia report out/ -o dogs.html --where '"dog" in subject_words' --samples 24
  materia report out/ -o others.html --seed 1
"""


@click.command(cls=Command, epilog=EXAMPLES)
@out_argument
@click.option("-o", "--output", "target", required=True, type=click.Path(), help="HTML file to write.")
@click.option("--samples", type=click.IntRange(0, 200), default=12, show_default=True, help="Samples shown, chosen by chance.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed shows other samples and rejections."
)
@click.option("--where", metavar="EXPR", help="Show only samples that this admits; the numbers are of all.")
def report(out: str, target: str, samples: int, seed: int, where: str | None) -> None:
    """Write one HTML file for people: numbers, words, charts, samples, rejections and settings. It opens without a network."""
    guarded(lambda: _write(out, target, samples, seed, where))
    click.echo(target)


def _write(out: str, target: str, samples: int, seed: int, where: str | None) -> None:
    try:
        from materia.report.page.page import write_report
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "markupsafe", "vl_convert"):
            raise
        raise UserError(f"the report needs the package {error.name}: pip install 'prima-materia[report]'") from None
    write_report(out, target, samples=samples, seed=seed, where=where)
