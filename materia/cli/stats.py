"""The command `materia stats`: which of its questions is asked, and which options go together."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from materia.cli.shared import PIPED_COLUMNS, Command, guarded, json_option, print_table

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLES = """\b
Examples:
  materia stats out/
  materia stats out/ --why
  materia stats out/ --where '"dog" in subject_words' --where 'background_quality > 0.3'
  materia stats out/ --where 'reason == "no_instance" and "video-7" in source_id'
  materia stats out/ --by source_id
  materia stats out/ --by extra.reviewer --where 'marks.bad is null'
  materia stats out/ --sweep min_mask_score
  materia stats out/ --sweep residual --at-most
  materia stats out/ --sweep instances.mask_score
  materia stats out/ other/
"""


@click.command(cls=Command, epilog=EXAMPLES)
@click.argument("outs", metavar="OUT [OTHER]", nargs=-1, required=True, type=click.Path())
@click.option("--why", is_flag=True, help="Instead: why rows became no samples, with examples and what to do about it.")
@click.option("--where", multiple=True, metavar="EXPR", help="Only rows that this admits; repeatable, then all must.")
@click.option(
    "--by", metavar="COLUMN", help="Instead: by the values of a column, e.g. source_id, shard, extra.X, LAYER.COLUMN."
)
@click.option(
    "--sweep", "of", metavar="COLUMN", help="Instead: what thresholds on a number keep and lose; instances.COLUMN, too."
)
@click.option("--at-most", is_flag=True, help="With --sweep: keep values up to the threshold, not from it on.")
@json_option
def stats(
    outs: tuple[str, ...], why: bool, where: tuple[str, ...], by: str | None, of: str | None, at_most: bool, as_json: bool
) -> None:
    """What came out and what was thrown away, and why; read from the tables alone. Of two outputs, side by side.

    --where chooses among samples by columns of the index, the manifest (extra.X) and layers (LAYER.COLUMN); among rejections,
    if they have all that it names: row, key, id, source_id, uri, caption, stage, reason, message, found. Rows of a kind that it
    cannot ask are not counted.
    """
    _require_one(outs, {"--why": why, "--by": by is not None, "--sweep": of is not None})
    if why and where:
        raise click.UsageError("--why takes no --where beside it: it shows all rejections; of some: materia sheet --rejected")
    if at_most and of is None:
        raise click.UsageError("--at-most is of no use without --sweep")
    if why:
        _show_rejections(outs[0], as_json)
    elif by is not None:
        _show_groups(outs[0], by, where, as_json)
    elif of is not None:
        _show_sweep(outs[0], of, where, at_most, as_json)
    elif len(outs) == 2:
        _show_comparison(outs, where, as_json)
    else:
        _show_stats(outs[0], where, as_json)


def _require_one(outs: tuple[str, ...], asked: dict[str, bool]) -> None:
    """Raises click.UsageError for more questions or outputs than there is an answer to."""
    questions = [option for option, given in asked.items() if given]
    if len(questions) > 1:
        raise click.UsageError(f"{' and '.join(questions)} are different questions; ask one at a time")
    if len(outs) > 2:
        raise click.UsageError(f"two outputs are set side by side, not {len(outs)}")
    if len(outs) == 2 and questions:
        raise click.UsageError(f"{questions[0]} is of one output; without it two are set side by side")


def _show_stats(out: str, where: tuple[str, ...], as_json: bool) -> None:
    from materia.dataset.stats import collect
    from materia.dataset.stats_text import render

    collected = guarded(lambda: collect(out, where))
    if not _told_as_json(collected, as_json):
        render(collected, _console())


def _show_groups(out: str, by: str, where: tuple[str, ...], as_json: bool) -> None:
    from materia.dataset.stats_groups import collect_groups
    from materia.dataset.stats_tables import render_groups

    groups = guarded(lambda: collect_groups(out, by, where))
    if not _told_as_json(groups, as_json):
        render_groups(groups, _console())


def _show_sweep(out: str, of: str, where: tuple[str, ...], at_most: bool, as_json: bool) -> None:
    from materia.dataset.stats_sweep import sweep
    from materia.dataset.stats_tables import render_sweep

    found = guarded(lambda: sweep(out, of, where))
    if not _told_as_json(found, as_json):
        render_sweep(found, _console(), at_most)


def _show_comparison(outs: tuple[str, ...], where: tuple[str, ...], as_json: bool) -> None:
    from materia.dataset.stats import collect
    from materia.dataset.stats_compare import compare
    from materia.dataset.stats_tables import render_comparison

    both = guarded(lambda: [collect(out, where) for out in outs])
    comparison = compare(list(outs), both)
    if not _told_as_json(comparison, as_json):
        render_comparison(comparison, _console())


def _show_rejections(out: str, as_json: bool) -> None:
    from materia.dataset.why import COLUMNS, collect_rejections, headline, table_rows

    rejections = guarded(lambda: collect_rejections(out))
    if _told_as_json(rejections, as_json):
        return
    click.echo(headline(rejections))
    if rejections.reasons:
        print_table(COLUMNS, table_rows(rejections, between="\n" if sys.stdout.isatty() else " | "))


def _told_as_json(answer: Any, as_json: bool) -> bool:
    """Print it, if JSON is asked for."""
    import msgspec

    if as_json:
        click.echo(msgspec.json.encode(answer).decode())
    return as_json


def _console() -> Console:
    """As wide as the terminal; piped, each row is a line."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS)
