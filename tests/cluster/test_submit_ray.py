"""`materia submit --target ray` on a real head: log, exit code, the job found again, one that was killed goes on."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import requests
import yaml
from clips import make_clip
from heads import METRICS_PORT, TOKEN, ray_head
from jobs import contents, wait_for
from promql import QUERIES, evaluate, scrape

pytestmark = [
    pytest.mark.gpu,  # whose environment has ray[default], as the image of a cluster
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("opencensus") is None, reason="the head needs ray[default]: the extra `cluster`"),
]

CONFIG = """\
base: local
entities: {backend: "small_models:Words"}
localise: {backend: "small_models:Left"}
link: {backend: none, faces: {backend: none}, people: {backend: none}}
segment: {backend: "small_models:Box", min_part_share: 0, max_hole_share: 0}
background: {backend: opencv}
engine:
  rows_per_chunk: 1
  rows_per_slice: 1
  pools: [{stages: [entities, frames, localise, link, segment, faces, background, cut], workers: 1, num_cpus: 0.5}]
"""


NOT_YET = ("_cards", "troubles", "rejected", "store_questions", "store_retries", "commits")
"""Metrics of which a job that has just begun has none."""


@pytest.fixture(scope="module")
def head():
    with tempfile.TemporaryDirectory(prefix="head-") as folder, ray_head(Path(folder)) as address:  # Ray wants a short path
        yield address


@pytest.fixture
def place(tmp_path):
    """A repository with models of one's own, clips beside it."""
    code = tmp_path / "my code"
    code.mkdir()
    shutil.copy(Path(__file__).with_name("small_models.py"), code)
    (code / "big.bin").write_bytes(bytes(10_000))
    for command in (["init", "--quiet"], ["add", "small_models.py"]):
        subprocess.run(["git", *command], cwd=code, check=True)
    (tmp_path / "job.yaml").write_text(CONFIG)
    make_clip(tmp_path / "a.mp4", 30)
    captions = ["A dog runs.", "A dog [gate] runs.", "A dog sleeps."]
    rows = [{"video": "a.mp4", "caption": caption, "id": f"c{n}"} for n, caption in enumerate(captions)]
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def command(place: Path, head: str, *more: str) -> list[str]:
    cluster = {"ray": {"address": head, "env": {"GATE": str(place / "gate.open")}}}
    (place / "cluster.yaml").write_text(yaml.safe_dump(cluster))
    names = {"--cluster": "cluster.yaml", "--config": "job.yaml", "--input": "clips.jsonl", "--output": "out"}
    given = [part for option, name in names.items() for part in (option, str(place / name))]
    return [sys.executable, "-m", "prima_materia", "submit", "--target", "ray", *given, *more]


def start(place: Path, head: str, *more: str) -> subprocess.Popen:
    environment = os.environ | {"RAY_AUTH_TOKEN": TOKEN}
    return subprocess.Popen(
        command(place, head, *more),
        cwd=place / "my code",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def submit(place: Path, head: str, *more: str) -> subprocess.CompletedProcess:
    process = start(place, head, *more)
    out, err = process.communicate(timeout=200)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def drivers(output: Path) -> list[psutil.Process]:
    def is_driver(process: psutil.Process) -> bool:
        words = process.info["cmdline"] or ()
        return "prima_materia" in words and "run" in words and str(output) in words

    return [process for process in psutil.process_iter(["cmdline"]) if is_driver(process)]


def jobs(head: str) -> dict[str, str]:
    listed = requests.get(f"{head}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30).json()
    return {job["submission_id"]: job["status"] for job in listed}


def ray_metrics() -> dict:
    """What Ray's exporter tells of the job, once that is something."""
    with contextlib.suppress(requests.ConnectionError):
        found = scrape(requests.get(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=10).text, strict=False)
        if any(name == "ray_materia_clips_total" for name, _ in found):
            return found
    return {}


def test_a_job_is_followed_found_again_and_goes_on_when_it_was_killed(place, head):
    first = start(place, head, "--name", "gated")
    wait_for((place / "gate.here").exists)
    wait_for(lambda: len(list((place / "out" / "commits").glob("*.json"))) >= 1)
    in_ray = wait_for(ray_metrics)
    (driver,) = drivers(place / "out")
    other = submit(place, head, "--name", "gated", "--set", "localise.min_score=0.5")  # while it runs
    driver.send_signal(signal.SIGKILL)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 137 and "gated-1 ended with exit code 137" in said
    assert other.returncode == 2 and "another job of this name" in other.stderr

    assert {name for name, _ in in_ray} >= {"ray_materia_rows", "ray_materia_stage_seconds_bucket"}
    nothing = dict.fromkeys(in_ray, 0.0)
    for query in QUERIES:
        asked = query.replace("${prefix}", "ray_materia").replace("$__rate_interval", "1m")
        if not any(name in query for name in NOT_YET):
            assert evaluate(asked, nothing, in_ray, 60.0), asked

    (place / "gate.open").touch()
    again = submit(place, head, "--name", "gated")
    assert again.returncode == 0, again.stderr + again.stdout
    assert "gated-2 is handed in" in again.stderr and "3 rows = 3 samples + 0 rejections" in again.stdout
    made = contents(place / "out")

    found = submit(place, head, "--name", "gated")
    assert found.returncode == 0 and "finished before, as gated-2" in found.stderr
    assert "3 rows = 3 samples" in found.stdout
    assert contents(place / "out") == made and jobs(head) == {"gated-1": "FAILED", "gated-2": "SUCCEEDED"}

    refused = submit(place, head, "--name", "other", "--set", "localise.min_score=0.5")
    assert refused.returncode == 4 and "localise.min_score" in refused.stdout
