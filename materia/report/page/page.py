"""The report of an output: one HTML file that holds everything it shows, needs no network and runs no script.

In: an output's address. Out: the file. Its numbers are those of `materia stats --json` (materia/dataset/stats.py), which it
holds once more as JSON in `<script type="application/json" id="numbers">`, with those of materia/dataset/survey.py beside them.
Text of strangers - captions, words, reasons, paths - is made printable (no control or direction characters) and escaped by the
template engine; the Content-Security-Policy admits the page's own style and `data:` pictures, nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from materia.base import storage
from materia.base.terminal import plural, printable
from materia.dataset import outliers
from materia.dataset.distributions import Distribution
from materia.dataset.layout import read_info
from materia.dataset.outliers import ShardSurvey
from materia.dataset.stats import INSTANCE_MEASURES, MEASURES, Stats, collect
from materia.dataset.survey import survey
from materia.dataset.together import WordsTogether
from materia.dataset.why import cure
from materia.report.drawing import PALETTE
from materia.report.page import charts
from materia.report.page.flow import flow
from materia.report.page.models import models, settings
from materia.report.page.pictures import rejected_cards, sample_cards

_REASONS = 40
"""Reasons that are named; stages of one's own may have any number."""
_ODD = 20
"""Outliers that are listed."""
_SIZES = 10
"""Sizes of words in a cloud, steps of a heat map."""


class _Spread(NamedTuple):
    """A distribution and its chart; None where all values are the same."""

    name: str
    of: Distribution
    chart: Markup | None


class _Word(NamedTuple):
    """A word of a cloud. `size`: 0, rare, to `_SIZES` - 1."""

    word: str
    samples: int
    size: int


def write_report(out: str, target: str, *, samples: int, seed: int, where: str | None) -> None:
    """Write the report of `out` to the file `target`. `samples`: how many are shown, of those that `where` admits.

    Raises OutputError for no output or a broken table, FilterError.
    """
    text = render(out, samples=samples, seed=seed, where=where)
    storage.atomic_write(target, text.encode())


def render(out: str, *, samples: int, seed: int, where: str | None) -> str:
    """The report as HTML. The same for the same output, seed and versions."""
    stats, found, info = collect(out), survey(out), read_info(out)
    style = _style()
    text: str = _template().render(
        title=out.rstrip("/").rpartition("/")[2] or out,
        out=out,
        seed=seed,
        where=where,
        style=Markup(style),
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        numbers=_numbers(stats, found.words, found.shards),
        stats=stats,
        reasons=stats.reasons[:_REASONS],
        cures={one.reason: cure(one.reason) for one in stats.reasons[:_REASONS]},
        flows=_flows(stats),
        clouds={category: _cloud(words) for category, words in found.words.words.items()},
        words=found.words,
        most_together=max((n for one in found.words.together for n in one.samples), default=0),
        spreads={
            "Over samples": _spreads(MEASURES, stats.distributions),
            "Over instances": _spreads(INSTANCE_MEASURES, stats.instance_distributions),
        },
        shards=found.shards,
        shard_charts=_shard_charts(found.shards),
        measured=outliers.MEASURED,
        odd=found.shards.outliers[:_ODD],
        far=outliers.FAR,
        few=outliers.FEW,
        cards=sample_cards(out, samples, seed, where) if stats.samples and samples else [],
        rejected=rejected_cards(out, stats.reasons, seed),
        info=info,
        settings=settings(info) if info else {},
        models=models(info) if info else [],
    )
    return text


def _numbers(stats: Stats, words: WordsTogether, shards: ShardSurvey) -> Markup:
    """JSON that no text within can end."""
    found = {"stats": stats, "words": words, "outliers": shards.outliers[:_ODD], "n_outliers": len(shards.outliers)}
    text = json.dumps(msgspec.to_builtins(found))  # ASCII alone
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _flows(stats: Stats) -> list[Any]:
    """For a wide and for a narrow page; none without rows. What is beyond the named reasons is one more."""
    if not stats.input:
        return []
    named, others = stats.reasons[:_REASONS], stats.reasons[_REASONS:]
    if others:
        rest = sum(one.count for one in others)
        named = [*named, msgspec.structs.replace(others[0], stage="others", reason=f"{len(others)} others", count=rest)]
    places = ((820.0, 250.0, 560.0), (350.0, 56.0, 124.0))
    return [flow(stats.input, stats.samples, named, *place) for place in places]


def _cloud(words: Mapping[str, int]) -> list[_Word]:
    """Large words among small ones: in the order of their hashes; twice as large is four times as many samples."""
    most = max(words.values(), default=1)
    shown = [_Word(word, n, round((_SIZES - 1) * math.sqrt(n / most))) for word, n in words.items()]
    return sorted(shown, key=lambda one: hashlib.sha256(one.word.encode()).digest())


def _spreads(names: Mapping[str, str], found: Mapping[str, Distribution]) -> list[_Spread]:
    return [
        _Spread(name, of, charts.histogram(name, of) if of.min < of.max else None)
        for of, name in ((found[column], name) for column, name in names.items() if column in found)
    ]


def _shard_charts(shards: ShardSurvey) -> list[tuple[str, Markup]]:
    if len(shards.chunks) < outliers.FEW:
        return []
    odd = {name: {one.chunk for one in shards.outliers if one.measure == name} for name in shards.values}
    return [
        (outliers.MEASURED[name], charts.by_shard(outliers.MEASURED[name], shards.chunks, values, odd[name]))
        for name, values in shards.values.items()
    ]


def _style() -> str:
    """The style sheet, with the colours that words have in pictures."""
    colours = "".join(f".k{number}{{--k:rgb{colour}}}" for number, colour in enumerate(PALETTE)).replace(" ", "")
    return files(__package__).joinpath("report.css").read_text("utf-8") + colours


def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        seen=printable, n=_number, short=_short, percent=_percent, size=_size, heat=_heat, largest=max, plural=plural
    )
    return environment.from_string(files(__package__).joinpath("report.html").read_text("utf-8"))


def _number(value: float) -> str:
    return f"{value:,}"


def _short(value: float) -> str:
    """Four significant digits, thousands separated."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 0.001 or not value else f"{value:.1e}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _size(n_bytes: float) -> str:
    power = min(int(math.log(n_bytes, 1000)), 4) if n_bytes >= 1 else 0
    return f"{n_bytes / 1000**power:.{min(power, 1)}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _heat(samples: int, most: int) -> int:
    """0 for none, to `_SIZES` - 1 for the most."""
    return math.ceil((_SIZES - 1) * math.sqrt(samples / most)) if samples else 0
