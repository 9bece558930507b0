"""The commands `materia layers ...`: what is known of samples beside the index, from tables of any program."""

from __future__ import annotations

import click

from materia.cli.shared import Group, guarded, json_option, out_argument, print_table

EXAMPLES = """\b
Examples:
  materia layers add out/ scores scores.parquet --made-by laion-aesthetic --version 2
  materia layers list out/
  materia sheet out/ --output best.png --where 'scores.aesthetic > 6'
  materia train --config configs/train/tiny.yaml --shards out/ --output runs/a --where "marks.bad is null or not marks.bad"
  materia layers remove out/ scores
"""

_name_argument = click.argument("name")


@click.group(cls=Group, epilog=EXAMPLES)
def layers() -> None:
    """Marks, scores, embeddings: tables beside the index whose columns `--where` knows as NAME.COLUMN."""


@layers.command("list", epilog=EXAMPLES)
@out_argument
@json_option
def list_layers(out: str, as_json: bool) -> None:
    """Which layers an output has, of how many rows, made by whom and when."""
    import msgspec

    from materia.base.terminal import printable
    from materia.dataset.layers import layers

    found = guarded(lambda: layers(out))
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    rows = (
        [name, f"{info.rows:,}", f"{info.files[info.file].bytes / 1e6:,.1f}"]
        + [printable(text, 60) for text in (info.made_by, info.version, info.made_at)]
        for name, info in found.items()
    )
    print_table(["layer", "rows", "MB", "made by", "version", "at"], rows)


@layers.command(epilog=EXAMPLES)
@out_argument
@_name_argument
@click.argument("file", type=click.Path())
@click.option("--made-by", required=True, metavar="WHO", help="Person or program that the values come from.")
@click.option("--version", required=True, help="Of that program, its weights or its settings.")
def add(out: str, name: str, file: str, made_by: str, version: str) -> None:
    """Write the layer NAME from a table, or replace it: readers see the old one or the new one.

    FILE is Parquet, CSV or JSON lines (by its ending: .parquet, .csv, .jsonl), local or an address, with a column `key`: the
    sample's name, once. Other columns are numbers, truths, texts, times or lists of these, and have plain names.
    """
    from materia.base.terminal import plural
    from materia.dataset.layer_files import read_rows, unknown_keys
    from materia.dataset.layers import write_layer

    table = guarded(lambda: read_rows(file))
    unknown, of = guarded(lambda: unknown_keys(out, table)), len(table)
    info = guarded(lambda: write_layer(out, name, table, made_by=made_by, version=version))
    click.echo(f"{name}: {plural(info.rows, 'row')} of {', '.join(column for column in table.column_names if column != 'key')}")
    if unknown:
        click.echo(f"warning: {unknown:,} of {plural(of, 'key')} are of no sample of {out}; compare with its index", err=True)


@layers.command(epilog=EXAMPLES)
@out_argument
@_name_argument
def remove(out: str, name: str) -> None:
    """Remove the layer NAME."""
    from materia.dataset.layers import remove_layer

    guarded(lambda: remove_layer(out, name))
