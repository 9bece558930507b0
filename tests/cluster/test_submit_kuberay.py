"""`materia submit --target kuberay`: the objects, held against KubeRay's fields; a kubectl that a test plays."""

import json
import os
import shlex
import stat
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from materia.base.errors import UserError
from materia.cli.main import main
from pipeline.cluster import kubectl
from pipeline.cluster.crd import check
from pipeline.cluster.description import describe
from pipeline.cluster.kuberay import as_yaml, objects
from pipeline.cluster.settings import ClusterSettings, KubeRaySettings
from pipeline.config import load_config

CRD = Path(__file__).with_name("rayjob_fields.yaml")
"""Names and types of the fields of RayJob in KubeRay 1.5, of those parts that are made here."""

SPOT = {"key": "spot", "operator": "Exists", "effect": "NoSchedule"}
CLUSTER = {
    "image": "registry.example/prima-materia:0.1.0",
    "service_account": "materia",
    "pull_secrets": ["registry"],
    "secrets": ["store-keys"],
    "env": {"HF_HOME": "/models/hf", "ODD": "a 'b' \"c\"\n$HOME"},
    "volumes": {"/models": "models"},
    "head": {"cpus": 4, "memory_gib": 32, "node_selector": {"capacity": "on-demand"}},
    "workers": [
        {"name": "large", "cpus": 16, "gpus": 1, "memory_gib": 128, "labels": {"cards": "large"}, "tolerations": [SPOT]},
        {"name": "small", "cpus": 16, "gpus": 4, "memory_gib": 128, "labels": {"cards": "small"}, "tolerations": [SPOT]},
        {"name": "decode", "cpus": 16, "memory_gib": 64, "labels": {"cards": "none"}, "resources": {"clip_io": 16}},
    ],
}


def made(cluster: dict = CLUSTER, config: str = "cluster", **job):
    config = load_config(config)
    job = {"input": "s3://b/clips.jsonl", "output": "s3://b/out", "name": "clips"} | job
    return objects(describe(config, **job), KubeRaySettings.model_validate(cluster), config.engine.pools)


def test_the_rayjob_is_as_the_crd_wants_it():
    """Kubernetes would drop a field that it does not know."""
    _, rayjob = made()
    assert check(rayjob, CRD) == []
    rayjob["spec"]["backOffLimit"] = rayjob["spec"].pop("backoffLimit")
    rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]["minReplicas"] = "0"
    assert [problem.partition(":")[0] for problem in check(rayjob, CRD)] == [
        "spec",
        "spec.rayClusterSpec.workerGroupSpecs[1].minReplicas",
    ]


def test_groups_have_as_many_pods_as_the_pools_need():
    """Two large cards, 16 workers on half a small card each, 24 readers and 8 cutters of one clip_io each."""
    spec = made()[1]["spec"]["rayClusterSpec"]
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert {name: group["replicas"] for name, group in groups.items()} == {"large": 2, "small": 2, "decode": 2}
    assert all((group["minReplicas"], group["maxReplicas"]) == (0, group["replicas"]) for group in groups.values())
    assert groups["decode"]["resources"] == {"clip_io": "16"} and groups["large"]["labels"] == {"cards": "large"}
    (container,) = groups["small"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "16", "memory": "128Gi", "nvidia.com/gpu": "4"}
    assert groups["small"]["template"]["spec"]["tolerations"] == [SPOT]


def test_the_head_stays_and_does_nothing_but_drive():
    spec = made()[1]["spec"]
    head = spec["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    for pod in (head["template"], spec["submitterPodTemplate"]):
        assert pod["spec"]["nodeSelector"] == {"capacity": "on-demand"} and pod["spec"]["tolerations"] == []
    assert spec["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    assert (spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"], spec["backoffLimit"]) == (True, 600, 3)


def test_what_runs_is_what_was_asked_for_however_it_is_quoted():
    """The configuration of the ConfigMap is the one that was checked here; words arrive as they were typed."""
    output = 's3://b/it\'s "out"; rm -rf $HOME\n&& :'
    config_map, rayjob = yaml.safe_load_all(as_yaml(made(output=output, options=("--limit", "5"))))
    assert rayjob["spec"]["entrypoint"] == "bash /etc/prima-materia/run.sh"
    begin, command = config_map["data"]["run.sh"].split("\n", 1)
    words = shlex.split(command.removeprefix("exec "))
    assert begin == "#!/bin/bash" and words[words.index("--output") + 1] == output
    assert words[:4] == ["materia", "run", "--config", "/etc/prima-materia/config.yaml"]
    assert words[-4:] == ["--limit", "5", "--ray-address", "auto"]
    (container,) = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert {"name": "ODD", "value": "a 'b' \"c\"\n$HOME"} in container["env"]
    assert load_config("cluster") == load_config_text(config_map["data"]["config.yaml"])


def load_config_text(text: str):
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        return load_config(file.name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"workers": [{"name": "only", "cpus": 64, "memory_gib": 64}]}, "no node of the cluster has them"),
        ({"workers": [*CLUSTER["workers"][:2], CLUSTER["workers"][2] | {"max_pods": 1}]}, "need 2 such pods"),
    ],
)
def test_groups_that_do_not_hold_the_pools_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        made(CLUSTER | change)


def test_an_output_on_a_pods_own_disk_is_refused():
    with pytest.raises(UserError, match="disk of its own"):
        made(output="/data/out")
    made(output="/models/out")


FAKE = """\
#!{python}
import json, pathlib, sys
state, log = pathlib.Path({state!r}), pathlib.Path({log!r})
verb = sys.argv[1]
with log.open("a") as calls:
    calls.write(verb + "\\n")
if verb == "get":
    steps = json.loads(state.read_text())
    if len(steps) > 1 and steps[0] is not None:
        state.write_text(json.dumps(steps[1:]))
    if steps and steps[0] is not None:
        print(json.dumps(steps[0]))
elif verb == "apply":
    rayjob = sys.stdin.read()
    log.with_name("applied.yaml").write_text(rayjob)
    state.write_text(json.dumps(json.loads(state.read_text())[1:]))
elif verb == "delete":
    state.write_text(json.dumps([None, *json.loads(state.read_text())]))
elif verb == "logs":
    print("a line of the job")
"""


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Plays a cluster: RayJobs as `kubectl get` shows them one after the other; None: there is none until it is applied."""
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({"kuberay": CLUSTER}))
    fake = tmp_path / "bin" / "kubectl"
    fake.parent.mkdir()
    fake.write_text(FAKE.format(python=sys.executable, state=str(tmp_path / "state.json"), log=str(tmp_path / "calls")))
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(kubectl, "POLL_S", 0.01)
    addresses = ["--config", "cluster", "--input", "s3://b/clips.jsonl", "--output", "s3://b/out", "--name", "clips"]

    def played(*steps):
        (tmp_path / "state.json").write_text(json.dumps(steps))
        arguments = ["submit", "--target", "kuberay", "--cluster", str(tmp_path / "cluster.yaml"), *addresses]
        result = CliRunner().invoke(main, arguments)
        return result, (tmp_path / "calls").read_text().split()

    return played


def rayjob(deployment: str, status: str = "", message: str = "", fingerprint: str | None = None) -> dict:
    annotations = {
        "prima-materia/fingerprint": fingerprint or made()[1]["metadata"]["annotations"]["prima-materia/fingerprint"]
    }
    told = {"jobDeploymentStatus": deployment, "jobStatus": status, "message": message, "jobId": "clips-x"}
    return {"metadata": {"annotations": annotations}, "status": told}


def test_a_job_is_handed_in_and_its_exit_code_comes_back(play):
    message = "Job entrypoint command failed with exit code 4, last available logs (truncated to 20,000 chars):\nexit code 9"
    steps = [None, rayjob("Initializing"), rayjob("Running", "RUNNING"), rayjob("Failed", "FAILED", message)]
    result, calls = play(*steps)
    assert result.exit_code == 4, result.output
    assert calls == ["get", "apply", "get", "get", "logs", "get"]
    assert "a line of the job\n" in result.output and "clips ended with exit code 4" in result.output


@pytest.mark.parametrize(
    ("there", "calls", "exit_code", "words"),
    [
        (rayjob("Complete", "SUCCEEDED"), ["get", "get"], 0, "is there already"),
        (rayjob("Running", "RUNNING", fingerprint="other"), ["get"], 2, "another job of this name"),
    ],
)
def test_a_job_that_is_there_is_found(play, there, calls, exit_code, words):
    result, called = play(there, there)
    assert (result.exit_code, called) == (exit_code, calls) and words in result.output


def test_a_job_that_failed_is_made_anew(play):
    result, calls = play(rayjob("Failed", "FAILED"), rayjob("Complete", "SUCCEEDED"))
    assert result.exit_code == 0, result.output
    assert calls == ["get", "delete", "apply", "get"]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"jobStatus": "SUCCEEDED"}, 0),
        ({"jobStatus": "STOPPED"}, 143),
        ({"jobStatus": "FAILED", "message": "Job entrypoint command failed with exit code -9, last"}, 137),
        ({"jobStatus": "FAILED", "message": "The actor died."}, 1),
        ({}, 1),
    ],
)
def test_exit_codes(status, code):
    assert kubectl.exit_code_of(status) == code


def test_a_dry_run_prints_the_same_bytes_and_asks_nobody(tmp_path):
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(ClusterSettings(kuberay=CLUSTER).model_dump(mode="json")))
    arguments = [
        "--config",
        "cluster",
        "--input",
        "s3://b/clips.jsonl",
        "--output",
        "s3://b/out",
        "--dry-run",
        "--crd",
        str(CRD),
    ]
    runs = [
        CliRunner().invoke(main, ["submit", "--target", "kuberay", "--cluster", str(tmp_path / "cluster.yaml"), *arguments])
        for _ in range(2)
    ]
    assert runs[0].exit_code == 0, runs[0].output
    assert runs[0].output == runs[1].output
    assert [document["kind"] for document in yaml.safe_load_all(runs[0].output)] == ["ConfigMap", "RayJob"]
