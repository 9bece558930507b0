"""The locked environments: pyproject.toml, overrides and lock files belong together, and a solution still exists."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tools.lock import ENVIRONMENTS, LOCKS, resolve

pytestmark = pytest.mark.slow  # asks the package index


def pins(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)(?:\[.*?\])?==(\S+)", file.read_text(), re.M))


def solve(name: str, output: Path) -> None:
    try:
        resolve(name, output)
    except subprocess.CalledProcessError as error:
        if re.search(r"dns error|Could not connect|error sending request", error.stderr):
            pytest.skip(f"no package index can be reached: {error.stderr[-300:]}")
        pytest.fail(error.stderr)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_lock_file_is_a_solution_of_what_pyproject_asks_for(name: str, tmp_path: Path) -> None:
    kept = tmp_path / "lock.txt"
    shutil.copy(LOCKS / f"{name}.txt", kept)
    solve(name, kept)
    assert pins(kept) == pins(LOCKS / f"{name}.txt"), "run: make lock"


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_resolver_finds_a_solution_without_the_lock_file(name: str, tmp_path: Path) -> None:
    solve(name, tmp_path / "fresh.txt")
    assert pins(tmp_path / "fresh.txt").keys() >= {"torch", "transformers", "ray", "webdataset"}


def test_one_environment_holds_all_models_of_the_gpu_profile() -> None:
    locked = pins(LOCKS / "gpu.txt")
    assert locked.keys() >= {"vllm", "groundingdino-py", "segment-anything", "torchvision", "diffusers", "ray", "decord"}
    assert locked["torch"].startswith("2.14.")
    assert not locked.keys() & {"opencv-python", "lama-cleaner"}
