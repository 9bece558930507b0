"""A child process may crash, hang, swell or be killed: what that costs."""

import contextlib
import re
import sys
import threading
import time
from importlib.metadata import version

import numpy as np
import psutil
import pytest
from jobs import STUBS, helpers, make_config, traces, wait_for
from processes import lives
from stub_stages import GATES, TRACES

from pipeline.engine.messages import Hello
from pipeline.engine.supervisor import Limits, SetupError, Supervisor
from stages.records import Clip, Rejection, Sample
from stages.specs import STAGE_ORDER


def samples(*captions):
    clips = [Clip(row=row, key=f"c{row}", source_id="s", uri="clip.mp4", caption=text) for row, text in enumerate(captions)]
    return [Sample(clip=clip) for clip in clips]


@pytest.fixture
def supervise():
    started = []

    def start(rows_per_batch=32, min_deadline_s=30.0, memory_limit_gib=0.6, cards=False, **config):
        hello = Hello(make_config(**config).model_dump_json().encode(), list(STAGE_ORDER), STUBS, [p for p in sys.path if p])
        limits = Limits(min_deadline_s, 60, memory_limit_gib, rows_per_batch, threads=1, cards=cards)
        started.append(Supervisor(hello, limits))
        return started[-1]

    yield start
    for supervisor in started:
        supervisor.close()


def children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            if lives(process) and "pipeline.engine.child" in process.cmdline():
                found.append(process)
    return found


def child() -> psutil.Process:
    (process,) = wait_for(children)  # for a moment after its start it has no command line yet
    return process


def reasons(rows):
    return [row.reason if isinstance(row, Rejection) else "sample" for row in rows]


@pytest.mark.parametrize(
    "deed, message, rows_per_batch",
    [
        ("segfault", "SIGSEGV", 1),
        ("kill", "SIGKILL", 1),
        ("exit", "status 3", 1),
        ("memory", "memory_limit_gib = 0.6", 1),
        ("kill", "SIGKILL", 32),
    ],
)
def test_a_row_that_takes_its_worker_down_is_rejected_and_its_neighbours_are_kept(supervise, deed, message, rows_per_batch):
    done = supervise(rows_per_batch).process(samples("a dog", f"a dog [{deed}]", "a dog [nothing]", "a dog"))
    assert reasons(done.rows) == ["sample", "worker_crash", "no_subject", "sample"]
    assert message in done.rows[1].message
    assert done.rows[1].stage == "frames"
    assert {trouble.cause for trouble in done.troubles} == {"out_of_memory" if deed == "memory" else "clip"}


def test_while_a_store_is_waited_for_the_deadline_does_not_run(supervise):
    supervisor = supervise(min_deadline_s=2)
    supervisor.set_up()
    done = supervisor.process(samples("a dog [store]"))
    assert (reasons(done.rows), done.notes) == (["sample"], [])


def test_a_row_in_which_a_stage_left_a_number_of_numpys_is_rejected_alone_and_costs_no_child(supervise):
    supervisor = supervise()
    supervisor.set_up()
    before = child().pid
    done = supervisor.process(samples("a dog", "a dog [numpy]", "a dog [nothing]", "a dog"))
    assert reasons(done.rows) == ["sample", "internal_error", "no_subject", "sample"]
    assert done.rows[1].message.startswith("what was found cannot be recorded: TypeError: ") and child().pid == before


def test_two_rows_of_one_batch_that_kill_their_child_are_both_found(supervise):
    done = supervise().process(samples("a dog [segfault]", "a dog", "a dog [exit]"))
    assert reasons(done.rows) == ["worker_crash", "sample", "worker_crash"]


@pytest.mark.parametrize("rows_per_batch, deadlines", [(1, 2), (2, 3)])
def test_a_hanging_row_costs_few_deadlines(supervise, rows_per_batch, deadlines):
    supervisor = supervise(rows_per_batch, min_deadline_s=1.0)
    supervisor.process(samples("a dog", "a dog"))
    began = time.monotonic()
    done = supervisor.process(samples("a dog", "a dog [hang]"))
    assert reasons(done.rows) == ["sample", "timeout"]
    assert ["still running at its deadline" in note for note in done.notes] == [True] * deadlines
    assert time.monotonic() - began >= deadlines * 1.0


def test_an_exception_is_the_matter_of_the_row_that_raised_it(supervise):
    done = supervise().process(samples("a dog", "a dog [raise]", "a dog"))
    assert reasons(done.rows) == ["sample", "internal_error", "sample"]
    assert "KeyError: 'a surprise'" in done.rows[1].message


def test_a_kill_from_outside_costs_no_row(supervise, tmp_path, monkeypatch):
    monkeypatch.setenv(GATES, str(tmp_path))
    supervisor = supervise()
    supervisor.process(samples("a dog"))

    def kill():
        victim = psutil.Process(int(wait_for(lambda: newcomer(tmp_path / "c1.here", {""}))))
        victim.kill()
        victim.wait(100)
        (tmp_path / "c1.open").touch()

    threading.Thread(target=kill).start()
    done = supervisor.process(samples("a dog", "a dog [gate]", "a dog"))
    assert reasons(done.rows) == ["sample"] * 3
    assert "SIGKILL" in done.notes[0]
    assert [(trouble.cause, trouble.rows) for trouble in done.troubles] == [("killed", [0, 1, 2])]


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_kill_from_outside_does_not_change_what_a_row_that_kills_its_child_is_blamed_for(
    supervise, attempt, tmp_path, monkeypatch
):
    monkeypatch.setenv(GATES, str(tmp_path))
    supervisor = supervise(rows_per_batch=1, min_deadline_s=2)
    supervisor.process(samples("a dog"))
    done = []
    work = threading.Thread(target=lambda: done.append(supervisor.process(samples("a dog [gate]"))))  # which nobody opens
    work.start()
    seen = {""}
    for _ in range(attempt):  # the child of that attempt, while it runs the row
        running = wait_for(lambda: newcomer(tmp_path / "c0.here", seen))
        seen.add(running)
    psutil.Process(int(running)).kill()
    work.join(100)
    assert reasons(done[0].rows) == ["timeout"]


def newcomer(gate, seen):
    """Whoever stands at the gate, if it is none of those; else None."""
    there = gate.read_text() if gate.exists() else ""
    return there if there not in seen else None


def test_a_worker_that_cannot_start_says_why_instead_of_starting_for_ever(supervise):
    supervisor = supervise(entities={"options": {"stub": "broken"}})
    with pytest.raises(SetupError, match=r"entities.*weights are damaged") as error:
        supervisor.process(samples("a dog"))
    assert "loading the stub" in error.value.log


def test_a_model_that_does_not_fit_its_card_says_so_in_one_line(supervise):
    with pytest.raises(SetupError) as error:
        supervise(entities={"options": {"stub": "swollen"}}).process(samples("a dog"))
    assert re.search(r"entities on cpu: OutOfMemoryError: tried to allocate 20 MiB; out of memory: book more", str(error.value))
    assert "\n" not in str(error.value)


def test_models_that_need_more_than_the_memory_limit_are_an_error_of_the_setup(supervise):
    with pytest.raises(SetupError, match="memory_limit_gib"):
        supervise(memory_limit_gib=0.001).process(samples("a dog"))


def test_closing_ends_the_child(supervise):
    supervisor = supervise()
    supervisor.process(samples("a dog"))
    process = child()
    supervisor.close()
    assert not process.is_running()


def test_an_idle_child_closes_its_models_and_a_busy_one_is_killed(supervise, tmp_path, monkeypatch):
    monkeypatch.setenv(TRACES, str(tmp_path))
    idle, unasked = supervise(), supervise()
    idle.process(samples("a dog"))
    wait_for(lambda: len(helpers(tmp_path)) == 2)
    before = helpers(tmp_path)
    for supervisor in (idle, unasked):
        supervisor.close()
    closed = [trace["stage"] for trace in traces(tmp_path) if trace.get("closed")]
    assert sorted(closed) == sorted(STAGE_ORDER)
    assert not psutil.wait_procs(before, timeout=60)[1]


@pytest.mark.parametrize("deed", ["hang", "segfault", "kill"])
def test_what_a_model_started_ends_with_its_child(supervise, tmp_path, monkeypatch, deed):
    monkeypatch.setenv(TRACES, str(tmp_path))
    supervisor = supervise(min_deadline_s=1.0)
    assert reasons(supervisor.process(samples(f"a dog [{deed}]")).rows) != ["sample"]
    supervisor.close()
    assert len([trace for trace in traces(tmp_path) if trace.get("helper")]) >= 2  # two children died of it
    wait_for(lambda: not helpers(tmp_path))


def test_a_child_sees_the_cards_that_were_booked_for_it_and_no_others(supervise, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    for cards, seen in ((True, "3"), (False, "")):
        (ready,) = supervise(cards=cards).process(samples("a dog")).ready
        assert ready.cards == seen


def test_a_child_introduces_itself_once_with_its_models_and_packages(supervise):
    supervisor = supervise()
    done = supervisor.process(samples("a dog", "a dog [kill]"))
    (ready,) = done.ready
    assert ready.models["localise"] == "nanodet on cpu"
    assert ready.models["frames"] == "colours on cpu"
    assert ready.packages["numpy"] == np.__version__
    assert ready.packages["PIL"] == version("pillow")
    assert supervisor.process(samples("a dog")).ready == []


@pytest.mark.parametrize(("said", "seen"), [(None, "1"), ("0", "0")])
def test_workers_ask_no_hub_unless_the_user_says_so(supervise, monkeypatch, said, seen):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    if said:
        monkeypatch.setenv("HF_HUB_OFFLINE", said)
    supervise()
    assert child().environ()["HF_HUB_OFFLINE"] == seen
