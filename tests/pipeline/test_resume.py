"""Everything is killed at random moments, and the same command started again: the bytes of an undisturbed run."""

import random
import time

import pytest
from jobs import STUBS, contents, kill_all, make_config, make_manifest, start
from stub_stages import STUB_SECONDS

from pipeline.job import run_job

KILLS = {"serial": 6, "ray": 3}
STARTING_S = {"serial": 1.5, "ray": 10.0}
WORKING_S = 1.5


@pytest.mark.parametrize("engine", ["serial", pytest.param("ray", marks=pytest.mark.ray)])
def test_kills_at_random_moments_change_no_byte(engine, tmp_path, monkeypatch):
    moments = random.Random(7)
    manifest = make_manifest(tmp_path / "clips", ["a dog", "a dog [nothing]", "a dog"] * 20)
    settings = {"input": manifest, "stage_factory": STUBS, "engine": "serial"}
    assert run_job(make_config(), output=str(tmp_path / "undisturbed"), **settings).exit_code == 0
    monkeypatch.setenv(STUB_SECONDS, "0.05")
    for _ in range(KILLS[engine]):
        process = start(manifest, tmp_path / "out", engine, workers=2)
        time.sleep(STARTING_S[engine] * moments.random() + WORKING_S * moments.random())
        kill_all(process)
    monkeypatch.setenv(STUB_SECONDS, "0")
    assert run_job(make_config(), output=str(tmp_path / "out"), **settings).exit_code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
