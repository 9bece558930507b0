"""Statistics of an output for a terminal.

In: `Stats` (materia/dataset/stats.py). Out: tables and facts on a console.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from materia.base.terminal import printable
from materia.dataset.distributions import Distribution
from materia.dataset.stats import INSTANCE_MEASURES, MEASURES, Stats
from materia.dataset.throughput import Throughput


def render(stats: Stats, console: Console) -> None:
    """Print for a person, as wide as the console (where it is wide enough, each row and fact is a line of its own); words
    cannot move the cursor or colour anything.
    """
    parts: list[Text | Table] = [_headline(stats)]
    if stats.input:
        parts.append(_outcome_table(stats))
    if stats.samples:
        parts += [_word_table(stats), _distribution_table("samples", MEASURES, stats.distributions)]
        if stats.instance_distributions:
            parts.append(_distribution_table("instances", INSTANCE_MEASURES, stats.instance_distributions))
        parts.append(_details(stats))
    if stats.throughput is not None:
        parts.append(_throughput_table(stats.throughput))
    for part in parts:
        if part is not parts[0]:
            console.print()
        console.print(part)


def _headline(stats: Stats) -> Text:
    counts = (
        ("row", stats.input, "bold"),
        ("sample", stats.samples, "bold green"),
        ("rejection", stats.rejections, "bold red"),
    )
    rows, samples, rejections = (Text.assemble((f"{count:,}", style), _noun(count, noun)) for noun, count, style in counts)
    text = Text.assemble(rows, " = ", samples, " + ", rejections)
    if isinstance(stats.where, list):
        return Text.assemble(text, "\n", told_filters(stats.where, stats.left_out or []))
    if stats.planned_rows is not None and stats.input < stats.planned_rows:
        text.append(f"  (of {stats.planned_rows:,} planned: the job is not finished)", "yellow")
    return text


def _outcome_table(stats: Stats) -> Table:
    table = new_table("Where the rows went", "stage", "outcome", "rows>", "share>", "")
    table.add_row(
        "", "sample", f"{stats.samples:,}", percent(stats.samples, stats.input), bar(stats.samples, stats.input, "green")
    )
    for reason in stats.reasons:
        name, stage = Text(printable(reason.reason)), Text(printable(reason.stage))
        share = percent(reason.count, stats.input)
        table.add_row(stage, name, f"{reason.count:,}", share, bar(reason.count, stats.input, "red"))
    return table


def _word_table(stats: Stats) -> Table:
    table = new_table("Words of the samples", "category", "words>", "masked>", "instances>", "most frequent: samples/instances")
    for category, counted in stats.categories.items():
        masked = category != "background"
        numbers = (f"{counted.with_instance:,}", f"{counted.instances:,}") if masked else ("", "")
        top = Text(", ").join(
            Text.assemble(printable(top.word, 40), (f" {top.samples}" + f"/{top.instances}" * masked, "dim"))
            for top in counted.top
        )
        table.add_row(category, f"{counted.words:,}", *numbers, top)
    return table


def _distribution_table(over: str, names: Mapping[str, str], distributions: Mapping[str, Distribution]) -> Table:
    table = new_table(f"Distributions over {over}", "", "min>", "5 %>", "median>", "95 %>", "max>", "min to max")
    for name, d in distributions.items():
        numbers = [number(value) for value in (d.min, d.p5, d.median, d.p95, d.max)]
        table.add_row(names[name], *numbers, Text(_spark(d.histogram), "cyan"))
    return table


def _details(stats: Stats) -> Text:
    frames = ", ".join(f"{count:,} in {number}" for number, count in stats.frames_with_subject.items() if count)
    facts = [
        f"{stats.instances:,}{_noun(stats.instances, 'masked instance')}",
        f"{stats.faces:,}{_noun(stats.faces, 'face crop')}",
        f"samples by number of frames that show a subject: {frames}",
        f"flags: {_counts(stats.flags)}",
        f"dropped references: {_counts(stats.dropped)}",
        "ambiguous words, for which another individual would have been as good: "
        + ("not known" if stats.ambiguous_words is None else f"{stats.ambiguous_words:,}"),
        f"{stats.duration_s / 60:,.1f} minutes of video",
        f"{stats.bytes / 1e6:,.1f} MB in {stats.chunks:,}{_noun(stats.chunks, 'chunk')}",
    ]
    return Text("\n".join(facts))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{printable(name)} {count:,}" for name, count in counts.items()) or "none"


def _throughput_table(throughput: Throughput) -> Table:
    clips = f"{throughput.clips:,}{_noun(throughput.clips, 'clip')}"
    rate = f"{clips} in {throughput.wall_s:,.0f} s: {throughput.clips_per_s:.2f} clips/s"
    table = new_table(f"Throughput: {rate}", "stage", "s of work>", "ms a clip>", "")
    most = max(throughput.seconds.values(), default=0.0)
    for stage, seconds in throughput.seconds.items():
        each = f"{1000 * seconds / max(throughput.clips, 1):,.1f}"
        table.add_row(Text(printable(stage)), f"{seconds:,.1f}", each, bar(seconds, most, "blue"))
    return table


def new_table(title: str, *columns: str) -> Table:
    """A frameless table; a column whose name ends in ">" is set to the right."""
    table = Table(title=Text(title, "bold"), title_justify="left", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column.removesuffix(">"), justify="right" if column.endswith(">") else "left")
    return table


def _noun(count: int, noun: str) -> str:
    """What follows a count: " row", " rows"."""
    return f" {noun}" if count == 1 else f" {noun}s"


def told_filters(where: Iterable[str], left_out: Iterable[str]) -> Text:
    """Which rows were counted, and which kinds were not."""
    text = Text("rows that are admitted by " + " and ".join(repr(printable(one)) for one in where))
    for kind in left_out:
        text.append(f"; {kind} have no such column and are not counted", "yellow")
    return text


def number(value: float) -> str:
    """In a cell of a table: three digits, or all before the point."""
    return f"{value:,.3g}" if value < 1e3 else f"{value:,.0f}"


def percent(part: float, whole: float) -> str:
    """A share of the whole, to a tenth of a percent."""
    return f"{100 * part / whole:.1f} %"


def bar(part: float, whole: float, colour: str, width: int = 24) -> Text:
    """A bar of at most `width` cells, to an eighth of one."""
    eighths = round(8 * width * part / whole) if whole else 0
    return Text("█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8], colour)


def _spark(counts: list[int]) -> str:
    """One glyph a bin, its height by the count; an empty bin is a blank."""
    most = max(counts)
    return "".join(" " if not count else "▁▂▃▄▅▆▇█"[min(7, 8 * count // (most + 1))] for count in counts)
