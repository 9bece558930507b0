"""Why rows became no samples: rejections by reason, with examples and what to do about each.

In: an output's committed rejects. Out: `Rejections`, plain data that turns into JSON, and rows of a table for a person.
"""

from __future__ import annotations

import msgspec

from materia.base.terminal import plural, printable
from materia.dataset.layout import commits, require_output
from materia.dataset.reader import read_table
from stages.specs import CURES

EXAMPLES = 2
"""Of a reason, with different messages."""
COLUMNS = ["stage", "reason", "rows", "examples", "what to do"]
_NO_CURE = "see the message"
_NAME_CHARS, _TOLD_CHARS = 60, 300


class Example(msgspec.Struct, frozen=True):
    """One rejected row; `key` is null if it was too broken to have one."""

    row: int
    key: str | None
    message: str


class Why(msgspec.Struct, kw_only=True):
    """Rejections of one reason; `share` of all rows. `cure`: which field to change, or what of the rows."""

    stage: str
    reason: str
    count: int = 0
    share: float = 0.0
    examples: list[Example] = []
    cure: str


class Rejections(msgspec.Struct, kw_only=True):
    """All of them, the most frequent reason first; `rows` and `rejections` of the committed chunks."""

    rows: int = 0
    rejections: int = 0
    reasons: list[Why] = []


def collect_rejections(out: str) -> Rejections:
    """Read the rejects of every committed chunk. Raises OutputError for no output or a broken table."""
    require_output(out)
    found: dict[tuple[str, str], Why] = {}
    total = Rejections()
    for commit in commits(out):
        table = read_table(out, commit, "rejects", ["stage", "reason", "row", "key", "message"])
        total.rows += commit.rows
        total.rejections += table.num_rows
        for row in table.to_pylist():
            why = found.setdefault(at := (row["stage"], row["reason"]), Why(stage=at[0], reason=at[1], cure=cure(at[1])))
            why.count += 1
            if len(why.examples) < EXAMPLES and row["message"] not in [example.message for example in why.examples]:
                why.examples.append(Example(row["row"], row["key"], row["message"]))
    for why in found.values():
        why.share = why.count / total.rows
    total.reasons = sorted(found.values(), key=lambda why: (-why.count, why.stage, why.reason))
    return total


def cure(reason: str) -> str:
    """What to do about a reason; of a stage of your own that says nothing about it: see the message."""
    return CURES.get(reason, _NO_CURE)


def headline(rejections: Rejections) -> str:
    """How many, and when what is done about them shows."""
    counts = f"{plural(rejections.rejections, 'rejection')} of {plural(rejections.rows, 'row')}"
    return f"{counts}; what you change takes effect in a new output" if rejections.rejections else counts


def table_rows(rejections: Rejections, between: str) -> list[list[str]]:
    """A row of `COLUMNS` for each reason; `between` its examples. What a manifest holds cannot move the cursor."""
    return [
        [
            printable(why.stage, _NAME_CHARS),
            printable(why.reason, _NAME_CHARS),
            f"{why.count:,} ({100 * why.share:.1f} %)",
            between.join(_told(example) for example in why.examples),
            why.cure,
        ]
        for why in rejections.reasons
    ]


def _told(example: Example) -> str:
    who = f"row {example.row}" if example.key is None else f"row {example.row}, {example.key}"
    return printable(f"{who}: {example.message}", _TOLD_CHARS)
