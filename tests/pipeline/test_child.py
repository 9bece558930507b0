"""Stages side by side give what they give one after the other; what a worker says of its packages."""

import sys
import time
from importlib.metadata import packages_distributions, version

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import STUBS, make_config
from stub_stages import build_stubs

from pipeline.engine.child import packages_of, run_side_by_side, run_stages
from pipeline.engine.messages import Hello, seconds_of
from pipeline.engine.supervisor import Limits, Supervisor
from stages import notices
from stages.records import Clip, Rejection, Sample, encode_rows
from stages.specs import STAGE_ORDER


def samples(captions):
    clips = [Clip(row=row, key=f"c{row}", source_id="s", uri="clip.mp4", caption=text) for row, text in enumerate(captions)]
    return [Sample(clip=clip) for clip in clips]


@pytest.fixture(scope="module")
def stages():
    stages = build_stubs(make_config(), STAGE_ORDER)
    for stage in stages:
        stage.setup()
    return stages


@settings(max_examples=30)
@given(
    captions=st.lists(st.sampled_from(["a dog", "a dog [nothing]", "a dog [raise]"]), min_size=1, max_size=9),
    rows_at_once=st.integers(1, 4),
)
def test_steps_of_any_size_give_the_same_rows_in_order(stages, captions, rows_at_once):
    alone = run_stages(stages, samples(captions), lambda _: None)
    begun = []
    together = run_side_by_side(stages, samples(captions), rows_at_once, begun.append)
    assert encode_rows(together.rows) == encode_rows(alone.rows)
    assert seconds_of(together.spans).keys() == seconds_of(alone.spans).keys() == set(begun)
    assert sum(span.rows for span in together.spans) == sum(span.rows for span in alone.spans)


class Slow:
    """A stage that takes its time, and says so."""

    def __init__(self, name):
        self.name = name

    def process(self, samples):
        time.sleep(0.1)
        notices.notice(f"{self.name} has worked")
        return samples


def test_while_one_stage_works_the_next_one_has_the_step_before():
    began = time.monotonic()
    answer = run_side_by_side([Slow("frames"), Slow("localise"), Slow("cut")], samples(["a dog"] * 8), 1, lambda _: None)
    assert time.monotonic() - began < 1.7  # 1.0 side by side, 2.4 in turn
    assert 0.7 < seconds_of(answer.spans)["localise"] < 1.2
    assert set(answer.notices) == {"frames has worked", "localise has worked", "cut has worked"}


def test_a_row_that_ends_its_worker_is_found_among_those_at_work_with_it():
    captions = ["a dog", "a dog", "a dog [segfault]", "a dog", "a dog [nothing]", "a dog"]
    hello = Hello(
        make_config().model_dump_json().encode(), list(STAGE_ORDER), STUBS, [p for p in sys.path if p], rows_at_once=2
    )
    supervisor = Supervisor(hello, Limits(30, 60, 0.6, rows_per_batch=32, threads=1, cards=False))
    try:
        rows = supervisor.process(samples(captions)).rows
    finally:
        supervisor.close()
    assert [(row.stage, row.reason) if isinstance(row, Rejection) else "kept" for row in rows] == [
        "kept",
        "kept",
        ("frames", "worker_crash"),
        "kept",
        ("entities", "no_subject"),
        "kept",
    ]


def test_packages_are_those_of_importlib():
    owners = packages_distributions()
    assert packages_of(frozenset([*owners, "none_of_these"])) == {module: version(names[0]) for module, names in owners.items()}
