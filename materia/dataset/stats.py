"""What came out of a job and what was thrown away, and why: numbers for a person and for a script.

In: an output's committed index and rejects (Parquet, no shard is opened) and, if there, `_run/timings.jsonl`. Out: `Stats`,
plain data that turns into JSON, and `render` for a terminal. Memory does not grow with the number of samples: distributions
keep an evenly thinned selection of values, word counts drop the rarest words when there are too many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from materia.base import storage
from materia.base.terminal import printable
from materia.dataset.layout import commits, read_info, require_output
from materia.dataset.reader import read_table

CATEGORIES = ("subject", "object", "background")
MEASURES = {
    "duration_s": "clip duration, s",
    "fps": "frames per second",
    "width": "width, px",
    "height": "height, px",
    "caption_chars": "caption characters",
    "min_area_share": "smallest mask share",
    "max_area_share": "largest mask share",
    "min_detector_score": "least detector score",
    "min_mask_score": "least mask score",
    "min_link_score": "least link score",
    "masked_share": "inpainted share",
    "residual": "residual score",
}
"""Index columns whose distribution is shown."""
_TOP_WORDS = 12
_MAX_VALUES = 200_000
_MAX_WORDS = 200_000
_BINS = 16
_COUNTED = ["key", "n_instances", "n_faces", "frames_with_subject", "flags", "bytes"]
_WORDS = [*(f"{category}_words" for category in CATEGORIES), "subject_instances", "object_instances"]
_COLUMNS = [*_COUNTED, *_WORDS, *MEASURES]


class ReasonCount(msgspec.Struct, frozen=True):
    """Rejections for one reason; `share` of all rows."""

    stage: str
    reason: str
    count: int
    share: float


class WordCount(msgspec.Struct, frozen=True):
    """Samples whose caption names a word (case-folded), and the word's masked instances over all frames."""

    word: str
    samples: int
    instances: int


class CategoryCount(msgspec.Struct, frozen=True):
    """Words of a category over all samples, how many of them have an instance, all instances, and the most frequent words."""

    words: int
    with_instance: int
    instances: int
    top: list[WordCount]


class Distribution(msgspec.Struct, frozen=True):
    """Of one index column over samples. Percentiles and `histogram` (equal bins from min to max) are of a thinned selection."""

    count: int
    min: float
    p5: float
    median: float
    p95: float
    max: float
    mean: float
    histogram: list[int]


class Throughput(msgspec.Struct, frozen=True):
    """From the timings of all starts of the job: `seconds` of work by stage, `wall_s` from start to last slice."""

    starts: int
    clips: int
    wall_s: float
    clips_per_s: float
    seconds: dict[str, float]


class Stats(msgspec.Struct, kw_only=True):
    """All of it. input = samples + rejections; `planned_rows` is null without dataset.json."""

    planned_rows: int | None
    planned_chunks: int | None
    chunks: int = 0
    input: int = 0
    samples: int = 0
    rejections: int = 0
    reasons: list[ReasonCount] = []
    instances: int = 0
    faces: int = 0
    categories: dict[str, CategoryCount] = {}
    frames_with_subject: dict[str, int] = {}
    flags: dict[str, int] = {}
    distributions: dict[str, Distribution] = {}
    duration_s: float = 0.0
    bytes: int = 0
    throughput: Throughput | None = None


def collect(out: str) -> Stats:
    """Read the tables of every committed chunk. Raises OutputError for no output or a broken table."""
    require_output(out)
    info = read_info(out)
    stats = Stats(planned_rows=info.rows if info else None, planned_chunks=info.chunks if info else None)
    reasons: Counter[tuple[str, str]] = Counter()
    frames: Counter[int] = Counter()
    flags: Counter[str] = Counter()
    words = {category: _Words() for category in CATEGORIES}
    measures = {name: _Values() for name in MEASURES}
    for commit in commits(out):
        index = read_table(out, commit, "index", _COLUMNS)
        rejects = read_table(out, commit, "rejects", ["stage", "reason"])
        stats.chunks += 1
        reasons.update(zip(rejects["stage"].to_pylist(), rejects["reason"].to_pylist(), strict=True))
        stats.samples += index.num_rows
        stats.rejections += rejects.num_rows
        stats.instances += _sum(index["n_instances"])
        stats.faces += _sum(index["n_faces"])
        stats.bytes += _sum(index["bytes"])
        frames.update(index["frames_with_subject"].to_pylist())
        flags.update(flag for row in index["flags"].to_pylist() for flag in row)
        for category in CATEGORIES:
            found = index[f"{category}_instances"].to_pylist() if category != "background" else [[]] * index.num_rows
            words[category].add(zip(index[f"{category}_words"].to_pylist(), found, strict=True))
        for name, values in measures.items():
            if name in index.column_names:  # one of an earlier version may lack it
                values.add(index[name].drop_null().to_numpy().astype(float))
    stats.input = stats.samples + stats.rejections
    stats.reasons = [ReasonCount(*at, count, count / stats.input) for at, count in sorted(reasons.items(), key=_by_count)]
    stats.frames_with_subject = {str(number): frames[number] for number in range(4)}
    stats.flags = dict(sorted(flags.items(), key=_by_count))
    stats.categories = {category: counted.summary() for category, counted in words.items()}
    stats.distributions = {name: values.summary() for name, values in measures.items() if values.count}
    stats.duration_s = measures["duration_s"].total
    stats.throughput = _throughput(storage.join(out, "_run", "timings.jsonl"))
    return stats


class _Words:
    """Counts of words, the rarest forgotten when there are too many."""

    def __init__(self) -> None:
        self.samples: Counter[str] = Counter()
        self.instances: Counter[str] = Counter()
        self.words = self.found = self.total = 0

    def add(self, rows: Iterable[tuple[list[str], list[int]]]) -> None:
        """Rows of words, and the numbers of instances of the first of them (see the index)."""
        for row, instances in rows:
            folded = [word.casefold() for word in row]
            self.samples.update(folded)
            for word, count in zip(folded, instances, strict=False):
                self.instances[word] += count
            self.words += len(row)
            self.found += len(instances)
            self.total += sum(instances)
        if len(self.samples) > _MAX_WORDS:
            self.samples = Counter(dict(self.samples.most_common(_MAX_WORDS // 2)))
            self.instances = Counter({word: count for word, count in self.instances.items() if word in self.samples})

    def summary(self) -> CategoryCount:
        top = sorted(self.samples.items(), key=_by_count)[:_TOP_WORDS]
        return CategoryCount(self.words, self.found, self.total, [WordCount(word, n, self.instances[word]) for word, n in top])


class _Values:
    """Count, sum and extremes of all values, and every `step`-th of them; the step doubles when they become too many."""

    def __init__(self) -> None:
        self.kept = np.empty(0)
        self.step, self.count, self.total = 1, 0, 0.0
        self.min, self.max = np.inf, -np.inf

    def add(self, values: np.ndarray) -> None:
        """Values (N,) float64."""
        if not len(values):
            return
        self.kept = np.concatenate([self.kept, values[-self.count % self.step :: self.step]])
        self.count += len(values)
        self.total += float(values.sum())
        self.min, self.max = min(self.min, float(values.min())), max(self.max, float(values.max()))
        while len(self.kept) > _MAX_VALUES:
            self.kept, self.step = self.kept[::2], self.step * 2

    def summary(self) -> Distribution:
        p5, median, p95 = (round(float(value), 6) for value in np.percentile(self.kept, (5, 50, 95)))
        histogram = np.histogram(self.kept, bins=_BINS, range=(self.min, self.max))[0].tolist()
        return Distribution(self.count, self.min, p5, median, p95, self.max, round(self.total / self.count, 6), histogram)


def _sum(column: pa.ChunkedArray) -> int:
    return int(column.to_numpy().sum())


def _by_count(item: tuple[Any, int]) -> tuple[int, Any]:
    """Most first, equals by name."""
    return -item[1], item[0]


def _throughput(address: str) -> Throughput | None:
    """Sum the timing lines; a line that is torn or foreign is passed over. Times that fall back mark another start."""
    starts, clips, wall_s, last_s = 0, 0, 0.0, float("inf")
    seconds: Counter[str] = Counter()
    for line in _timings(address):
        starts += line.end_s < last_s
        wall_s += line.end_s if line.end_s < last_s else line.end_s - last_s
        last_s = line.end_s
        clips += line.rows
        seconds.update(line.seconds)
    if not starts or wall_s <= 0:
        return None
    return Throughput(starts, clips, round(wall_s, 3), round(clips / wall_s, 3), {s: round(t, 3) for s, t in seconds.items()})


class _Timing(msgspec.Struct):
    rows: int
    end_s: float
    seconds: dict[str, float]


def _timings(address: str) -> Iterator[_Timing]:
    if not storage.exists(address):
        return
    with storage.open_read(address) as file:
        for line in file:
            try:
                yield msgspec.json.decode(line, type=_Timing)
            except msgspec.MsgspecError:
                continue


def render(stats: Stats, console: Console) -> None:
    """Print for a person, as wide as the console (where it is wide enough, each row and fact is a line of its own); words
    cannot move the cursor or colour anything.
    """
    parts: list[Text | Table] = [_headline(stats)]
    if stats.input:
        parts.append(_outcome_table(stats))
    if stats.samples:
        parts += [_word_table(stats), _distribution_table(stats), _details(stats)]
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
    if stats.planned_rows is not None and stats.input < stats.planned_rows:
        text.append(f"  (of {stats.planned_rows:,} planned: the job is not finished)", "yellow")
    return text


def _outcome_table(stats: Stats) -> Table:
    table = _table("Where the rows went", "stage", "outcome", "rows>", "share>", "")
    table.add_row(
        "", "sample", f"{stats.samples:,}", _percent(stats.samples, stats.input), _bar(stats.samples, stats.input, "green")
    )
    for reason in stats.reasons:
        name, stage = Text(printable(reason.reason)), Text(printable(reason.stage))
        share = _percent(reason.count, stats.input)
        table.add_row(stage, name, f"{reason.count:,}", share, _bar(reason.count, stats.input, "red"))
    return table


def _word_table(stats: Stats) -> Table:
    table = _table("Words of the samples", "category", "words>", "masked>", "instances>", "most frequent: samples/instances")
    for category, counted in stats.categories.items():
        masked = category != "background"
        numbers = (f"{counted.with_instance:,}", f"{counted.instances:,}") if masked else ("", "")
        top = Text(", ").join(
            Text.assemble(printable(top.word, 40), (f" {top.samples}" + f"/{top.instances}" * masked, "dim"))
            for top in counted.top
        )
        table.add_row(category, f"{counted.words:,}", *numbers, top)
    return table


def _distribution_table(stats: Stats) -> Table:
    table = _table("Distributions over samples", "", "min>", "5 %>", "median>", "95 %>", "max>", "min to max")
    for name, d in stats.distributions.items():
        numbers = [f"{value:,.3g}" if value < 1e3 else f"{value:,.0f}" for value in (d.min, d.p5, d.median, d.p95, d.max)]
        table.add_row(MEASURES[name], *numbers, Text(_spark(d.histogram), "cyan"))
    return table


def _details(stats: Stats) -> Text:
    frames = ", ".join(f"{count:,} in {number}" for number, count in stats.frames_with_subject.items() if count)
    flags = ", ".join(f"{printable(flag)} {count:,}" for flag, count in stats.flags.items()) or "none"
    facts = [
        f"{stats.instances:,}{_noun(stats.instances, 'masked instance')}",
        f"{stats.faces:,}{_noun(stats.faces, 'face crop')}",
        f"samples by number of frames that show a subject: {frames}",
        f"flags: {flags}",
        f"{stats.duration_s / 60:,.1f} minutes of video",
        f"{stats.bytes / 1e6:,.1f} MB in {stats.chunks:,}{_noun(stats.chunks, 'chunk')}",
    ]
    return Text("\n".join(facts))


def _throughput_table(throughput: Throughput) -> Table:
    clips = f"{throughput.clips:,}{_noun(throughput.clips, 'clip')}"
    rate = f"{clips} in {throughput.wall_s:,.0f} s: {throughput.clips_per_s:.2f} clips/s"
    table = _table(f"Throughput: {rate}", "stage", "s of work>", "ms a clip>", "")
    most = max(throughput.seconds.values(), default=0.0)
    for stage, seconds in throughput.seconds.items():
        each = f"{1000 * seconds / max(throughput.clips, 1):,.1f}"
        table.add_row(Text(printable(stage)), f"{seconds:,.1f}", each, _bar(seconds, most, "blue"))
    return table


def _table(title: str, *columns: str) -> Table:
    """A frameless table; a column whose name ends in ">" is set to the right."""
    table = Table(title=Text(title, "bold"), title_justify="left", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column.removesuffix(">"), justify="right" if column.endswith(">") else "left")
    return table


def _noun(count: int, noun: str) -> str:
    """What follows a count: " row", " rows"."""
    return f" {noun}" if count == 1 else f" {noun}s"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %"


def _bar(part: float, whole: float, colour: str, width: int = 24) -> Text:
    eighths = round(8 * width * part / whole) if whole else 0
    return Text("█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8], colour)


def _spark(counts: list[int]) -> str:
    """One glyph a bin, its height by the count; an empty bin is a blank."""
    most = max(counts)
    return "".join(" " if not count else "▁▂▃▄▅▆▇█"[min(7, 8 * count // (most + 1))] for count in counts)
