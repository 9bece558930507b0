"""Results as a page: one table a step, what missed its target, and what was not measured, with the reason."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from tools.gpu_check.runner import Result
from tools.gpu_check.step import Row, Step, misses


class Results(msgspec.Struct):
    """Everything of one run of the check; `date` in ISO 8601, UTC."""

    command: str
    date: str
    steps: list[Result]


HEAD = """# What was measured on a card

Written by `{command}`; tools/gpu_check says what a machine needs for it. Weights are random, of the true
architecture and size: speed and memory do not depend on their values. `floor_share` is the time that the card would need for
the operations (over its measured matrix rate) or for the bytes (over its measured copy rate), whichever is longer, divided by
the time it took.
"""


def page(results: Results) -> str:
    """The page of a run."""
    parts = [HEAD.format(command=_plain(results.command)), f"Measured {results.date}.\n", _missed(results.steps)]
    return "\n".join([*parts, *(_section(step) for step in results.steps)])


def page_without_a_card(steps: Sequence[Step], command: str) -> str:
    """The page as long as nothing was measured: it says so for every line."""
    lines = [f"| {step.name} | {step.what} | not measured yet |" for step in steps]
    return "\n".join([HEAD.format(command=command), "| step | what | result |", "|---|---|---|", *lines, ""])


def _missed(steps: Sequence[Result]) -> str:
    missed = [(step.name, row) for step in steps for row in step.rows if misses(row)]
    aimed = sum("target" in row for step in steps for row in step.rows)
    if not missed:
        return f"All {aimed} targets are met.\n" if aimed else "No target was measured.\n"
    lines = [f"- {name}: {_words(row)}" for name, row in missed]
    return "\n".join([f"{len(missed)} of {aimed} targets are missed:\n", *lines, ""])


def _words(row: Row) -> str:
    return ", ".join(f"{name} {_cell(value)}" for name, value in row.items())


def _section(step: Result) -> str:
    title = f"## {step.name}: {step.what}\n"
    note = "" if step.status == "ok" else f"**{step.status}**: {_plain(step.reason)}\n"
    columns = list(dict.fromkeys(column for row in step.rows for column in row))
    if not columns:
        return "\n".join([title, note])
    head = [" | ".join(["", *columns, ""]).strip(), "|" + "---|" * len(columns)]
    body = ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in step.rows]
    return "\n".join([title, *([note] if note else []), *head, *body, ""])


def _cell(value: str | int | float | bool | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return _plain(value)


def _plain(text: object) -> str:
    """Nothing that a table or a page would take for its own, and no path of this machine."""
    return re.sub(r"/[\w./-]+/", "", str(text)).replace("|", "/").replace("<", "&lt;").replace("\n", " ")
