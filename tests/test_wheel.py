"""The built wheel is all that a user needs: it holds everything, and runs away from the clone."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from materia.base.weights.files import PACKAGED, weights_path
from tools import demo_clips

ROOT = Path(__file__).parents[1]
PACKAGES = ("configs", "materia", "pipeline", "prima_materia", "prompts", "stages", "trainer")
BIN = Path(sys.executable).parent
LOCAL = PACKAGED.keys() - {"u2netp.onnx", "transnetv2.pth"}  # these are options
ADDRESSES = {f"packaged://{name}" for name in LOCAL}
IN_PLACE = (sys.executable, "-P", "-c", "from prima_materia import main; main()")
"""The command, of the first `pipeline` on PYTHONPATH."""
WHERE = (
    "import materia, pipeline, stages, trainer; print(materia.__file__, pipeline.__file__, stages.__file__, trainer.__file__)"
)


def call(*command: str | Path, cwd: Path, timeout: float = 240, **environment: str) -> str:
    """What a command prints; it sees nothing of the clone unless it is told."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {"RAY_USAGE_STATS_ENABLED": "0"} | environment
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=timeout
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call(BIN / "uv", "build", "--quiet", "--wheel", "--out-dir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """One clip, of a photograph."""
    folder = tmp_path_factory.mktemp("clips")
    photo = demo_clips.PHOTOS["photo_cat"]
    demo_clips.film(photo, demo_clips.package_folder("skimage") / "data" / photo.file, folder / "clip.mp4")
    (folder / "clips.jsonl").write_text(json.dumps({"video": "clip.mp4", "caption": photo.caption}))
    return folder / "clips.jsonl"


@pytest.mark.slow
def test_a_wheel_holds_the_packages_with_all_their_files_and_nothing_else(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    assert held == {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    assert {
        "configs/train/tiny.yaml",
        "stages/localise/coco_words.yaml",
        "materia/base/weights/packaged/graphs.py",
    } < held


@pytest.mark.wheel
@pytest.mark.skipif(not all(weights_path(name).exists() for name in LOCAL), reason="run `make weights` first")
def test_an_unpacked_wheel_runs_from_any_folder(wheel, manifest, tmp_path):
    unpacked, here = tmp_path / "unpacked", tmp_path / "here"
    zipfile.ZipFile(wheel).extractall(unpacked)
    here.mkdir()
    here_with = {"cwd": here, "PYTHONPATH": str(unpacked)}  # goes before the clone, which is installed here
    assert all(Path(file).is_relative_to(unpacked) for file in call(sys.executable, "-P", "-c", WHERE, **here_with).split())
    listed = json.loads(call(*IN_PLACE, "models", "list", "--config", "local", "--json", **here_with))
    assert {model["address"]: model["status"] for model in listed} == dict.fromkeys(ADDRESSES, "here")
    run = ("run", "--config", "local", "--engine", "serial", "--input", manifest, "--output", "out")
    call(*IN_PLACE, *run, **here_with)
    assert json.loads(call(*IN_PLACE, "stats", "out", "--json", **here_with))["samples"] == 1


@pytest.mark.wheel
@pytest.mark.timeout(3600)
def test_an_installed_wheel_fetches_its_weights_and_does_the_main_job(wheel, manifest, tmp_path):
    venv, here = tmp_path / "venv", tmp_path / "here"
    here.mkdir()
    call(sys.executable, "-m", "venv", venv, cwd=here)
    lock = (ROOT / "tools/locks/local.txt").read_text()
    pins = re.findall(
        r"^([A-Za-z0-9_.-]+)(?:\[.*?\])?(==[^\\\n]+)", lock, re.M
    )  # with markers, without hashes: torch has another
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("".join(f"{name}{version}\n" for name, version in pins))
    pip = (venv / "bin" / "pip", "install", "--quiet", "-c", constraints)
    # torch first and alone: where the package index offers a CPU build of this version, pip takes it, not gigabytes of CUDA.
    call(*pip, f"torch{dict(pins)['torch'].strip()}", cwd=here, timeout=1800)
    call(*pip, f"{wheel}[local]", cwd=here, timeout=1800)
    materia, cache = venv / "bin" / "materia", {"cwd": here, "MATERIA_CACHE": str(tmp_path / "cache")}
    pulled = json.loads(call(materia, "models", "pull", "--config", "local", "--json", timeout=900, **cache))
    assert {model["address"]: model["status"] for model in pulled} == dict.fromkeys(ADDRESSES, "fetched")
    call(materia, "run", "--config", "local", "--input", manifest, "--output", "out", **cache)
    call(materia, "validate", "out", **cache)
    assert json.loads(call(materia, "stats", "out", "--json", **cache))["samples"] == 1
