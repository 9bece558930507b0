"""What came out of a job and what was thrown away, and why: numbers for a person and for a script.

In: an output's committed tables (Parquet, no shard is opened) and, if there, `_run/timings.jsonl`. Out: `Stats`, plain data
that turns into JSON; stats_text.py prints it. Memory does not grow with the number of samples: distributions
keep an evenly thinned selection of values, word counts drop the rarest words when there are too many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import UNSET, UnsetType

from materia.base import storage
from materia.dataset.distributions import Distribution, Values
from materia.dataset.layout import read_info
from materia.dataset.scan import Filters, RowKind, scan
from materia.dataset.throughput import Throughput, read_throughput
from materia.dataset.word_counts import CategoryCount, WordCounts

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


class Stats(msgspec.Struct, kw_only=True):
    """All of it. input = samples + rejections; `planned_rows` is null without dataset.json.

    `dropped`: by reason, chosen boxes of samples that became no reference. `ambiguous_words`: words, counted once a sample, for
    which another individual would have been as good; null if no chunk says so. `instance_distributions` are of the chunks that
    have a table of instances: earlier versions wrote none. Of rows that filters chose, `where` has the filters and `left_out`
    the kinds of rows that they cannot ask, which are not counted; there is no `throughput` then.
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
    where: list[str] | UnsetType = UNSET
    left_out: list[RowKind] | UnsetType = UNSET


def collect(out: str, where: Sequence[str] = ()) -> Stats:
    """Read the tables of every committed chunk, as far as filters choose their rows (materia/dataset/scan.py).

    Raises OutputError for no output or a broken table, FilterError.
    """
    filters = Filters(out, where)
    info = read_info(out)
    stats = Stats(planned_rows=info.rows if info else None, planned_chunks=info.chunks if info else None)
    reasons: Counter[tuple[str, str]] = Counter()
    counted: dict[str, Counter[Any]] = {name: Counter() for name in ("frames_with_subject", "flags", "dropped")}
    instances = {name: Values() for name in INSTANCE_MEASURES}
    words = {category: WordCounts() for category in CATEGORIES}
    measures = {name: Values() for name in MEASURES}
    for batch in scan(filters, _COLUMNS, ["stage", "reason"], _INSTANCE_COLUMNS):
        index = batch.samples
        stats.chunks += batch.chunks
        stats.samples += len(index)
        stats.rejections += len(batch.rejections)
        stats.instances += _sum(index["n_instances"])
        stats.faces += _sum(index["n_faces"])
        stats.bytes += _sum(index["bytes"])
        for chunk in index["duration_s"].chunks:  # each by itself: the last digits of a sum are those of its order
            stats.duration_s += float(chunk.to_numpy().sum())
        _count_reasons(reasons, batch.rejections)
        for name, counter in counted.items():
            if name in index.column_names:  # one of an earlier version may lack it
                _count(counter, index[name])
        if "ambiguous_words" in index.column_names:
            stats.ambiguous_words = (stats.ambiguous_words or 0) + len(pc.list_flatten(index["ambiguous_words"]))
        if batch.instances is not None:
            _add_instances(instances, batch.instances)
        for category, word_counts in words.items():
            found = index[f"{category}_instances"] if category != "background" else None
            word_counts.add(index[f"{category}_words"], found)
        for name, values in measures.items():
            if name in index.column_names:
                values.add(index[name].drop_null().to_numpy().astype(float))
    stats.input = stats.samples + stats.rejections
    stats.reasons = [ReasonCount(*at, count, count / stats.input) for at, count in sorted(reasons.items(), key=_by_count)]
    stats.frames_with_subject = {str(number): counted["frames_with_subject"][number] for number in range(4)}
    stats.flags, stats.dropped = (dict(sorted(counted[name].items(), key=_by_count)) for name in ("flags", "dropped"))
    stats.instance_distributions = {name: values.summary() for name, values in instances.items() if values.count}
    stats.categories = {category: word_counts.summary() for category, word_counts in words.items()}
    stats.distributions = {name: values.summary() for name, values in measures.items() if values.count}
    if where:
        stats.where, stats.left_out = list(where), filters.left_out
    else:
        stats.throughput = read_throughput(storage.join(out, "_run"))
    return stats


def _count(counter: Counter[Any], column: pa.ChunkedArray) -> None:
    """Count values, or those in lists."""
    items = pc.list_flatten(column) if pa.types.is_list(column.type) else column
    if len(items):
        values, counts = pc.value_counts(items).flatten()
        counter.update(dict(zip(values.to_pylist(), counts.to_pylist(), strict=True)))


def _count_reasons(reasons: Counter[tuple[str, str]], rejects: pa.Table) -> None:
    counted = (
        rejects.select(["stage", "reason"]).group_by(["stage", "reason"], use_threads=False).aggregate([([], "count_all")])
    )
    for row in counted.to_pylist():
        reasons[row["stage"], row["reason"]] += row["count_all"]


def _add_instances(measures: dict[str, Values], table: pa.Table) -> None:
    """Scores of instances; of faces only how sure the face detector is."""
    own = table.filter(pc.invert(table["is_face"]))
    for name, values in measures.items():
        values.add((table if name == "face_score" else own)[name].drop_null().to_numpy())


def _sum(column: pa.ChunkedArray) -> int:
    return int(pc.sum(column).as_py() or 0)


def _by_count(item: tuple[Any, int]) -> tuple[int, Any]:
    """Most first, equals by name."""
    return -item[1], item[0]
