"""Charts as inline SVG, drawn by Vega-Lite without a browser or a network; their colours are the page's CSS variables.

In: distributions and shards. Out: safe markup. Of the libraries that draw SVG in Python, this one hands `var(--accent)`
through, so that dark, light and print need one drawing and no script.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import vl_convert
from markupsafe import Markup, escape

from materia.dataset.distributions import Distribution

_WIDTH = 240
_AXIS = {"domainColor": "var(--line)", "tickColor": "var(--line)", "labelColor": "var(--muted)", "grid": False}
_CONFIG = {"axis": {**_AXIS, "labelFont": "inherit", "labelFontSize": 12, "title": None}, "view": {"stroke": None}}
_LABEL = "abs(datum.value) < 1000 ? format(datum.value, '.3~g') : format(datum.value, '.3~s')"
_POINTS = 200
"""Shards of a chart; of more, evenly many and all that are outliers."""
_ODD_POINTS = 40


def histogram(name: str, of: Distribution) -> Markup:
    """Bars from the smallest to the largest value; behind them the middle 90 %, before them the median."""
    edges = np.linspace(of.min, of.max, len(of.histogram) + 1).tolist()
    bars = [
        {"from": a, "to": b - 0.06 * (b - a), "rows": rows} for a, b, rows in zip(edges, edges[1:], of.histogram, strict=False)
    ]
    scale = {"domain": [of.min, of.max], "nice": False}
    layers = [
        {
            "data": {"values": [{"from": of.p5, "to": of.p95}]},
            "mark": {"type": "rect", "color": "var(--band)"},
            "encoding": {"x": _x("from", scale), "x2": {"field": "to"}},
        },
        {
            "mark": {"type": "rect", "color": "var(--accent)"},
            "encoding": {"x": _x("from", scale), "x2": {"field": "to"}, "y": _y("rows", axis=None), "y2": {"datum": 0}},
        },
        {
            "data": {"values": [{"from": of.median}]},
            "mark": {"type": "rule", "color": "var(--ink)", "strokeWidth": 1.5},
            "encoding": {"x": _x("from", scale)},
        },
    ]
    told = f"{name}: {of.count:,} values from {of.min:.4g} to {of.max:.4g}, median {of.median:.4g}"
    return _svg({"height": 84, "data": {"values": bars}, "layer": layers}, told)


def by_shard(name: str, chunks: np.ndarray, values: np.ndarray, odd: set[int]) -> Markup:
    """A value for each shard. `chunks` (n,), `values` (n,), NaN: it has none; `odd`: chunks to mark."""
    there = ~np.isnan(values)
    chunks, values = chunks[there], values[there]
    marked = np.isin(chunks, list(odd))
    plain = np.flatnonzero(~marked)
    shown = np.unique(plain[np.linspace(0, len(plain) - 1, min(len(plain), _POINTS)).astype(int)]) if len(plain) else plain
    layers = [
        {
            "data": {"values": [{"shard": int(chunks[at]), "value": float(values[at])} for at in places]},
            "mark": {"type": "tick", "thickness": size, "bandSize": size, "color": colour, "opacity": opacity},
            "encoding": {"x": _x("shard", {"zero": False}), "y": _y("value")},
        }
        for places, size, colour, opacity in (
            (shown, 5, "var(--accent)", 0.7),
            (np.flatnonzero(marked)[:_ODD_POINTS], 8, "var(--alarm)", 1),
        )
        if len(places)
    ]
    told = f"{name} by shard: {len(values):,} shards, median {np.median(values):.4g}, {int(marked.sum())} outliers"
    return _svg({"height": 96, "layer": layers}, told)


def _x(field: str, scale: Mapping[str, Any], **axis: Any) -> dict[str, Any]:
    axis = {"tickCount": 4, "labelExpr": _LABEL, "labelFlush": True, **axis}
    return {"field": field, "type": "quantitative", "scale": scale, "axis": axis, "title": None}


def _y(field: str, axis: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    shown = {"tickCount": 3, "labelExpr": _LABEL} if field == "value" else axis
    return {"field": field, "type": "quantitative", "scale": {"zero": field != "value"}, "axis": shown, "title": None, **more}


def _svg(spec: Mapping[str, Any], told: str) -> Markup:
    """Draw, and let the drawing be one picture with an alternative text, as wide as its place."""
    full = {"width": _WIDTH, "background": None, "padding": 2, "config": {**_CONFIG, "aria": False}, **spec}
    svg: str = vl_convert.vegalite_to_svg(full, allowed_base_urls=[])
    head = r'<svg [^>]*?class="marks"[^>]*?(viewBox="[^"]*")>'
    return Markup(re.sub(head, rf'<svg class="chart" role="img" aria-label="{escape(told)}" \1>', svg, count=1))
