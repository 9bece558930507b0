"""The line that a person watches."""

import gc
import sys
import threading
import time

import numpy as np
import pytest

from materia.base.terminal import duration
from pipeline.engine.messages import Report, Span
from pipeline.pace import Pace
from pipeline.pools import Pool
from pipeline.progress import Progress


def report(rows, kept, notices=(), **seconds):
    rejected = {"no_subject": rows - kept} if kept < rows else {}
    spans = [Span(stage, 0.0, taken, rows) for stage, taken in seconds.items()]
    return Report(0, 0, rows, kept, rejected, spans, sum(seconds.values()), [], "", "", notices=list(notices))


@pytest.fixture
def in_quick_turns():
    """Of threads: whenever one may be interrupted, which collecting garbage does wherever an object is made."""
    before = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(20)
    gc.callbacks.append(lambda *_: time.sleep(1e-6))
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before[1])
    gc.callbacks.pop()
    gc.set_threshold(*before[0])


@pytest.mark.usefixtures("in_quick_turns")
@pytest.mark.parametrize("told", [Progress.snapshot, Progress.line], ids=lambda told: told.__name__)
def test_the_state_may_be_asked_at_any_moment_from_another_thread(told):
    progress, over, found = Progress(rows=10**6, done=0, pools=[]), threading.Event(), []

    def look():
        try:
            while not over.is_set():
                told(progress)
        except RuntimeError as error:
            found.append(error)

    looking = threading.Thread(target=look)
    looking.start()
    for number in range(5000):
        done = report(1, 0, **{f"stage{number}": 0.001})
        done.node = f"node {number}"
        progress.add(done)
    over.set()
    looking.join()
    assert not found


def test_the_line_counts_clips_says_of_what_its_pace_is_and_names_the_slowest_step():
    now = [1000.0]
    progress = Progress(rows=100, done=20, pools=[Pool(["entities"], 1), Pool(["segment"], 4)], clock=lambda: now[0])
    now[0] += 100  # models are loaded
    progress.add(report(10, 7, entities=4.0, segment=6.0))
    now[0] += 4
    progress.add(report(10, 6, entities=4.0, segment=6.0))
    assert progress.line() == (
        "40/100 clips, 13 kept, 7 rejected, 2.50 clips/s over the last 0:08, about 0:24 left, "
        "slowest step: entities, 400 ms of a worker a clip"
    )


def slices_of_a_run(n_slices, workers, pools, serial, warm_up, seed):
    """When slices of 16 clips finish (s) and what each cost every pool, all with so many workers; the first are slow."""
    random = np.random.default_rng(seed)
    base = random.uniform(1, 8, pools)
    free = [[30.0] * workers for _ in range(pools)]  # when each worker is free; models load for 30 s
    finished = []
    for number in range(n_slices):
        slow = 1 + warm_up * max(0.0, 1 - number / (0.25 * n_slices))
        costs = base * slow * random.uniform(0.7, 1.4, pools)
        at = finished[-1][0] if serial and finished else 30.0
        for pool, cost in enumerate(costs):
            first = min(range(workers), key=lambda worker, pool=pool: free[pool][worker])
            at = max(at, free[pool][first]) + cost
            free[pool][first] = at
        finished.append((at, costs))
    return sorted(finished, key=lambda slice_: slice_[0])


@pytest.mark.parametrize("warm_up", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("pools", [1, 2, 3])
@pytest.mark.parametrize(("workers", "serial"), [(1, True), (1, False), (2, False), (8, False)])
@pytest.mark.parametrize("seed", range(8))
def test_after_a_slow_start_the_time_left_is_right_within_a_factor_of_a_half(workers, serial, pools, warm_up, seed):
    n_slices = 40 * workers
    slices = slices_of_a_run(n_slices, workers, pools, serial, warm_up, seed)
    now = [0.0]
    stages = ["entities", "segment", "background"][:pools]
    progress = Progress(16 * n_slices, 0, [Pool([stage], workers) for stage in stages], clock=lambda: now[0])
    checks = {int(n_slices * share): share for share in (0.1, 0.5, 0.7, 0.9)}
    end = slices[-1][0]
    for number, (when, costs) in enumerate(slices, start=1):
        now[0] = when
        progress.add(report(16, 16, **dict(zip(stages, costs, strict=True))))
        if share := checks.get(number):
            said, truth = progress._pace.left_s(now[0], 16 * (n_slices - number)), end - when
            assert f"about {duration(said)} left" in progress.line()
            if share >= 0.5:
                assert truth / 1.5 - slices_apart(slices) < said < truth * 1.5 + slices_apart(slices)
            else:
                assert 0 < said < 20 * truth


def slices_apart(slices):
    """Seconds: no estimate can be finer than a slice takes."""
    return max(float(np.sum(costs)) for _, costs in slices[len(slices) // 2 :])


def test_between_slices_time_left_counts_down_and_a_stall_makes_it_grow():
    pace = Pace()
    for number in range(1, 7):
        pace.add(10.0 * number, 16, wall_s=10, step_s=10)
    left = [pace.left_s(60.0 + waited, 32) for waited in (0, 4, 9)]
    assert left == pytest.approx([20, 16, 11])
    assert pace.left_s(100, 32) > 20 and pace.left_s(300, 32) > pace.left_s(200, 32) > pace.left_s(100, 32)
    assert pace.rate(300)[0] < pace.rate(60)[0] == pytest.approx(1.6)


def test_slices_that_suddenly_take_longer_slow_the_pace_down_to_theirs_and_no_further():
    pace = Pace()
    for number in range(200):
        pace.add(float(number), 16, wall_s=1, step_s=1)
    for number in range(1, 30):
        pace.add(199.0 + 20 * number, 16, wall_s=200, step_s=20)
        assert 16 / 20 - 1e-9 <= pace.rate(199.0 + 20 * number)[0] <= 16
    assert pace.rate(199.0 + 20 * 29)[0] == pytest.approx(16 / 20, rel=0.1)


@pytest.mark.parametrize("every_s", [30, 60, 90, 300])
def test_workers_that_finish_all_at_once_do_not_look_faster_than_they_are(every_s):
    pace = Pace()
    for burst in range(1, 9):
        for _ in range(8):
            pace.add(every_s * burst + 0.01 * burst, 16, wall_s=every_s, step_s=every_s / 8)
        for waited in (0, 0.3, 0.6, 0.9):
            if burst > 2:
                rate, over_s = pace.rate(every_s * (burst + waited) + 0.1)
                assert 0.6 < rate / (8 * 16 / every_s) < 1.7
                assert over_s >= 20


def test_a_log_has_a_line_each_ten_seconds_at_first_and_each_minute_in_a_long_job():
    now = [0.0]
    progress = Progress(rows=100, done=0, pools=[], clock=lambda: now[0])
    pauses = []
    for now[0] in (0, 60, 300, 3600, 1e6):
        pauses.append(progress._pause_s())
    assert pauses == [10, 10, 30, 60, 60]


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0:00"), (59.6, "1:00"), (90, "1:30"), (3700, "1:01:40")])
def test_spans_are_hours_minutes_and_seconds(seconds, said):
    assert duration(seconds) == said


def test_before_the_first_slice_it_says_what_is_waited_for_as_soon_as_that_changes(capsys):
    with Progress(rows=100, done=20, pools=[]) as progress:
        progress.tell("starting Ray")
        progress.tell("loading the detector")
        progress.tell("loading the detector")
        progress.add(report(10, 7, entities=4.0))
        progress.tell("loading the segmenter")  # a worker that comes late keeps nobody waiting
    assert capsys.readouterr().err.splitlines() == [
        "20/100 clips, starting Ray, 0:00",
        "20/100 clips, loading the detector, 0:00",
    ]


def test_a_notice_is_shown_once_however_many_workers_say_it_and_counted_at_the_end(capsys):
    with Progress(rows=100, done=0, pools=[]) as progress:
        for _ in range(1000):
            progress.add(report(1, 1, ["the card is [bold]full[/]"]))
        progress.add(report(1, 1, ["a server is \x1b[31mslow"]))
    assert capsys.readouterr().err.splitlines() == [
        "notice: the card is [bold]full[/]",
        "notice: a server is \\x1b[31mslow",
        "noticed 1000 times: the card is [bold]full[/]",
    ]


def test_thousands_of_different_notices_do_not_flood_the_screen(capsys):
    with Progress(rows=5000, done=0, pools=[]) as progress:
        for number in range(5000):
            progress.add(report(1, 1, [f"waited {number} s"]))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 22
    assert said[-1] == "noticed 4980 times: others, see workers.log"
