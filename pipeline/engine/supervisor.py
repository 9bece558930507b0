"""Runs stages in a child process and keeps what happens there from costing more than the row that causes it.

In: rows of a slice. Out: one row for each, in order; a row that kills its child or overruns its deadline while running alone,
twice, is a rejection. A batch whose child died is first repeated as it was: if the kill came from outside, no batch is formed
differently and no byte of the output changes. Only then its rows run one by one, which finds any number of such rows and
costs a hanging one three deadlines (two, if the pool hands over single rows); bisection would cost six.
"""

from __future__ import annotations

import fcntl
import os
import platform
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import BinaryIO, Literal, NamedTuple

import msgspec
import psutil

from materia.base.retries import Asked
from pipeline.engine.child import END_SIGNAL
from pipeline.engine.environment import for_models
from pipeline.engine.messages import (
    Answer,
    Batch,
    Cause,
    Hello,
    Obstacle,
    Ready,
    Reply,
    SetupFailed,
    Span,
    Started,
    Trouble,
    Waiting,
    pack_frame,
    unpack_frames,
)
from stages.records import Rejection, Row, Sample, StageName, reject

_LOOK_S = 1.0  # how often the memory of a working child is looked at; what it sends, and its end, are heard at once
_DEADLINE_FACTOR = 20  # a row may take so many times the median (engine: decision 5)
_UNMEASURED_SHARE = 1 / 4  # of min_deadline_s, for each row of a batch, until a median is known
CLOSE_S = 10.0  # in which models may end the processes and free the memory that they hold
_LOG_LIMIT = 1 << 20
_LOG_TAIL = 4000


Death = Literal["worker_crash", "timeout"]


class SetupError(RuntimeError):
    """A child cannot set its stages up; the message names the cause, `log` is the end of what the child wrote."""

    def __init__(self, message: str, log: str) -> None:
        super().__init__(message)
        self.log = log


@dataclass(frozen=True)
class Limits:
    """What a child may use. `rows_per_batch` rows run together; `threads` is what numeric libraries may start; without `cards`
    it sees no GPU, for somebody else has booked them."""

    min_deadline_s: float
    setup_deadline_s: float
    memory_limit_gib: float
    rows_per_batch: int
    threads: int
    cards: bool

    @property
    def memory(self) -> str:
        """The limit, as messages name it."""
        return f"memory_limit_gib = {self.memory_limit_gib:g} of the pool"


class Processed(NamedTuple):
    """Rows in the order given, what each stage had when, a note (with the end of its log) for each death of a child and each
    error that nobody foresaw, what the models had to say (stages/notices.py), the introduction of a child that was asked for
    the first time, and why children ended."""

    rows: list[Row]
    spans: list[Span]
    notes: list[str]
    notices: list[str]
    ready: list[Ready]
    troubles: list[Trouble]
    asked: list[Asked]

    def take(self, answer: Answer) -> list[Row]:
        """Keep what is told of a batch, and give its rows."""
        self.spans.extend(answer.spans)
        self.asked.append(answer.asked)
        self.notices.extend(answer.notices)
        self.notes.extend(answer.traces)
        return answer.rows


def in_batches(rows: list[Row], rows_per_batch: int, run: Callable[[list[Sample]], list[Row]]) -> None:
    """Put what becomes of the samples among the rows in their place, a batch at a time, in order."""
    indices = [index for index, row in enumerate(rows) if isinstance(row, Sample)]
    samples = [row for row in rows if isinstance(row, Sample)]
    for first in range(0, len(samples), rows_per_batch):
        batch = slice(first, first + rows_per_batch)
        for index, row in zip(indices[batch], run(samples[batch]), strict=True):
            rows[index] = row


class Supervisor:
    """One child process and its restarts. The child loads its models while the caller goes on; `process` waits for it."""

    def __init__(self, hello: Hello, limits: Limits) -> None:
        self._hello = hello
        self._limits = limits
        self._row_seconds: deque[float] = deque(maxlen=64)
        self._ready = False
        self._introduced = False
        self._introductions: list[Ready] = []
        self._grew: list[Trouble] = []
        self._child = _Child(hello, limits)

    def process(self, rows: list[Row]) -> Processed:
        """Run the samples among the rows through the stages; rejections stay where they are.

        Raises SetupError, and OSError if a disk is full or read-only, or a storage lets nobody in.
        """
        done = Processed(list(rows), [], [], [], [], [], [])
        in_batches(done.rows, self._limits.rows_per_batch, lambda samples: self._run(samples, done))
        done.ready.extend(self._introductions)
        self._introductions.clear()
        done.troubles.extend(self._grew)
        self._grew.clear()
        return done

    def set_up(self) -> None:
        """Wait until the child has loaded its models.

        Raises SetupError, and OSError if a disk is full or read-only, or a storage lets nobody in.
        """
        for last in (False, True):
            if self._ready:
                return
            try:
                reply = self._child.ask(None, self._limits.setup_deadline_s)
            except _ChildDied as death:
                self._child.end()
                if last or death.reason == "timeout":
                    raise self._setup_error(death.message, death.log) from None
                self._restart()  # perhaps killed from outside
                continue
            if isinstance(reply, Obstacle):
                self._child.end()
                raise reply.error
            if isinstance(reply, SetupFailed):
                log = self._child.last_words()
                self._child.end()
                raise self._setup_error(reply.message, log)
            assert isinstance(reply, Ready)
            if self._child.memory_gib() > self._limits.memory_limit_gib:
                self._child.end()
                raise self._setup_error(f"out of memory: its models need more than {self._limits.memory}", "")
            if not self._introduced:
                self._introductions.append(reply)
            self._ready = self._introduced = True

    def close(self) -> None:
        """End the child and every process that it started; one that waits for work may close its models before."""
        self._child.dismiss()
        self._child.end()

    def _run(self, samples: list[Sample], done: Processed) -> list[Row]:
        """The batch as it is, twice if its child dies; then row by row; a single row that fails twice is to blame.

        Twice in the same way: where one of the two deaths was of another kind, it may have come from outside, and a third
        attempt tells.
        """
        seen: list[_ChildDied] = []
        while len(seen) < 2 or (len(samples) == 1 and len(seen) < 3 and seen[0].message != seen[1].message):
            try:
                answer = self._attempt(samples)
            except _ChildDied as death:
                failure = death
                seen.append(death)
                done.notes.append(f"rows {[sample.clip.row for sample in samples]}: {failure.message}\n{failure.log}")
                if failure.reason == "timeout" and len(samples) > 1:
                    break  # not an outside kill, and a deadline is dear
            else:
                done.troubles.extend(self._trouble(death, samples, "killed") for death in seen)
                done.troubles.extend(self._full_cards(answer))
                return done.take(answer)
        done.troubles.extend(self._trouble(death, samples, "clip") for death in seen)
        if len(samples) > 1:
            return [row for sample in samples for row in self._run([sample], done)]
        return [reject(samples[0], failure.stage or self._hello.stages[0], failure.reason, failure.message)]

    def _trouble(self, death: _ChildDied, samples: list[Sample], cause: Cause) -> Trouble:
        """For the run's log; a child that swelled did so whatever became of the rows afterwards."""
        rows = [sample.clip.row for sample in samples]
        return Trouble("out_of_memory" if death.swollen else cause, self._hello.stages, platform.node(), rows, death.message)

    def _full_cards(self, answer: Answer) -> list[Trouble]:
        """One for each row that did not fit the card alone: the batch was halved as far as that goes (stages/batching.py)."""
        lost = [row for row in answer.rows if isinstance(row, Rejection) and row.reason == "internal_error"]
        full = [row for row in lost if "out of memory" in row.message]
        return [Trouble("out_of_memory", [row.stage], platform.node(), [row.row], row.message) for row in full]

    def _attempt(self, samples: list[Sample]) -> Answer:
        self.set_up()
        began = time.monotonic()
        try:
            answer = self._child.ask(Batch(samples), self._deadline_s(len(samples)))
        except _ChildDied:
            self._restart()
            raise
        if isinstance(answer, Obstacle):
            raise answer.error
        assert isinstance(answer, Answer)
        self._row_seconds.append((time.monotonic() - began) / len(samples))
        if self._child.memory_gib() > self._limits.memory_limit_gib:
            self._restart()  # it grew over many rows; nobody is to blame
            message = f"it grew beyond {self._limits.memory}"
            self._grew.append(Trouble("out_of_memory", self._hello.stages, platform.node(), [], message))
        return answer

    def _deadline_s(self, n_rows: int) -> float:
        least = self._limits.min_deadline_s
        row_s = median(self._row_seconds) * _DEADLINE_FACTOR if self._row_seconds else least * _UNMEASURED_SHARE
        return max(least, row_s * n_rows)

    def _restart(self) -> None:
        self._child.end()
        self._child = _Child(self._hello, self._limits)
        self._ready = False

    def _setup_error(self, cause: str, log: str) -> SetupError:
        return SetupError(f"a worker for {', '.join(self._hello.stages)} cannot start on {platform.node()}: {cause}", log)


class _ChildDied(Exception):
    """A child ended or was ended while it should have answered. `message` is the same in every run; `log` need not be."""

    def __init__(self, reason: Death, message: str, stage: StageName | None, log: str, swollen: bool) -> None:
        self.reason: Death = reason
        self.message = message
        self.stage = stage
        self.log = log
        self.swollen = swollen


class _Child:
    """A running `python -m pipeline.engine.child`: its pipes, its log, its end."""

    def __init__(self, hello: Hello, limits: Limits) -> None:
        self._limits = limits
        self._stage: StageName | None = None
        self._idle = False
        self._received = bytearray()
        self._log = _log_file()
        request_fd, self._requests = os.pipe()
        self._answers, answer_fd = os.pipe()
        # -P: the current folder is not searched for modules
        command = [sys.executable, "-P", "-X", "faulthandler", "-m", "pipeline.engine.child"]
        self._process = subprocess.Popen(
            [*command, str(request_fd), str(answer_fd), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(request_fd, answer_fd),
            start_new_session=True,
            env=_environment(hello.import_path, limits),
        )
        os.close(request_fd)
        os.close(answer_fd)
        os.set_blocking(self._requests, False)
        self._unsent = memoryview(pack_frame(hello))
        self._send()  # so that models load while the caller goes on

    def ask(self, request: msgspec.Struct | None, deadline_s: float) -> Reply:
        """Send a request (None: the greeting is still to be answered) and wait. Raises _ChildDied."""
        if request is not None:
            self._unsent = memoryview(pack_frame(request))
            self._trim_log()
        self._idle = False
        ends = time.monotonic() + deadline_s
        while True:
            if self._wait_for_bytes(min(_LOOK_S, max(0.0, ends - time.monotonic()))):
                for reply in unpack_frames(self._received):
                    if isinstance(reply, Waiting):
                        ends = time.monotonic() + deadline_s
                    elif isinstance(reply, Started):
                        self._stage = reply.stage
                    else:
                        self._idle = True
                        return reply
            elif time.monotonic() >= ends:
                limit = f"engine.min_deadline_s = {self._limits.min_deadline_s:g}"
                self._die("timeout", f"still running at its deadline, the larger of {limit} and 20 times the usual; ended")
            elif self.memory_gib() > self._limits.memory_limit_gib:
                self._die(
                    "worker_crash", f"out of memory: its worker went beyond {self._limits.memory} and was ended", swollen=True
                )

    def memory_gib(self) -> float:
        """Resident memory of the child and its descendants."""
        total = 0
        with suppress(psutil.Error):  # it just ended, which the pipe tells
            child = psutil.Process(self._process.pid)
            for process in (child, *child.children(recursive=True)):
                total += process.memory_info().rss
        return total / 2**30

    def dismiss(self) -> None:
        """If it waits for work, let it close its stages and exit; `end` does the rest."""
        if self._idle and not self._log.closed:
            self._idle = False
            os.dup2(self._answers, self._requests, inheritable=False)  # closes the pipe of requests, keeps the number
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=CLOSE_S)

    def end(self) -> None:
        """End all its processes and free pipes and log; may be called again."""
        if self._log.closed:
            return
        self._kill()
        os.close(self._requests)
        os.close(self._answers)
        self._log.close()

    def _kill(self) -> int:
        """Its exit status; minus the signal's number if a signal ended it before this did."""
        if not self._hung_up():  # else it is ending
            self._process.send_signal(END_SIGNAL)  # whoever watches over the child kills all below (child.py)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=CLOSE_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def _hung_up(self) -> bool:
        poll = select.poll()
        poll.register(self._answers, select.POLLHUP)
        return bool(poll.poll(0))

    def _wait_for_bytes(self, timeout_s: float) -> bool:
        """Send and receive what is possible within that time; whether anything was received."""
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        if self._unsent:
            poll.register(self._requests, select.POLLOUT)
        events = dict(poll.poll(timeout_s * 1000))
        if self._requests in events:
            self._send()
        if self._answers not in events:
            return False
        data = os.read(self._answers, 1 << 20)
        if not data:
            status = self._kill()
            ended = f"died of {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
            hint = " (out of memory?)" if status == -signal.SIGKILL else ""
            self._die("worker_crash", f"its worker {ended}{hint}")
        self._received += data
        return True

    def _send(self) -> None:
        """As much of the request as the pipe takes now."""
        try:
            self._unsent = self._unsent[os.write(self._requests, self._unsent) :]
        except BrokenPipeError:
            self._unsent = memoryview(b"")  # the answers' end tells the rest

    def _die(self, reason: Death, message: str, swollen: bool = False) -> None:
        raise _ChildDied(reason, message, self._stage, self.last_words(), swollen)

    def last_words(self) -> str:
        """The end of what it wrote to standard output and error."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), _LOG_TAIL, max(0, size - _LOG_TAIL)).decode(errors="replace")

    def _trim_log(self) -> None:
        if os.fstat(self._log.fileno()).st_size > _LOG_LIMIT:
            self._log.truncate(0)


def _log_file() -> BinaryIO:
    """What a child writes goes to memory: on a full disk a print would fail. Its end is the child's end."""
    if not hasattr(os, "memfd_create"):
        return tempfile.TemporaryFile("a+b")
    log = os.memfd_create("log")
    fcntl.fcntl(log, fcntl.F_SETFL, os.O_APPEND)  # after a truncation, too, it is written to at its end
    return os.fdopen(log, "a+b")


def _environment(import_path: list[str], limits: Limits) -> dict[str, str]:
    """The parent's, in which Ray names the cards of an actor, with the driver's import path."""
    path = {"PYTHONPATH": os.pathsep.join(import_path), "PYTHONHASHSEED": "0"}
    hidden = {} if limits.cards else {"CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **for_models(limits.threads), **path, **hidden}
