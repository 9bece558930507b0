"""What all commands share: their common options, reading a configuration, and plain errors with an exit code.

Light to import: every command of `materia` imports it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from materia.base.errors import NoWayIn, StorageFailed, UserError, explain

if TYPE_CHECKING:
    from rich.text import Text

T = TypeVar("T")
PIPED_COLUMNS = 1_000_000  # wider than any row: nothing is folded

set_option = click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Override one field; repeatable.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
out_argument = click.argument("out", type=click.Path())


class Chunks(click.ParamType[tuple[int, int | None]]):
    """`A:B`, from A to before B; either may be left out. Gives (first, one after the last or None)."""

    name = "range"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int | None]:
        """Raises click.BadParameter."""
        found = re.fullmatch(r"(\d*):(\d*)", value) if isinstance(value, str) else None
        if found is None:
            self.fail(f"{value!r} is no range of chunks: write A:B, e.g. 0:500", param, ctx)
        first, end = int(found[1] or 0), int(found[2]) if found[2] else None
        if end is not None and end < first:
            self.fail(f"{value!r} ends before it begins", param, ctx)
        return first, end


class Part(click.ParamType[tuple[int, int]]):
    """`K/N`: part K, from 0, of N. Gives (K, N)."""

    name = "part"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Raises click.BadParameter."""
        found = re.fullmatch(r"(\d+)/(\d+)", value) if isinstance(value, str) else None
        if found is None or int(found[1]) >= int(found[2]):
            self.fail(f"{value!r} is no part: write K/N with K from 0 to before N, e.g. 0/8", param, ctx)
        return int(found[1]), int(found[2])


class Command(click.Command):
    """A command that refuses an option given twice, where click would take the last one without a word."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raises click.UsageError naming the option."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for option in order:
            if isinstance(option, click.Option) and not option.multiple and order.count(option) > 1:
                raise click.UsageError(f"{option.opts[0]} is given {order.count(option)} times; give it once", ctx)
        return super().parse_args(ctx, args)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command
    group_class = type


def config_option(name: str) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """`--config FILE`, with the name of a packaged configuration as an example for the help."""
    text = f"YAML file, or the name of one that comes along, e.g. {name} for configs/{name}.yaml."
    return click.option("--config", "config_path", required=True, type=click.Path(), metavar="FILE", help=text)


def guarded(call: Callable[[], T]) -> T:
    """Run a command's work; what the user can mend is printed in plain words and ends with its exit code."""
    try:
        return call()
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except StorageFailed as failed:
        advice = "" if isinstance(failed, NoWayIn) else "; see that the address and the storage's options are right"
        click.echo(f"error: {failed.address}: {failed}{advice}", err=True)
        sys.exit(2)
    except OSError as error:
        sentence, exit_code = explain(error)
        click.echo(f"error: {sentence}", err=True)
        sys.exit(exit_code)


def print_table(columns: list[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print a table whose paths and commands stay whole: folded on a terminal, each row a line where it is piped."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    piped = not sys.stdout.isatty()
    table = Table(*(Column(column, overflow="fold") for column in columns), box=None)
    for row in rows:
        cells = [" ".join(cell.splitlines()) if piped and isinstance(cell, str) else cell for cell in row]
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))  # an address is no markup
    Console(width=PIPED_COLUMNS if piped else None).print(table)
