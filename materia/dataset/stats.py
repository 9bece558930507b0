"""What came out of a job and what was thrown away, and why: numbers for a person and for a script.

In: an output's committed tables (Parquet, no shard is opened) and, if there, `_run/timings.jsonl`. Out: `Stats`, plain data
that turns into JSON; stats_text.py prints it. Memory does not grow with the number of samples: distributions
keep an evenly thinned selection of values, word counts drop the rarest words when there are too many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from materia.base import storage
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
    "masked_share": "replaced share",
    "borrowed_share": "borrowed of it",
    "residual": "residual score",
    "residual_at_large": "residual at large",
    "background_sharpness": "background sharpness",
    "background_quality": "background quality",
}
"""Index columns whose distribution over samples is shown."""
INSTANCE_MEASURES = {
    "detector_score": "detector score",
    "mask_score": "mask score",
    "overlap_share": "overlap with others",
    "link_score": "link score",
    "face_score": "face score",
}
"""Columns of the instances whose distribution is shown; the last of faces, the others of all else."""
_TOP_WORDS = 12
_MAX_VALUES = 200_000
_MAX_WORDS = 200_000
_BINS = 16
_COUNTED = ["key", "n_instances", "n_faces", "frames_with_subject", "flags", "ambiguous_words", "dropped", "bytes"]
_WORDS = [*(f"{category}_words" for category in CATEGORIES), "subject_instances", "object_instances"]
_COLUMNS = [*_COUNTED, *_WORDS, *MEASURES]
_INSTANCE_COLUMNS = ["is_face", *INSTANCE_MEASURES]


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
    """Of one column over its rows. Percentiles and `histogram` (equal bins from min to max) are of a thinned selection."""

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
    """All of it. input = samples + rejections; `planned_rows` is null without dataset.json.

    `dropped`: by reason, chosen boxes of samples that became no reference. `ambiguous_words`: words, counted once a sample, for
    which another individual would have been as good; null if no chunk says so. `instance_distributions` are of the chunks that
    have a table of instances: earlier versions wrote none.
    """

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
    dropped: dict[str, int] = {}
    ambiguous_words: int | None = None
    distributions: dict[str, Distribution] = {}
    instance_distributions: dict[str, Distribution] = {}
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
    dropped: Counter[str] = Counter()
    instances = {name: _Values() for name in INSTANCE_MEASURES}
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
        if "dropped" in index.column_names:  # one of an earlier version may lack it
            dropped.update(reason for row in index["dropped"].to_pylist() for reason in row)
        if "ambiguous_words" in index.column_names:
            stats.ambiguous_words = (stats.ambiguous_words or 0) + sum(map(len, index["ambiguous_words"].to_pylist()))
        if commit.has_instances:
            _add_instances(instances, read_table(out, commit, "instances", _INSTANCE_COLUMNS))
        for category in CATEGORIES:
            found = index[f"{category}_instances"].to_pylist() if category != "background" else [[]] * index.num_rows
            words[category].add(zip(index[f"{category}_words"].to_pylist(), found, strict=True))
        for name, values in measures.items():
            if name in index.column_names:
                values.add(index[name].drop_null().to_numpy().astype(float))
    stats.input = stats.samples + stats.rejections
    stats.reasons = [ReasonCount(*at, count, count / stats.input) for at, count in sorted(reasons.items(), key=_by_count)]
    stats.frames_with_subject = {str(number): frames[number] for number in range(4)}
    stats.flags = dict(sorted(flags.items(), key=_by_count))
    stats.dropped = dict(sorted(dropped.items(), key=_by_count))
    stats.instance_distributions = {name: values.summary() for name, values in instances.items() if values.count}
    stats.categories = {category: counted.summary() for category, counted in words.items()}
    stats.distributions = {name: values.summary() for name, values in measures.items() if values.count}
    stats.duration_s = measures["duration_s"].total
    stats.throughput = _throughput(storage.join(out, "_run", "timings.jsonl"))
    return stats


def _add_instances(measures: dict[str, _Values], table: pa.Table) -> None:
    """Scores of a chunk's instances; of faces only how sure the face detector is."""
    own = table.filter(pc.invert(table["is_face"]))
    for name, values in measures.items():
        values.add((table if name == "face_score" else own)[name].drop_null().to_numpy())


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
