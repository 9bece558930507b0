"""A sheet of two outputs of the same clips: what another configuration, model or version has changed, the most changed first.

In: the addresses of both. Out: a picture with two cards a clip, as it is in the one and, below, in the other. What became a
sample in one alone is a rejected row of the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from materia.base.terminal import plural
from materia.dataset.differences import differences
from materia.dataset.layout import OutputError
from materia.dataset.reader import Dataset
from materia.report.choice import rejected_of
from materia.report.contact_sheet import SAMPLES, write_sheet
from materia.report.drawing import colours_of
from materia.report.rejected_card import Job, found_of, rejected_card
from materia.report.sample_card import sample_card


def compared_sheet(before: str, after: str, target: str, n: int = SAMPLES, keys: Sequence[str] = ()) -> None:
    """Draw the clips named by `keys`, in that order; else the `n` that differ most (materia/dataset/differences.py).

    Raises OutputError when nothing differs, a key is a sample of neither, or something cannot be read.
    """
    pair = {"before": Dataset(before), "after": Dataset(after)}
    chosen = _chosen(pair, n, keys)
    samples = {(side, row["key"]): data[row[side]] for side, data in pair.items() for row in chosen if row[side] is not None}
    lost = {side: rejected_of(data.out, [row["key"] for row in chosen if row[side] is None]) for side, data in pair.items()}
    words = [[instance.word for instance in sample.document.instances] for sample in samples.values()]
    words += [[box.word for box in found_of(row).boxes] for rows in lost.values() for row in rows.values()]
    colours, jobs = colours_of(words), {side: Job(data.out) for side, data in pair.items()}
    cards = []
    for row in chosen:
        for side, data in pair.items():
            facts = [f"in {data.out}"]
            if sample := samples.get((side, row["key"])):
                cards.append(sample_card(sample, colours, facts))
            elif rejected := lost[side].get(row["key"]):
                cards.append(rejected_card(rejected, jobs[side].look(rejected), colours, facts))
    write_sheet(cards, target)


def _chosen(pair: Mapping[str, Dataset], n: int, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the differences."""
    before, after = pair.values()
    table = differences(before, after)
    if keys:
        found = {row["key"]: row for row in table.filter(pc.is_in(table["key"], pa.array(keys, pa.string()))).to_pylist()}
        if unknown := [key for key in keys if key not in found]:
            raise OutputError(f"neither {before.out} nor {after.out} has a sample of the key {unknown[0]!r}")
        return [found[key] for key in dict.fromkeys(keys)]
    alone = pc.or_(pc.is_null(table["before"]), pc.is_null(table["after"]))
    changed = pc.or_(pc.greater(table["words"], 0), pc.greater(table["score"], 0))
    rows: list[dict[str, Any]] = table.filter(pc.or_(alone, changed)).slice(0, n).to_pylist()
    if not rows:
        raise OutputError(f"{plural(len(before), 'sample')} of {before.out} and of {after.out} have the same words and scores")
    return rows
