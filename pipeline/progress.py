"""What a person sees while a job runs: clips done, the pace, the time left, the slowest step, and notices of models.

In: what is waited for until the first slice is there, then the reports of slices. Out: on standard error, a live line on a
terminal; otherwise a plain line every ten seconds at first, every minute later, and whenever something else is waited for;
above it each notice once, however many workers say it, and at the end how often it was said. The pace is that of the last
minute or less, not of the whole run, whose start was slow (pace.py).
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text

from materia.base.terminal import duration, plural, printable
from pipeline.engine.messages import Report
from pipeline.pace import Pace
from pipeline.pools import Pool
from pipeline.snapshot import Snapshot
from stages.records import StageName

_PLAIN_EVERY_S, _PLAIN_SELDOM_S = 10.0, 60.0
_LIVE_EVERY_S = 0.5
_KEPT_ERRORS = 5
_SUMMED_UP = 4  # slices for each worker of the largest pool, from which on a job's pace says something
_MOST_NOTICES = 20  # that are shown; all are in the run's log


class Planning:
    """A context in which the rows that were planned are shown, once that takes longer than a moment. `clock`: seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = Console(stderr=True)
        self._clock = clock
        self._began = self._shown = clock()
        self._live: Live | None = None

    def __enter__(self) -> Planning:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, rows: int) -> None:
        """So many rows are planned."""
        now = self._clock()
        if now - self._shown < (_LIVE_EVERY_S if self._console.is_terminal else _PLAIN_EVERY_S):
            return
        self._shown = now
        text = f"planning, {plural(rows, 'row')} so far, {duration(now - self._began)}"
        if not self._console.is_terminal:
            sys.stderr.write(text + "\n")
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(Text(text), refresh=True)


class Progress:
    """A context in which reports are counted and shown. `clock`: seconds.

    What other threads read is copied by `dict`, at once; while `items` are listed, garbage collection lets others in.
    """

    def __init__(self, rows: int, done: int, pools: Sequence[Pool], clock: Callable[[], float] = time.monotonic) -> None:
        self._rows = rows
        self._done_before = self._done = done
        self._pools = list(pools)
        self._workers = {stage: pool.workers for pool in pools for stage in pool.stages}
        self._kept = self._slices = 0
        self._rejected: Counter[str] = Counter()
        self._nodes: dict[str, float] = {}  # when a worker there finished a slice last
        self._errors: deque[str] = deque(maxlen=_KEPT_ERRORS)
        self._seconds: defaultdict[StageName, float] = defaultdict(float)
        self._notices: Counter[str] = Counter()
        self._console = Console(stderr=True)
        self._clock = clock
        self._began = clock()
        self._pace = Pace()
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
        self._done += report.rows
        self._slices += 1
        self._kept += report.kept
        self._rejected.update(report.rejected)
        self._nodes[report.node] = self._clock()
        self._errors.extend(note.strip().partition("\n")[0] for note in report.notes)
        for stage, seconds in report.seconds.items():
            self._seconds[stage] += seconds
        self._pace.add(self._clock(), report.rows, report.wall_s, self._step_s(report))
        for notice in report.notices:
            crowded = notice not in self._notices and len(self._notices) >= _MOST_NOTICES
            shown = "others, see workers.log" if crowded else notice
            if shown not in self._notices:
                self._say(f"notice: {shown}")
            self._notices[shown] += 1

    def tell(self, waits_for: str) -> None:
        """Say what the first slice waits for now, at once."""
        if waits_for != self._waits_for and self._done == self._done_before:
            self._waits_for = waits_for
            self._show()

    def line(self) -> str:
        """The state in one line."""
        clips, now = f"{self._done}/{plural(self._rows, 'clip')}", self._clock()
        finished = self._done - self._done_before
        if not finished:
            return f"{clips}, {self._waits_for}, {duration(now - self._began)}"
        per_s, over_s = self._pace.rate(now)
        parts = [
            clips,
            f"{self._kept} kept",
            f"{self._rejected.total()} rejected",
            f"{per_s:.2f} clips/s over the last {duration(over_s)}",
            f"about {duration(self._pace.left_s(now, self._rows - self._done))} left",
        ]
        if seconds := dict(self._seconds):
            slowest = max(seconds, key=lambda stage: seconds[stage] / self._workers.get(stage, 1))
            parts.append(f"slowest step: {slowest}, {1000 * seconds[slowest] / finished:.0f} ms of a worker a clip")
        return ", ".join(parts)

    def summary(self) -> str:
        """How fast it was, against what its workers could have done without ever waiting; nothing if nothing was done."""
        pace, light = self._pace.overall(self._clock()), self.snapshot().speed_of_light
        if not light or self._slices < _SUMMED_UP * max(pool.workers for pool in self._pools):
            return ""  # mostly its beginning and its end
        share = 100 * min(pace / light, 1)
        return f"{pace:.2f} clips/s since the first slice began, {share:.0f} % of what the workers could do"

    def snapshot(self) -> Snapshot:
        """The state, for others; of what only the driver knows, nothing. May be called from another thread."""
        now, done = self._clock(), self._done - self._done_before
        per_s, over_s = self._pace.rate(now) if done else (0.0, 0.0)
        return Snapshot(
            rows=self._rows,
            done_before=self._done_before,
            done=done,
            kept=self._kept,
            rejected=dict(self._rejected),
            seconds={stage: round(seconds, 3) for stage, seconds in dict(self._seconds).items()},
            pools=self._pools,
            elapsed_s=round(now - self._began, 3),
            clips_per_s=round(per_s, 4),
            over_s=round(over_s, 3),
            left_s=round(self._pace.left_s(now, self._rows - self._done), 3) if done else None,
            slice_s=round(self._pace.slice_s, 3),
            waits_for="" if done else self._waits_for,
            nodes={node: round(now - last, 3) for node, last in dict(self._nodes).items()},
            errors=list(reversed(self._errors)),
        )

    def _step_s(self, report: Report) -> float:
        """What a slice takes the slowest pool's workers together: how often slices come when all work."""
        return max((pool.seconds(report.seconds) / pool.workers for pool in self._pools), default=0.0) or report.wall_s

    def _say(self, text: str) -> None:
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def _keep_showing(self) -> None:
        while not self._stopped.wait(self._pause_s()):
            self._show()

    def _pause_s(self) -> float:
        """Until the next line. A log of a long job should not consist of them."""
        if self._live is not None:
            return _LIVE_EVERY_S
        return min(max(_PLAIN_EVERY_S, (self._clock() - self._began) / 10), _PLAIN_SELDOM_S)

    def _show(self) -> None:
        if self._live is None:
            sys.stderr.write(self.line() + "\n")
        else:
            self._live.update(Text(self.line(), no_wrap=True, overflow="ellipsis"), refresh=True)
