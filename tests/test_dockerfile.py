"""The image is built nowhere here; what can be known of its file without that is."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HADOLINT = Path(sys.executable).with_name("hadolint")
LINES = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ").splitlines()


def test_linter_has_nothing_to_say():
    if not HADOLINT.exists():
        pytest.skip("hadolint has a wheel for Linux x86-64 only")
    done = subprocess.run([HADOLINT, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_is_installed_is_what_the_locks_say():
    (base,) = [line for line in LINES if line.startswith("FROM ")]
    assert re.fullmatch(r"FROM python:3\.11\.\d+-slim-[a-z]+", base)
    installs = [part for line in LINES for part in line.split("&&") if "pip install" in part]
    assert len(installs) == 4 and all("--no-deps" in part for part in installs)
    assert ["--require-hashes" in part for part in installs] == [True, True, True, False]  # the last one is ours


def test_it_runs_as_nobody_special_and_carries_no_secret():
    assert [line for line in LINES if line.startswith("USER ")] == ["USER 1000"]
    assert not [line for line in LINES if re.search(r"token|secret|password|_key", line, re.I)]
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv*"} <= set(ignored)
