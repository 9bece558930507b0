"""The process in which models and native decoders run: `python -m pipeline.engine.child REQUEST_FD ANSWER_FD PARENT_PID`.

In: a `Hello` (configuration, stage names), then batches of samples. Out: `Ready` or `SetupFailed`, then for each batch a
`Started` before each stage and one `Answer`. Frames of the protocol are msgpack behind a 4-byte big-endian length, on file
descriptors of their own, so that a model that prints cannot corrupt them. A process of its own because nothing else survives a
segfault, ends a loop in native code, or gives memory back; pipeline/engine/supervisor.py watches it and decides whom to blame.
Processes that models start (vLLM's engine) end with it, however it ends.
"""

from __future__ import annotations

import ctypes
import faulthandler
import functools
import gc
import importlib
import os
import platform
import resource
import signal
import sys
import threading
import time
import traceback
from bdb import BdbQuit
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from importlib.metadata import distributions
from inspect import getmodulename
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from materia.base import retries
from materia.base.errors import lasting_trouble
from pipeline.engine.messages import (
    Answer,
    Batch,
    Hello,
    Obstacle,
    Ready,
    Reply,
    SetupFailed,
    Span,
    Started,
    Waiting,
    pack_frame,
    read_frame,
)
from stages import notices
from stages.base import Stage
from stages.batching import is_out_of_memory
from stages.records import Row, Sample, StageName, encode_rows
from stages.unexpected import internal_error

if TYPE_CHECKING:
    from pipeline.config import Config

StageFactory = Callable[["Config", Iterable[StageName]], list[Stage]]
"""What makes a worker's stages; `stages.specs:build_stages` outside tests and benchmarks."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
END_SIGNAL = signal.SIGUSR1
"""Has the process that watches over a child end it and all below."""
_REAP_S = 5.0  # what a killed process may take to be gone; one that waits for a broken disk or card takes for ever


def load_stage_factory(path: str) -> StageFactory:
    """Import `package.module:function`."""
    module, _, name = path.partition(":")
    factory: StageFactory = getattr(importlib.import_module(module), name)
    return factory


def run_stages(stages: Sequence[Stage], rows: Sequence[Row], on_stage: Callable[[StageName], None]) -> Answer:
    """Run a batch through the stages in order; only samples flow on, rejections stay where they are.

    Gives one row for each row, in order. `on_stage` is called before each stage.
    """
    rows = list(rows)
    spans: list[Span] = []
    for stage in stages:
        indices = [index for index, row in enumerate(rows) if isinstance(row, Sample)]
        if not indices:
            break
        on_stage(stage.name)
        began_s, began = time.time(), time.perf_counter()
        done = _process(stage, [row for row in rows if isinstance(row, Sample)])
        spans.append(Span(stage.name, began_s, time.perf_counter() - began, len(indices)))
        for index, row in zip(indices, done, strict=True):
            rows[index] = row
    return Answer(rows, spans, notices.drain(), notices.drain_traces())


def run_side_by_side(
    stages: Sequence[Stage], rows: Sequence[Row], rows_at_once: int, on_stage: Callable[[StageName], None]
) -> Answer:
    """The same in steps of `rows_at_once` rows, each stage in a thread of its own and at another step: while the card works for
    one, the CPU decodes and packs for others. A step's rows stay together, so that timing changes no batch and no result.
    """

    def go_on(stage: Stage, step: Future[Answer]) -> Answer:
        before = step.result()
        done = run_stages([stage], before.rows, on_stage)
        return Answer(done.rows, before.spans + done.spans, before.notices + done.notices, before.traces + done.traces)

    with ExitStack() as stack:
        lanes = [stack.enter_context(ThreadPoolExecutor(1)) for _ in stages]
        steps: list[Future[Answer]] = []
        for first in range(0, len(rows), rows_at_once):
            step: Future[Answer] = Future()
            step.set_result(Answer(list(rows[first : first + rows_at_once]), []))
            for stage, lane in zip(stages, lanes, strict=True):
                step = lane.submit(go_on, stage, step)
            steps.append(step)
        answers = [step.result() for step in steps]
    return Answer(
        [row for answer in answers for row in answer.rows],
        [span for answer in answers for span in answer.spans],
        [notice for answer in answers for notice in answer.notices],
        [trace for answer in answers for trace in answer.traces],
    )


def _process(stage: Stage, samples: list[Sample]) -> list[Row]:
    """Stages promise not to raise; should one do so, its rows run alone and those that fail become `internal_error`.

    Raises OSError if a disk is full or read-only, or a storage lets nobody in.
    """
    try:
        return _checked(samples, stage.process(samples))
    except BdbQuit:  # a person left the debugger: inline.py
        raise
    except Exception as error:
        if len(samples) > 1:
            return [row for sample in samples for row in _process(stage, [sample])]
        return [internal_error(samples[0], stage.name, error)]


def _checked(samples: list[Sample], rows: list[Row]) -> list[Row]:
    given = [sample.clip.row for sample in samples]
    got = [row.clip.row if isinstance(row, Sample) else row.row for row in rows]
    if got != given:
        raise RuntimeError(f"the stage gave rows {got} for rows {given}")
    return rows


def _watch_over(parent_pid: int, pipes: tuple[int, ...]) -> None:
    """Fork: the new process returns and works; this one, its parent, ends whatever the models started when it or its own parent
    has ended, however that came about, and then ends as it did.

    As a "subreaper" it becomes the parent of all that outlives its own, also of what left for a session of its own and ignores
    signals, such as vLLM's engine. Nothing else would: a supervisor may be killed itself, with its actor, its driver or its
    node's Ray. A kernel's signal does for the worker: native code that holds the GIL would never see a closed pipe.
    """
    heard = {END_SIGNAL, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, heard)
    signal.signal(signal.SIGTERM, lambda *_: None)  # to all of a node's processes: the actor above decides (notice.py)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, END_SIGNAL)
    if os.getppid() != parent_pid:
        sys.exit(1)
    watcher = os.getpid()
    worker = os.fork()
    if not worker:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != watcher:
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    faulthandler.disable()
    for pipe in pipes:  # held open here, they would not tell the supervisor of the end
        os.close(pipe)
    status = None
    while status is None and signal.sigwait(heard) != END_SIGNAL:
        status = _reaped().get(worker)
    _end_descendants()
    if status is not None and status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the worker's is enough
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-status, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-status})
        os.kill(watcher, -status)
    os._exit(1 if status is None else status)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value)


def _reaped() -> dict[int, int]:
    """Process -> exit status of children that have ended since; minus the signal's number if one ended it."""
    found = {}
    with suppress(ChildProcessError):  # none is left
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found[ended[0]] = os.waitstatus_to_exitcode(ended[1])
    return found


def _end_descendants() -> None:
    """Kill all children; theirs become ours, until there are none."""
    import psutil

    ends = time.monotonic() + _REAP_S
    while (children := psutil.Process().children(recursive=True)) and time.monotonic() < ends:
        for child in children:
            with suppress(psutil.Error):
                child.kill()
        _reaped()
        time.sleep(0.005)


class _CannotSetUp(RuntimeError):
    """A stage's `setup` failed; the message names the stage, the device and the cause."""


def set_up(hello: Hello) -> tuple[list[Stage], Ready]:
    """Build the stages and load their models. Raises RuntimeError naming the stage and the device."""
    from pipeline.config import Config

    notices.begin()
    began = time.perf_counter()
    config = Config.model_validate_json(hello.config_json)
    stages = load_stage_factory(hello.stage_factory)(config, hello.stages)
    models: dict[StageName, str] = {}
    for stage in stages:
        settings = getattr(config, stage.name, None)
        device = getattr(settings, "device", "cpu")
        try:
            stage.setup()
        except Exception as error:
            raise _CannotSetUp(_setup_problem(stage.name, device, error)) from error
        models[stage.name] = f"{getattr(settings, 'backend', 'built in')} on {device}"
    setup_s = round(time.perf_counter() - began, 3)
    cards = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    packages = packages_of(frozenset(name.partition(".")[0] for name in sys.modules))
    return stages, Ready(hello.stages, platform.node(), cards, models, setup_s, packages)


def _setup_problem(name: StageName, device: str, error: Exception) -> str:
    problem = f"{name} on {device}: {type(error).__name__}: {error}"
    if is_out_of_memory(error):
        return f"{problem}; out of memory: book more of the card (num_gpus of the pool), or load less"
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None and not torch.cuda.is_available():
        cards = os.environ.get("CUDA_VISIBLE_DEVICES")
        return f"{problem}; torch {torch.__version__} sees no GPU here (CUDA_VISIBLE_DEVICES: {cards}); see --set device=cpu"
    return problem


@functools.cache
def packages_of(modules: frozenset[str]) -> dict[str, str]:
    """Top-level modules -> the versions of the distributions that they come from, of those that are from one.

    The same as by `importlib.metadata.packages_distributions`, which takes ten times as long: 0.3 s of each worker's start.
    """
    found: dict[str, str] = {}
    for distribution in distributions():
        listed = distribution.read_text("top_level.txt")
        if listed is not None:
            names = {*listed.split()}
        else:
            files = (distribution.read_text("RECORD") or "").splitlines()  # PATH,HASH,SIZE
            paths = (line.partition(",")[0].partition("/") for line in files)
            names = {head if below else getmodulename(head) or "" for head, below, _ in paths}
        for name in modules & names:
            found.setdefault(name, distribution.version)
    return dict(sorted(found.items()))


def _serve(requests: BinaryIO, send: Callable[[Reply], None]) -> None:
    first = read_frame(requests)
    if first is None:
        return
    gc.disable()  # what is imported and loaded stays: collecting meanwhile takes a fifth of a start
    try:
        hello = msgspec.msgpack.decode(first, type=Hello)
        stages, ready = set_up(hello)
    except Exception as error:
        trouble = lasting_trouble(error)
        if trouble is not None:
            send(Obstacle.of(trouble))
            return
        traceback.print_exc()
        send(SetupFailed(str(error) if isinstance(error, _CannotSetUp) else f"{type(error).__name__}: {error}"))
        return
    gc.freeze()  # nor later, each time that all is looked at
    gc.enable()
    send(ready)
    decoder = msgspec.msgpack.Decoder(Batch)
    while (frame := read_frame(requests)) is not None:
        samples = decoder.decode(frame).samples
        before = retries.asked()
        try:
            if hello.rows_at_once is None or len(samples) <= hello.rows_at_once:
                answer: Reply = run_stages(stages, samples, lambda stage: send(Started(stage)))
            else:
                answer = run_side_by_side(stages, samples, hello.rows_at_once, lambda stage: send(Started(stage)))
        except OSError as error:
            trouble = lasting_trouble(error)
            if trouble is None:
                raise
            answer = Obstacle.of(trouble)
        if isinstance(answer, Answer):
            answer.asked = retries.asked().since(before)
        try:
            send(answer)
        except (TypeError, ValueError, OverflowError) as error:
            assert isinstance(answer, Answer)
            send(_what_travels(answer, decoder.decode(frame).samples, hello.stages[-1], error))
    for stage in stages:
        stage.close()


def _what_travels(answer: Answer, samples: list[Sample], stage: StageName, error: Exception) -> Answer:
    """The answer, but for rows in which a stage left what records do not hold, such as a number of numpy's: they are rejected.

    `samples` as they were before the stages, of which the last one is named.
    """
    rows = [
        row if _travels(row) else internal_error(sample, stage, error, "what was found cannot be recorded")
        for row, sample in zip(answer.rows, samples, strict=True)
    ]
    return Answer(rows, answer.spans, answer.notices, answer.traces + notices.drain_traces())


def _travels(row: Row) -> bool:
    try:
        encode_rows([row])
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _pass_breakpoint(*_: object, **__: object) -> None:
    """Instead of a debugger, which has no terminal here."""
    notices.notice("a breakpoint() was passed by; to stop there, run with --engine inline")


def main() -> None:
    """Serve until the request pipe closes."""
    sys.breakpointhook = _pass_breakpoint
    request_fd, answer_fd, parent_pid = map(int, sys.argv[1:4])
    _watch_over(parent_pid, (request_fd, answer_fd))
    with os.fdopen(request_fd, "rb") as requests, os.fdopen(answer_fd, "wb", buffering=0) as answers:
        one_at_a_time = threading.Lock()

        def send(reply: Reply) -> None:
            frame = memoryview(pack_frame(reply))
            with one_at_a_time:
                while frame:
                    frame = frame[answers.write(frame) :]

        retries.be_patient()
        retries.while_waiting(lambda: send(Waiting()))
        _serve(requests, send)


if __name__ == "__main__":
    main()
