"""What a person sees while a job runs: clips/s, kept, rejected, time left, the slowest step, and notices of models.

In: what is waited for until the first slice is there, then the reports of slices. Out: on standard error, a live line on a
terminal, otherwise a plain line every ten seconds and whenever something else is waited for; above it each notice once, however
many workers say it, and at the end how often it was said.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.text import Text

from materia.base.terminal import printable
from pipeline.engine.messages import Report
from stages.records import StageName

_PLAIN_EVERY_S = 10.0
_LIVE_EVERY_S = 0.5
_MOST_NOTICES = 20  # that are shown; all are in the run's log


class Progress:
    """A context in which reports are counted and shown. `workers`: stage -> workers that share its work."""

    def __init__(self, rows: int, done: int, workers: Mapping[StageName, int]) -> None:
        self._rows = rows
        self._done_before = self._done = done
        self._workers = workers
        self._kept = 0
        self._rejected = 0
        self._seconds: defaultdict[StageName, float] = defaultdict(float)
        self._notices: Counter[str] = Counter()
        self._console = Console(stderr=True)
        self._began = time.monotonic()
        self._working_since = 0.0
        self._waits_for = "starting"
        self._live: Live | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_showing, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        if self._live is not None:
            self._live.stop()
        for notice, times in self._notices.items():
            if times > 1:
                self._say(f"noticed {times} times: {notice}")

    def add(self, report: Report) -> None:
        """Count a finished slice."""
        if not self._working_since:  # loading models took long, but is over
            self._working_since = time.monotonic() - sum(report.seconds.values())
        self._done += report.rows
        self._kept += report.kept
        self._rejected += report.rows - report.kept
        for stage, seconds in report.seconds.items():
            self._seconds[stage] += seconds
        for notice in report.notices:
            crowded = notice not in self._notices and len(self._notices) >= _MOST_NOTICES
            shown = "others, see workers.log" if crowded else notice
            if shown not in self._notices:
                self._say(f"notice: {shown}")
            self._notices[shown] += 1

    def tell(self, waits_for: str) -> None:
        """Say what the first slice waits for now, at once."""
        if waits_for != self._waits_for and not self._working_since:
            self._waits_for = waits_for
            self._show()

    def line(self) -> str:
        """The state in one line."""
        finished = self._done - self._done_before
        if not finished:
            return f"{self._done}/{self._rows} clips, {self._waits_for}, {_span(time.monotonic() - self._began)}"
        rate = finished / max(time.monotonic() - self._working_since, 1e-3)
        parts = [
            f"{self._done}/{self._rows} clips",
            f"{rate:.2f}/s",
            f"{self._kept} kept",
            f"{self._rejected} rejected",
            f"{_span((self._rows - self._done) / rate)} left",
        ]
        if self._seconds:
            slowest = max(self._seconds, key=lambda stage: self._seconds[stage] / self._workers.get(stage, 1))
            parts.append(f"slowest step: {slowest} {1000 * self._seconds[slowest] / finished:.0f} ms/clip")
        return ", ".join(parts)

    def _say(self, text: str) -> None:
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def _keep_showing(self) -> None:
        while not self._stopped.wait(_PLAIN_EVERY_S if self._live is None else _LIVE_EVERY_S):
            self._show()

    def _show(self) -> None:
        if self._live is None:
            sys.stderr.write(self.line() + "\n")
        else:
            self._live.update(Text(self.line(), no_wrap=True, overflow="ellipsis"), refresh=True)


def _span(seconds: float) -> str:
    """90 -> "1:30", 3700 -> "1:01:40"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
