"""What `materia validate` found wrong with an output, and what to do about it; printing it for a person.

In: findings, one at a time. Out: a `Validation`, and lines: one a finding, whole, wherever they are printed to.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from rich.console import Console
from rich.markup import escape

from materia.base.terminal import plural, printable
from materia.dataset.layout import FOLDERS

MAX_FINDINGS = 1000
"""Findings that a report keeps word by word; the others are counted."""
Severity = Literal["error", "warning"]

BUILT_AGAIN = "materia run with the same configuration, input and output builds it again"
"""Of a file that is not what was committed."""
FINISHED = "materia run with the same configuration, input and output finishes the job"
PASSED_OVER = f"readers pass it over; {FINISHED}, or delete it"
_MADE_ANEW = "copy it back from where there is a good one, or build another output with materia run"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong, in `file` (relative to the output), with sample `key` where there is one; `cure`: what to do."""

    severity: Severity
    file: str
    key: str | None
    message: str
    cure: str = ""


class Validation(msgspec.Struct, kw_only=True):
    """What was read and what was found."""

    chunks: int = 0
    samples: int = 0
    rejections: int = 0
    errors: int = 0
    warnings: int = 0
    findings: list[Finding] = []

    @property
    def ok(self) -> bool:
        """No error; warnings are not errors."""
        return self.errors == 0

    def add(
        self, file: str, message: str, key: str | None = None, severity: Severity = "error", cure: str | None = None
    ) -> None:
        """Count a finding, and keep it while there are few. Without a `cure`, an error gets that of its file."""
        if severity == "error":
            self.errors += 1
        else:
            self.warnings += 1
        if len(self.findings) < MAX_FINDINGS:
            told = cure if cure is not None else _cure(file) if severity == "error" else ""
            self.findings.append(Finding(severity=severity, file=file, key=key, message=message, cure=told))


def _cure(file: str) -> str:
    """Of a chunk's file that is wrong though it may be what was committed: without its record it is built again."""
    folder, _, name = file.partition("/")
    if folder not in FOLDERS:
        return _MADE_ANEW
    chunk, _, _ = name.partition(".")[0].partition("-")
    return f"delete commits/{chunk}.json; then {BUILT_AGAIN}"


def render(report: Validation, console: Console) -> None:
    """Print a report for a person, a line a finding, never wrapped; nothing that a shard contains can move the cursor."""

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False)

    for finding in report.findings:
        colour = "red" if finding.severity == "error" else "yellow"
        where = finding.file if finding.key is None else f"{finding.file} {finding.key}"
        cure = f"; {finding.cure}" if finding.cure else ""
        what = f"{printable(finding.message)}{printable(cure)}"
        say(f"[{colour}]{finding.severity}[/] {escape(printable(where, 5000))}: {escape(what)}")
    hidden = report.errors + report.warnings - len(report.findings)
    if hidden:
        say(f"... and {hidden} more")
    errors = "[green]no errors[/]" if report.ok else f"[red]{plural(report.errors, 'error')}[/]"
    read = ", ".join(
        plural(count, noun)
        for count, noun in ((report.chunks, "chunk"), (report.samples, "sample"), (report.rejections, "rejection"))
    )
    say(f"{read}: {errors}, {plural(report.warnings, 'warning')}")
