"""Everything is killed at random moments, and the same command started again: the bytes of an undisturbed run."""

import random
import time

import pytest
from jobs import STUBS, contents, kill_all, make_config, make_manifest, start, wait_for
from stub_stages import STUB_SECONDS

from materia.dataset.layout import committed
from pipeline.job import run_job

KILLS = {"serial": 4, "ray": 2}
CHUNKS = 8
MOST_CHUNKS = 2  # that a start finishes before it may be killed; 0: while it starts
MOST_S = 0.5  # from then to the kill; a slice takes 0.2 s


@pytest.mark.parametrize("engine", ["serial", pytest.param("ray", marks=pytest.mark.ray)])
def test_kills_at_random_moments_change_no_byte(engine, tmp_path, monkeypatch):
    moments = random.Random(7)
    manifest = make_manifest(tmp_path / "clips", ["a dog", "a dog [nothing]", "a dog"] * 20)
    settings = {"input": manifest, "stage_factory": STUBS, "engine": "inline"}
    assert run_job(make_config(), output=str(tmp_path / "undisturbed"), **settings).exit_code == 0
    monkeypatch.setenv(STUB_SECONDS, "0.05")
    for _ in range(KILLS[engine]):
        enough = min(chunks(tmp_path / "out") + moments.randint(0, MOST_CHUNKS), CHUNKS)
        process = start(manifest, tmp_path / "out", engine, workers=2)
        wait_for(lambda: chunks(tmp_path / "out") >= enough)  # noqa: B023 (called at once)
        time.sleep(MOST_S * moments.random())
        kill_all(process)
    monkeypatch.setenv(STUB_SECONDS, "0")
    assert run_job(make_config(), output=str(tmp_path / "out"), **settings).exit_code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def chunks(out):
    """How many are done."""
    return len(committed(str(out)))
