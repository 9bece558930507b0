"""Where the rows went, as a Sankey diagram: all rows | kept, and lost by stage | lost by reason.

In: counts. Out: bars, ribbons and labels with their places, which the template writes as SVG. A bar's height is its rows;
labels keep a distance, so small reasons stand further apart than they are high.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from materia.dataset.stats import ReasonCount
from stages.specs import STAGES

_HEIGHT, _STEP, _GAP, _BAR = 280.0, 21.0, 5.0, 10.0
_ORDER = ["source", *(stage.name for stage in STAGES)]


class Part(NamedTuple):
    """A bar: its place and size, what it is, how many rows; `kind`: rows, kept or lost."""

    x: float
    y: float
    height: float
    name: str
    rows: int
    kind: str


class Ribbon(NamedTuple):
    """`path`: outline, as SVG writes it."""

    path: str
    kind: str


class Flow(NamedTuple):
    """The diagram, and how large it is."""

    width: float
    height: float
    bar: float
    all: list[Part]
    stages: list[Part]
    ends: list[Part]
    ribbons: list[Ribbon]


def flow(rows: int, kept: int, reasons: Sequence[ReasonCount], width: float, stages_x: float, ends_x: float) -> Flow:
    """Lay it out. rows = kept + all reasons, at least one; the columns stand at 0, `stages_x` and `ends_x` of `width`."""
    scale, drawn = _HEIGHT / rows, Flow(width, 0, _BAR, [Part(0, 0, _HEIGHT, "rows", rows, "rows")], [], [], [])
    left = right = 0.0
    if kept:
        height = kept * scale
        drawn.ends.append(Part(ends_x, 0, height, "kept", kept, "kept"))
        drawn.ribbons.append(_ribbon((_BAR, 0), (ends_x, 0), height, "kept"))
        left, right = height, max(height, _STEP) + 2 * _GAP
    for stage, group in groupby(sorted(reasons, key=_way), key=lambda one: one.stage):
        top, lost = right, 0
        here = list(group)
        for one in here:
            height = one.count * scale
            drawn.ends.append(Part(ends_x, right, height, one.reason, one.count, "lost"))
            drawn.ribbons.append(_ribbon((stages_x + _BAR, top + lost * scale), (ends_x, right), height, "lost"))
            right += max(height + _GAP, _STEP)
            lost += one.count
        drawn.stages.append(Part(stages_x, top, lost * scale, stage, lost, "lost"))
        drawn.ribbons.append(_ribbon((_BAR, left), (stages_x, top), lost * scale, "lost"))
        left, right = left + lost * scale, right + _GAP
    return drawn._replace(height=max(_HEIGHT, right) + _GAP)


def _way(one: ReasonCount) -> tuple[int, str, int, str]:
    """By the order of a clip's way, stages of one's own last; of a stage the most frequent first."""
    return _ORDER.index(one.stage) if one.stage in _ORDER else len(_ORDER), one.stage, -one.count, one.reason


def _ribbon(start: tuple[float, float], end: tuple[float, float], height: float, kind: str) -> Ribbon:
    """From one upper left corner to another, equally high all the way; what is very thin can still be seen."""
    (x0, y0), (x1, y1), high = start, end, max(height, 0.75)
    middle = (x0 + x1) / 2
    there = f"M{x0:.1f} {y0:.1f}C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
    back = f"v{high:.1f}C{middle:.1f} {y1 + high:.1f} {middle:.1f} {y0 + high:.1f} {x0:.1f} {y0 + high:.1f}z"
    return Ribbon(there + back, kind)
