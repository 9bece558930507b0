"""The locked environments: pyproject.toml, overrides and lock files belong together, a solution still exists, and no package
of an environment writes over another's files."""

import os
import re
import shutil
import subprocess
import sysconfig
from collections import defaultdict
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tools.lock import ENVIRONMENTS, LOCKS, lock_files, resolve

PIN = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[.*?\])?==([^\s;]+).*\n((?: +--hash=sha256:[0-9a-f]{64}.*\n)*)", re.M)

SHARED_FILES = {
    # Each ships the script that built it; nobody imports that.
    "build_backend.py": {"flashinfer-python", "torch_c_dlpack_ext"},
    # One package in two parts, which both ship the line that puts them together.
    "opencensus/__init__.py": {"opencensus", "opencensus-context"},
    "opencensus/common/__init__.py": {"opencensus", "opencensus-context"},
}
"""Files below site-packages that may have several owners, which must not matter at all."""


def text_of(name: str, folder: Path = LOCKS) -> str:
    return "".join(file.read_text() for file in lock_files(name, folder))


def pins(name: str, folder: Path = LOCKS) -> set[tuple[str, str]]:
    return {(package, version) for package, version, _ in PIN.findall(text_of(name, folder))}


def solve(name: str, folder: Path) -> None:
    try:
        resolve(name, folder)
    except subprocess.CalledProcessError as error:
        if re.search(r"dns error|Could not connect|error sending request", error.stderr):
            pytest.skip(f"no package index can be reached: {error.stderr[-300:]}")
        pytest.fail(error.stderr)


@pytest.mark.slow  # asks the package index
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_lock_file_is_a_solution_of_what_pyproject_asks_for(name: str, tmp_path: Path) -> None:
    for file in lock_files(name):
        shutil.copy(file, tmp_path)
    solve(name, tmp_path)
    assert text_of(name, tmp_path) == text_of(name), "run: make lock"


@pytest.mark.slow  # asks the package index
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_resolver_finds_a_solution_without_the_lock_file(name: str, tmp_path: Path) -> None:
    solve(name, tmp_path)
    assert {package for package, _ in pins(name, tmp_path)} >= {"torch", "transformers", "ray", "webdataset"}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_package_of_a_lock_has_hashes(name: str) -> None:
    text = text_of(name)
    assert len(PIN.findall(text)) == len(re.findall(r"^\S", text, re.M))
    assert all(hashes for _, _, hashes in PIN.findall(text))


def test_one_environment_holds_all_models_of_the_gpu_profile() -> None:
    locked = dict(pins("gpu"))
    models = {"vllm", "groundingdino-py", "segment-anything", "lama-cleaner", "torchvision", "diffusers", "ray", "decord"}
    assert locked.keys() >= models
    assert locked["torch"].startswith("2.14.")
    assert "opencv-python" not in locked


@pytest.mark.parametrize(
    "environment", ["local", pytest.param("gpu", marks=pytest.mark.gpu), pytest.param("vllm-cpu", marks=pytest.mark.vllm)]
)
def test_no_two_packages_of_an_environment_own_one_file(environment: str) -> None:
    """Installers unpack in parallel: which of two packages writes a file last is a race. The marks choose the environment."""
    owners: defaultdict[str, set[str]] = defaultdict(set)
    for distribution in distributions(path=[sysconfig.get_path("purelib")]):  # Ray adds a folder of its own to sys.path
        name = distribution.metadata["Name"]
        for file in distribution.files or ():
            owners[os.path.normpath(file)].add(name)
    shared = {file: names for file, names in owners.items() if len(names) > 1 and SHARED_FILES.get(file) != names}
    assert len(owners) > 10_000
    assert not shared, f"{environment}: {len(shared)} files have several owners"
