"""Evaluates what the dashboard asks of Prometheus, over two scrapes of an exporter: as much of PromQL as it uses."""

import json
from pathlib import Path

import promql_parser
from prometheus_client.parser import text_string_to_metric_families

Series = frozenset[tuple[str, str]]


DASHBOARD = json.loads((Path(__file__).parents[2] / "configs" / "grafana.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def scrape(text: str, strict: bool = True) -> dict[tuple[str, Series], float]:
    """(name, labels) -> value. The parser refuses what is no text format of Prometheus; `strict`: more than it does."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert not strict or (family.documentation and family.type != "unknown"), family.name
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert not strict or key not in found, key
            found[key] = sample.value
    return found


def evaluate(query: str, before: dict, after: dict, seconds: float) -> dict[Series, float]:
    """Labels -> value, of a query at the time of the second scrape; rates are those between the two."""
    return _value(promql_parser.parse(query), before, after, seconds)


def _value(node, before, after, seconds):
    match type(node).__name__:
        case "NumberLiteral":
            return node.val
        case "ParenExpr":
            return _value(node.expr, before, after, seconds)
        case "VectorSelector":
            return _selected(node, after)
        case "AggregateExpr":
            assert str(node.op) == "sum"
            return _sum(_value(node.expr, before, after, seconds), set(node.modifier.labels))
        case "BinaryExpr":
            left, right = (_value(side, before, after, seconds) for side in (node.lhs, node.rhs))
            return _both(str(node.op), left, right, node.modifier)
        case "Call" if node.func.name == "rate":
            (matrix,) = node.args
            then, now = (_selected(matrix.vector_selector, one) for one in (before, after))
            return {labels: (value - then[labels]) / seconds for labels, value in now.items() if labels in then}
        case "Call" if node.func.name == "histogram_quantile":
            share, buckets = node.args
            return _quantile(_value(share, before, after, seconds), _value(buckets, before, after, seconds))
    raise AssertionError(f"the dashboard asks for more than is understood here: {node}")


def _selected(selector, scraped):
    wanted = [(matcher.name, str(matcher.op), matcher.value) for matcher in selector.matchers.matchers]
    assert all(op.endswith("Equal") for _, op, _ in wanted), wanted
    chosen = {}
    for (name, labels), value in scraped.items():
        if name == selector.name and all(dict(labels).get(label, "") == text for label, _, text in wanted):
            chosen[labels] = value
    return chosen


def _sum(values, by):
    sums = {}
    for labels, value in values.items():
        kept = frozenset((name, text) for name, text in labels if name in by)
        sums[kept] = sums.get(kept, 0.0) + value
    return sums


def _both(op, left, right, modifier):
    if isinstance(left, float):
        return {labels: left * value for labels, value in right.items()}
    if isinstance(right, float):
        assert op == ">"
        return {labels: value for labels, value in left.items() if value > right}
    assert op in ("/", "and") and not (modifier and modifier.matching)  # all labels are equal
    return {
        labels: value / right[labels] if op == "/" and right[labels] else value
        for labels, value in left.items()
        if labels in right
    }


def _quantile(share, buckets):
    by_rest = {}
    for labels, value in buckets.items():
        rest = frozenset((name, text) for name, text in labels if name != "le")
        by_rest.setdefault(rest, []).append((float(dict(labels)["le"]), value))
    found = {}
    for rest, counts in by_rest.items():
        counts.sort()
        if total := counts[-1][1]:
            assert counts[-1][0] == float("inf")
            found[rest] = next(bound for bound, count in counts if count >= share * total)
    return found
