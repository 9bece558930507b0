"""Groups, sweeps and comparisons of outputs for a terminal.

In: `Groups`, `Sweep`, `Comparison`. Out: tables on a console; what a manifest or a layer holds cannot move the cursor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from materia.base.terminal import plural, printable
from materia.dataset.stats import INSTANCE_MEASURES, MEASURES
from materia.dataset.stats_compare import Comparison, Pair
from materia.dataset.stats_groups import SCORES, Group, Groups
from materia.dataset.stats_sweep import Edge, Side, Sweep
from materia.dataset.stats_text import bar, new_table, number, percent, told_filters

MOST_GROUPS = 30
_NAME_CHARS = 60


def render_groups(found: Groups, console: Console) -> None:
    """A row a group, the largest `MOST_GROUPS`."""
    title = f"{plural(len(found.groups), 'group')} by {printable(found.by)}"
    table = new_table(
        title, printable(found.by, _NAME_CHARS), "rows>", "samples>", "rejections>", "kept>", "instances>", "hours>",
        *(f"{name}>" for name in SCORES.values()), "",
    )  # fmt: skip
    most = max((_rows(group) for group in found.groups), default=0)
    for group in found.groups[:MOST_GROUPS]:
        value = Text("missing", "dim") if group.value is None else Text(printable(str(group.value), _NAME_CHARS))
        rejections = "" if group.rejections is None else f"{group.rejections:,}"
        kept = "" if group.kept_share is None else percent(group.kept_share, 1)
        medians = ["" if median is None else number(median) for median in group.medians.values()]
        rows = _rows(group)
        counts = (f"{rows:,}", f"{group.samples:,}", rejections, kept, f"{group.instances:,}", f"{group.hours:,.2f}")
        table.add_row(value, *counts, *medians, bar(rows, most, "cyan", 12))
    _print(console, found.where, found.left_out, table)
    notes = ["scores are medians over the group's samples"]
    if (hidden := len(found.groups) - MOST_GROUPS) > 0:
        notes.append(f"and {plural(hidden, 'smaller group')}: --json has all")
    console.print(Text("; ".join(notes), "dim"))


def render_sweep(found: Sweep, console: Console, at_most: bool) -> None:
    """A row a threshold: what it keeps and loses, and who is right beside it."""
    missing = (
        f", {found.missing:,} of them without a value ({percent(found.missing, max(found.rows, 1))})" if found.missing else ""
    )
    title = f"{printable(found.of)} over {found.rows:,} {found.over}{missing}"
    sign = "<=" if at_most else ">="
    table = new_table(
        title, f"kept if {sign}>", "kept>", "share>", "lost>", "share>", "values from here on", "just kept", "just lost"
    )
    most = max([found.below, *(threshold.to_next for threshold in found.thresholds)], default=0)
    if found.below:
        table.add_row("", "", "", "", "", bar(found.below, most, "cyan"), "", "")
    for threshold in found.thresholds:
        side: Side = threshold.at_most if at_most else threshold.at_least
        table.add_row(
            f"{threshold.value:,.6g}",
            f"{side.kept:,}",
            percent(side.kept_share, 1),
            f"{side.lost:,}",
            percent(side.lost_share, 1),
            bar(threshold.to_next, most, "cyan"),
            _edge(side.just_kept),
            _edge(side.just_lost),
        )
    _print(console, found.where, found.left_out, table)


def render_comparison(found: Comparison, console: Console) -> None:
    """Every count, share and median of both outputs, and the difference."""
    for name, out in zip("AB", found.outs, strict=True):
        console.print(Text(f"{name} {printable(out)}"))
    _print(console, found.where, [], _outcomes(found.numbers))
    skipped = ("reasons.", "distributions.", "instance_distributions.", "input", "samples", "rejections", "throughput.seconds.")
    counts = {name: pair for name, pair in found.numbers.items() if not name.startswith(skipped)}
    console.print()
    console.print(_pairs("Numbers", counts.items()))
    for over, measures, kind in (
        ("samples", MEASURES, "distributions"),
        ("instances", INSTANCE_MEASURES, "instance_distributions"),
    ):
        medians = [(text, found.numbers.get(f"{kind}.{name}.median")) for name, text in measures.items()]
        if any(pair for _, pair in medians):
            console.print()
            console.print(_pairs(f"Medians over {over}", ((text, pair) for text, pair in medians if pair)))


def _outcomes(numbers: Mapping[str, Pair]) -> Table:
    table = new_table("Where the rows went", "outcome", "A>", "share>", "B>", "share>", "difference>", "points>")
    rows = numbers["input"]
    reasons = [name.removesuffix(".count") for name in numbers if name.startswith("reasons.") and name.endswith(".count")]
    outcomes = [("sample", numbers["samples"])]
    outcomes += sorted(
        ((name.removeprefix("reasons."), numbers[f"{name}.count"]) for name in reasons),
        key=lambda outcome: (-(outcome[1].first or 0) - (outcome[1].second or 0), outcome[0]),
    )
    for name, pair in outcomes:
        shares = [
            (part or 0) / whole if whole else 0.0 for part, whole in ((pair.first, rows.first), (pair.second, rows.second))
        ]
        cells = [f"{int(part or 0):,}" for part in (pair.first, pair.second)]
        points = f"{100 * (shares[1] - shares[0]):+.1f}"
        told = (cells[0], percent(shares[0], 1), cells[1], percent(shares[1], 1), _difference(pair), points)
        table.add_row(Text(printable(name, _NAME_CHARS)), *told)
    table.add_row("all rows", f"{rows.first:,}", "", f"{rows.second:,}", "", _difference(rows), "")
    return table


def _pairs(title: str, pairs: Iterable[tuple[str, Pair]]) -> Table:
    table = new_table(title, "", "A>", "B>", "difference>")
    for name, pair in pairs:
        values = ["" if value is None else number(value) for value in (pair.first, pair.second)]
        table.add_row(Text(printable(name, _NAME_CHARS)), *values, _difference(pair))
    return table


def _difference(pair: Pair) -> str:
    if not pair.difference:
        return "" if pair.difference is None else "0"
    return ("+" if pair.difference > 0 else "-") + number(abs(pair.difference))


def _edge(edge: Edge | None) -> Text:
    if edge is None:
        return Text("")
    instance = "" if edge.number is None else f" #{edge.number}"
    return Text.assemble(printable(edge.key, _NAME_CHARS) + instance, (f" {edge.value:,.8g}", "dim"))


def _rows(group: Group) -> int:
    return group.samples + (group.rejections or 0)


def _print(console: Console, where: list[str], left_out: Iterable[str], table: Table) -> None:
    if where:
        console.print(told_filters(where, left_out))
        console.print()
    console.print(table)
