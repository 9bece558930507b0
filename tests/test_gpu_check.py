"""The check of a card: what its runner keeps when steps go wrong, its page, and a whole small run on the CPU."""

import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import warm
from processes import living

from pipeline.config import Config
from pipeline.job import run_job
from stages.specs import STAGE_ORDER
from tools.gpu_check import stub_card
from tools.gpu_check.report import Results, page, page_without_a_card
from tools.gpu_check.runner import run_steps
from tools.gpu_check.step import Context, Step, misses
from tools.gpu_check.steps import STEPS

ROOT = Path(__file__).parents[1]
COMMAND = "python -m tools.gpu_check"


def step(name: str, seconds: float = 60) -> Step:
    return Step(name, f"a step that {name}", f"gpu_check_steps:{name}", seconds)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("check")


@pytest.fixture(scope="module")
def results(folder):
    steps = [step("raises"), step("outlasts", 8), step("dies"), step("cannot"), step("works")]
    after_each: list[int] = []
    results = run_steps(steps, Context("cpu", True, folder), 5, lambda so_far: after_each.append(len(so_far)), lambda _: None)
    assert after_each == [1, 2, 3, 4, 5]
    return {result.name: result for result in results}


def test_a_step_that_raises_one_that_outlasts_its_box_and_one_that_dies_leave_the_others_and_their_own_rows(results, folder):
    found = {name: (result.status, len(result.rows)) for name, result in results.items()}
    assert found == {
        "raises": ("failed", 1),
        "outlasts": ("out of time", 1),
        "dies": ("failed", 1),
        "cannot": ("skipped", 0),
        "works": ("ok", 2),
    }
    assert results["raises"].reason == "RuntimeError: no such kernel"
    assert "Traceback" in (folder / "raises.log").read_text()
    assert results["outlasts"].seconds < 12
    assert "8 s" in results["outlasts"].reason
    assert results["cannot"].reason == "there is no card"


def test_what_a_step_started_ends_with_it(results, folder):
    helper = int((folder / "helper").read_text())
    until = time.monotonic() + 10
    while living([helper]):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_the_page_has_every_row_says_what_missed_and_is_not_broken_by_what_it_shows(results):
    text = page(Results(COMMAND, "2026-01-01", list(results.values())))
    assert "1 of 2 targets are missed:\n\n- works: device cpu, value 3, target value &lt;= 2" in text
    assert "| a / &lt;b> | 1 | value &lt;= 2 |" in text
    assert "**skipped**: there is no card" in text
    assert "**failed**: RuntimeError: no such kernel" in text
    assert all(text.count(f"## {name}: ") == 1 for name in results)


def test_when_the_minutes_are_over_the_steps_left_say_so(tmp_path):
    (result,) = run_steps([step("works")], Context("cpu", True, tmp_path), 0.01, lambda _: None, lambda _: None)
    assert (result.status, result.rows) == ("not run", [])
    assert "--only works" in result.reason


@pytest.mark.parametrize(("target", "missed"), [("value <= 2", False), ("value <= 1.9", True), ("value >= 2.1", True)])
def test_a_target_is_a_bound_on_a_column(target, missed):
    assert misses({"value": 2.0, "target": target}) is missed


def test_a_number_that_is_none_misses_its_target():
    assert misses({"value": float("nan"), "target": "value <= 2"})


def test_the_page_of_results_names_every_step():
    """Written anew by the check on a card; until then it says of each that nothing was measured."""
    text = (ROOT / "docs" / "gpu-results.md").read_text()
    assert text == page_without_a_card(STEPS, COMMAND) or all(f"## {step.name}: " in text for step in STEPS if not step.rarely)


def check(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.gpu_check", "--device", "cpu", "--tiny", "--out", str(tmp_path), *arguments]
    return warm.run(command, "heavy", cwd=ROOT)


def test_a_step_without_its_packages_names_them(tmp_path):
    from importlib.util import find_spec

    wanted = next(step for step in STEPS if step.packages and any(find_spec(package) is None for package in step.packages))
    done = check(tmp_path, "--only", wanted.name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped (not installed here: " in done.stdout


def test_an_unknown_step_and_a_missing_card_are_usage_errors(tmp_path):
    assert check(tmp_path, "--only", "sam-z").returncode == 2
    import torch

    if not torch.cuda.is_available():
        command = [sys.executable, "-m", "tools.gpu_check", "--out", str(tmp_path)]
        done = warm.run(command, "heavy", cwd=ROOT)
        assert done.returncode == 2
        assert "--device cpu --tiny" in done.stderr


@pytest.mark.ray
def test_two_workers_keep_a_card_busy(tmp_path, monkeypatch):
    """Stubs that hold one lock as long as models would take on an H100; one stage after the other it is 0.70 of the time."""
    (tmp_path / "clip.mp4").write_bytes(b"no stub decodes it")
    rows = [{"id": f"n{n}", "video": "clip.mp4", "caption": "a dog"} for n in range(48)]
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv(stub_card.CARD, str(tmp_path))
    pools = [
        {"stages": STAGE_ORDER[:1], "num_cpus": 0.1},
        {"stages": STAGE_ORDER[1:], "workers": 2, "num_cpus": 0.1, "rows_at_once": 1},
    ]
    config = Config.model_validate({"engine": {"rows_per_chunk": 32, "rows_per_slice": 16, "pools": pools}})
    result = run_job(
        config,
        input=str(tmp_path / "clips.jsonl"),
        output=str(tmp_path / "out"),
        stage_factory="tools.gpu_check.stub_card:stages",
    )
    assert (result.exit_code, result.samples) == (0, 48), result.message
    assert stub_card.held_share(tmp_path, warm_up=0.1) >= 0.9


def test_big_lama_has_the_size_of_the_paper():
    """Suvorov et al., table 1: 51 M parameters."""
    from tools.gpu_check.big_lama import Generator

    assert round(sum(parameter.numel() for parameter in Generator(channels=64, blocks=18).parameters()) / 1e6) == 51


@pytest.mark.gpu
def test_the_whole_check_runs_small_on_a_cpu(tmp_path):
    done = check(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = msgspec.json.decode((tmp_path / "results.json").read_bytes(), type=Results).steps
    assert [result.name for result in found] == [step.name for step in STEPS if not step.rarely]
    assert all(result.rows if result.status == "ok" else result.reason for result in found)
    assert {result.status for result in found[:5]} == {"ok"}
    assert f"## {found[0].name}" in (tmp_path / "results.md").read_text()


@pytest.mark.gpu
@pytest.mark.ray
@pytest.mark.parametrize("name", ["engine", "same-boxes", "resume", "fsdp2", "encoders", "sample"])
def test_a_step_runs_small_on_a_cpu(folder, name):
    """Those that the two minutes of the whole may not reach; they share the weights that one of them made."""
    done = check(folder, "--only", name, "--minutes", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = msgspec.json.decode((folder / "results.json").read_bytes(), type=Results).steps
    assert (found.status, found.reason) == ("ok", "")
    assert not any(misses(row) for row in found.rows)
