"""`materia status`: how a job is doing, from outside."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from materia.cli.shared import guarded, json_option, out_argument

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.cluster.settings import Prices
    from pipeline.cluster.status import Status

EXAMPLES = """\b
Examples:
  materia status out/
  materia status s3://bucket/out --watch
  materia status out/ --json
  materia status s3://bucket/out --cluster cluster.yaml    # with what it has cost, by the section `prices:`
"""

_EVERY_S = 5.0
_COLOURS = {"running": "green", "done": "green", "planning": "cyan", "stalled": "yellow", "stopped": "yellow", "dead": "red"}


@click.command(epilog=EXAMPLES)
@out_argument
@click.option("--watch", is_flag=True, help="Look again every few seconds, until the job is done or nobody works at it.")
@click.option("--cluster", "cluster_path", type=click.Path(), metavar="FILE", help="YAML: its section `prices:` gives money.")
@json_option
def status(out: str, watch: bool, cluster_path: str | None, as_json: bool) -> None:
    """How a job is doing: rows, pace, time left, where it is stuck. Reads a few small files, however large the job.

    Exit code 0 while it runs or when it is done, 5 when it is not finished and nobody works at it.
    """
    import msgspec
    from rich.console import Console
    from rich.live import Live

    from pipeline.cluster.settings import load_prices
    from pipeline.cluster.status import read_status

    prices = guarded(lambda: None if cluster_path is None else load_prices(cluster_path))
    found = guarded(lambda: read_status(out))
    if as_json:
        while True:
            click.echo(msgspec.json.encode(found).decode())
            if not watch or _over(found):
                break
            time.sleep(_EVERY_S)
            found = guarded(lambda: read_status(out))
    elif watch and Console().is_terminal:
        with Live(render(found, prices), auto_refresh=False) as live:
            while not _over(found):
                time.sleep(_EVERY_S)
                found = guarded(lambda: read_status(out))
                live.update(render(found, prices), refresh=True)
    else:
        Console().print(render(found, prices))
        while watch and not _over(found):
            time.sleep(_EVERY_S)
            found = guarded(lambda: read_status(out))
            Console().print(render(found, prices))
    sys.exit(5 if found.state in ("dead", "stopped") else 0)


def _over(found: Status) -> bool:
    return found.state in ("done", "dead", "stopped")


def render(found: Status, prices: Prices | None = None) -> Table:
    """A status for a person; what comes from captions or file names cannot move the cursor."""
    from datetime import UTC, datetime

    from rich.table import Table
    from rich.text import Text

    from materia.base.leases import as_range
    from materia.base.terminal import duration, plural, printable

    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")

    def add(name: str, *lines: str | Text) -> None:
        for number, line in enumerate(lines):
            table.add_row("" if number else name, Text(printable(line)) if isinstance(line, str) else line)

    add("state", Text(found.state, _COLOURS[found.state]))
    for problem in found.problems:
        add("problem", Text(printable(problem), "red" if found.state == "dead" else "yellow"))
    if found.rows:
        share = f"{100 * found.rows_done / found.rows:.1f} %"
        add("done", f"{found.rows_done:,} of {found.rows:,} rows ({share}), {found.chunks_done:,} of {found.chunks:,} chunks")
    counted = found.kept + sum(found.rejected.values())
    if counted:
        reasons = ", ".join(f"{reason} {rows:,}" for reason, rows in list(found.rejected.items())[:6])
        add("kept", f"{found.kept:,} of {counted:,} ({100 * found.kept / counted:.1f} %)")
        add("rejected", f"{counted - found.kept:,}" + (f": {reasons}" if reasons else ""))
    if found.clips_per_s:
        left = f", about {duration(found.left_s)} left" if found.left_s is not None else ""
        add("pace", f"{found.clips_per_s:.2f} clips/s now, {found.clips_per_s_overall:.2f} since the start{left}")
        if found.light_share is not None:
            add("of possible", f"{100 * found.light_share:.0f} % of what the slowest pool's workers could do")
    if found.ms_per_clip:
        add("a clip takes", ", ".join(f"{stage} {ms:,.0f} ms" for stage, ms in found.ms_per_clip.items()))
    if found.cpu_hours or found.card_hours:
        add("booked", f"{found.card_hours:,.1f} card hours, {found.cpu_hours:,.1f} CPU hours")
    if prices is not None:
        cost = found.card_hours * prices.card_hour + found.cpu_hours * prices.cpu_hour
        add("cost so far", f"{cost:,.2f} {prices.currency}, requests to stores left out")
    add(
        "longest at",
        *(f"slice {one.slice} on {one.node} ({', '.join(one.stages)}) {duration(one.seconds)}" for one in found.under_way),
    )
    add("workers", *(f"{node}: a slice finished {duration(last)} ago" for node, last in found.nodes.items()))
    for start in found.starts:
        since = datetime.fromtimestamp(start.since_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
        part = f"chunks {chosen}" if (chosen := as_range(*start.chunks)) else "all chunks"
        waits = f", {start.snapshot.waits_for}" if start.snapshot and start.snapshot.waits_for else ""
        who = f"{start.who}, process {start.pid} on {start.host}, since {since}, heard {duration(start.silent_s)} ago"
        add(f"start {start.fence}", f"{start.state}, {part}: {who}{waits}")
    if found.ended:
        add("before", plural(found.ended, "start"))
    add("disk", *(f"{place}: {room / 1e9:,.0f} GB free" for place, room in found.free_bytes.items()))
    add("errors", *found.errors)
    return table
