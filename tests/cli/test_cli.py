"""The command line: quick help, plain errors, exit codes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm

ROOT = Path(__file__).parents[2]
MATERIA = Path(sys.executable).with_name("materia")


def materia(*args: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"} | environment
    return warm.run([MATERIA, *args], cwd=ROOT, env=env)


def test_help_answers_in_under_a_second_and_shows_examples():
    assert "materia run --config configs/local.yaml" in materia("--help").stdout
    assert min(_seconds("--help") for _ in range(3)) < 1.0


def _seconds(*args: str) -> float:
    """Of a new process."""
    start = time.monotonic()
    subprocess.run([MATERIA, *args], stdout=subprocess.DEVNULL, check=True, timeout=120)
    return time.monotonic() - start


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "submit",
        "stats",
        "validate",
        "sheet",
        "layers",
        "doctor",
        "precompute",
        "train",
        "sample",
        "eval",
        "train-autoencoder",
    ],
)
def test_every_command_has_help(command):
    result = materia(command, "--help")
    assert result.returncode == 0
    assert "Usage: materia" in result.stdout


def test_misspelt_field_names_field_file_and_nearest_name(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text(f"base: {ROOT / 'configs' / 'local.yaml'}\nlocalise: {{min_scoer: 0.3}}\n")
    result = materia("run", "--config", config, "--input", "clips.jsonl", "--output", tmp_path / "out")
    assert result.returncode == 2
    assert f"{config}: unknown field 'localise.min_scoer'; did you mean 'min_score'?" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("localise.backend=nanodett", "did you mean 'nanodet'?"),
        ("localise.backend=no.such.module:Model", "cannot import 'no.such.module:Model'"),
        ("segment.options.itterations=2", "has no option 'itterations'"),
    ],
)
def test_backend_that_cannot_be_built_is_explained(override, message):
    result = materia("doctor", "--config", "configs/local.yaml", "--set", override)
    assert result.returncode == 2
    assert message in result.stderr


def test_missing_manifest_is_an_error_of_the_whole_input(tmp_path):
    out = tmp_path / "out"
    result = materia(
        "run", "--config", "configs/local.yaml", "--input", tmp_path / "none.jsonl", "--output", out, "--engine", "serial"
    )
    assert result.returncode == 2
    assert "none.jsonl" in result.stderr


def test_doctor_says_what_is_missing_and_the_command_that_installs_it(tmp_path):
    result = materia("doctor", "--config", "configs/local.yaml", "--json", MATERIA_CACHE=str(tmp_path))
    assert result.returncode == 2
    missing = [check for check in json.loads(result.stdout) if check["status"] == "missing"]
    assert {"stage entities", "stage localise", "stage faces"} <= {check["what"] for check in missing}
    assert all(check["fix"] == "materia models pull --config configs/local.yaml" for check in missing)


@pytest.mark.parametrize("command", ["stats", "validate", "sheet"])
def test_folder_that_is_no_output_is_named(tmp_path, command):
    picture = ("--output", tmp_path / "sheet.png") if command == "sheet" else ()
    result = materia(command, tmp_path / "nothing", *picture)
    assert result.returncode == 2
    assert "nothing" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["precompute", "--config", "train/tiny", "--shards", "a", "--shards", "b", "--output", "c"],
        ["train", "--config", "train/tiny", "--shards", "a", "--output", "c", "--output=d"],
        ["run", "--config", "local", "--config", "gpu", "--input", "a", "--output", "b"],
        ["models", "list", "--config", "local", "--config", "gpu"],
        ["stats", "a", "--json", "--json"],
    ],
)
def test_an_option_given_twice_is_refused(command):
    result = materia(*command)
    assert result.returncode == 2
    assert " is given 2 times; give it once" in result.stderr


def test_options_that_may_be_repeated_all_count():
    from materia.cli.training import _load

    config = _load("train/tiny", ("seed=3", "data.fps=4"), ("subjects >= 2", "row < 5 or row > 9"))
    assert (config.seed, config.data.fps) == (3, 4)
    assert config.data.where == "(subjects >= 2) and (row < 5 or row > 9)"
    assert _load("train/tiny", (), ("subjects >= 2",)).data.where == "subjects >= 2"
