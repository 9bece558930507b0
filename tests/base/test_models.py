"""`materia models`: fetching the weights of a configuration from a hub and by https, with the hub's real client."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import model_server
import pytest
import warm
from model_server import COMMIT, sha256

ROOT = Path(__file__).parents[2]
MATERIA = Path(sys.executable).with_name("materia")
TENSORS = bytes(range(256)) * 400
BERT = {
    "config.json": b"{}",
    "model.safetensors": TENSORS,
    "pytorch_model.bin": b"pickled",
    "tf_model.h5": b"tensorflow",
    "onnx/model.onnx": b"onnx",
    "tokenizer.json": b'{"version": "1.0"}',
    "vocab.txt": b"[PAD]\n",
    "README.md": b"# BERT",
}
REPO, FILE = "hf://some/bert", "hf://some/dino/dino.pth"
USED = ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]


@pytest.fixture
def server():
    with model_server.serving() as server:
        server.repos = {"some/bert": dict(BERT), "some/dino": {"dino.pth": TENSORS}}
        server.files["/sam.pth"] = TENSORS
        yield server


@pytest.fixture
def start(server, tmp_path):
    """The command in a process of its own, since the hub's library reads its variables once; no warm one has imported it."""

    def start(*command, offline=False, **options):
        env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        env |= {
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(tmp_path / "hf"),
            "MATERIA_CACHE": str(tmp_path / "cache"),
            "PYTHONPATH": str(Path(__file__).parent),
        }
        env |= {"HF_HUB_OFFLINE": "1"} if offline else {}
        sets = {f"{stage}.backend": "weighty_backends:Weightless" for stage in ("entities", "segment", "faces")}
        sets |= {
            "localise.backend": "weighty_backends:Weighty",
            "link.backend": "colours",
            "link.faces.backend": "none",
            "link.people.backend": "none",
        }
        sets |= {f"localise.options.{name}": value for name, value in options.items()}
        args = [part for name, value in sets.items() for part in ("--set", f"{name}={value}")]
        program = [MATERIA, *command, "--config", "configs/local.yaml", *args]
        return warm.Program(program, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return start


@pytest.fixture
def materia(start):
    """The command, ended."""

    def call(*command, **options):
        process = start(*command, **options)
        stdout, stderr = process.communicate(timeout=100)
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    return call


def pulled(result, code=0):
    assert result.returncode == code, result.stderr
    return {model["address"]: model for model in json.loads(result.stdout)}


def test_a_pull_brings_what_a_model_needs_and_nothing_of_other_frameworks(materia):
    model = pulled(materia("models", "pull", "--json", text_encoder=REPO))[REPO]
    folder = Path(model["path"])
    assert model["status"] == "fetched"
    assert folder.name == COMMIT
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == USED


def test_a_configuration_of_training_names_the_weights_of_its_encoders():
    command = [MATERIA, "models", "list", "--json", "--config", "train/paper-stage1", "--set"]
    done = warm.run([*command, "encoders.text.options.checkpoint=hf://a/b"])
    found = pulled(done)
    assert found["hf://a/b"]["options"] == ["encoders.text.options.checkpoint"]
    assert {model["options"][0].split(".")[1] for model in found.values()} == {"text", "image", "video"}


def test_after_a_pull_nothing_asks_the_network(materia, server):
    options = {"text_encoder": REPO, "checkpoint": FILE, "sha256": sha256(TENSORS)}
    first = pulled(materia("models", "pull", "--json", **options))
    server.asked.clear()
    again = materia("models", "pull", **options, offline=True)
    assert again.returncode == 0
    assert "nothing to fetch" in again.stdout
    assert "localise.options" not in materia("doctor", "--json", **options, offline=True).stdout
    listed = pulled(materia("models", "list", "--json", **options, offline=True))
    assert {address: model["path"] for address, model in listed.items()} == {a: m["path"] for a, m in first.items()}
    assert server.asked == []


def test_a_file_of_a_hub_is_verified_by_the_hash_of_the_configuration(materia, server, tmp_path):
    result = materia("models", "pull", checkpoint=FILE, sha256="f" * 64)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert all(part in result.stderr for part in ("localise.options.checkpoint", FILE, "f" * 64, sha256(TENSORS)))
    assert not list(tmp_path.rglob("*.pth"))


def test_a_hub_whose_bytes_are_not_those_of_its_metadata_is_not_believed(materia, server, tmp_path):
    server.stated["some/bert/model.safetensors"] = "1" * 64
    result = materia("models", "pull", text_encoder=REPO)
    assert result.returncode == 2
    assert f"model.safetensors has SHA-256 {sha256(TENSORS)}, expected {'1' * 64}" in " ".join(result.stderr.split())
    assert not list(tmp_path.rglob("*.safetensors"))


def test_files_damaged_in_the_cache_are_fetched_again(materia, server):
    options = {"text_encoder": REPO, "checkpoint": FILE}
    models = pulled(materia("models", "pull", "--json", **options))
    damaged = Path(models[REPO]["path"]) / "model.safetensors", Path(models[FILE]["path"])
    for path in damaged:
        path.write_bytes(b"\0" * len(TENSORS))
    assert {model["status"] for model in pulled(materia("models", "pull", "--json", **options)).values()} == {"fetched"}
    assert all(path.read_bytes() == TENSORS for path in damaged)


def test_a_pull_that_was_interrupted_is_seen_and_completed(materia, server):
    model = pulled(materia("models", "pull", "--json", text_encoder=REPO))[REPO]
    (Path(model["path"]) / "vocab.txt").unlink()
    doctor = materia("doctor", "--json", text_encoder=REPO, offline=True)
    assert doctor.returncode == 2
    problem = next(check for check in json.loads(doctor.stdout) if check["status"] == "missing" and "bert" in check["found"])
    assert "vocab.txt" in problem["found"]
    assert "materia models pull --config configs/local.yaml" in problem["fix"]
    assert pulled(materia("models", "pull", "--json", text_encoder=REPO))[REPO]["status"] == "fetched"


def test_a_commit_names_the_same_folder_as_its_branch(materia):
    pinned = f"{REPO}@{COMMIT}"
    first = pulled(materia("models", "pull", "--json", text_encoder=REPO))[REPO]
    same = pulled(materia("models", "list", "--json", text_encoder=pinned, offline=True))[pinned]
    assert (same["status"], same["path"]) == ("here", first["path"])


def test_a_hash_that_yaml_read_as_a_number_is_explained(materia):
    result = materia("models", "pull", checkpoint=FILE, sha256="0" * 64)
    assert result.returncode == 2
    assert "localise.options.checkpoint: sha256 must be 64 hex digits, in quotes" in result.stderr


def test_repositories_and_files_that_the_hub_has_not_are_named(materia):
    result = materia("models", "pull", text_encoder="hf://some/nothing", checkpoint="hf://some/dino/other.pth")
    assert result.returncode == 2
    assert "localise.options.text_encoder: hf://some/nothing@main cannot be fetched" in result.stderr
    assert "some/dino has no file other.pth at revision main" in result.stderr


def test_a_busy_hub_is_asked_again(materia, server):
    server.refuse = [503]
    assert pulled(materia("models", "pull", "--json", checkpoint=FILE))[FILE]["status"] == "fetched"


def test_a_manifest_that_did_not_reach_the_disk_is_made_again(materia, tmp_path):
    assert materia("models", "pull", text_encoder=REPO).returncode == 0
    [manifest] = (tmp_path / "cache" / "weights" / "hub").rglob("*.json")
    manifest.write_bytes(b"")
    assert "localise.options" not in materia("doctor", "--json", text_encoder=REPO, offline=True).stdout
    assert materia("models", "pull", text_encoder=REPO).returncode == 0
    assert sorted(json.loads(manifest.read_text())) == USED


def test_offline_a_pull_says_what_forbids_it(materia):
    result = materia("models", "pull", checkpoint=FILE, offline=True)
    assert result.returncode == 2
    assert "HF_HUB_OFFLINE is set" in result.stderr


def test_one_failure_does_not_keep_the_others(materia, server):
    models = pulled(
        materia("models", "pull", "--json", text_encoder="hf://some/nothing", checkpoint=f"{server.url}/sam.pth"), 2
    )
    assert sorted(model["status"] for model in models.values()) == ["failed", "fetched"]


def test_a_local_path_is_checked_and_never_fetched(materia, tmp_path):
    (tmp_path / "mine.pth").write_bytes(TENSORS)
    right = pulled(materia("models", "pull", "--json", checkpoint=tmp_path / "mine.pth", sha256=sha256(TENSORS)))
    assert [model["status"] for model in right.values()] == ["here"]
    result = materia("models", "pull", checkpoint=tmp_path / "none.pth")
    assert result.returncode == 2
    assert f"{tmp_path / 'none.pth'} is not there" in result.stderr


def test_a_second_pull_waits_for_the_first(start, server, tmp_path):
    lock = tmp_path / "cache" / "weights" / ".pull.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        held.write("process 7 on elsewhere")
        held.flush()
        fcntl.lockf(held, fcntl.LOCK_EX)
        second = start("models", "pull", checkpoint=FILE)
        assert second.stderr.readline() == "waiting for another pull: process 7 on elsewhere\n"
        assert server.asked == []
    _, stderr = second.communicate(timeout=100)
    assert second.returncode == 0, stderr


def test_a_cache_that_cannot_be_written_is_said_with_the_variable_that_moves_it(materia, tmp_path):
    (tmp_path / "cache").write_text("a file")
    result = materia("models", "pull", checkpoint=FILE)
    assert result.returncode == 2
    advice = "weights are kept there; set MATERIA_CACHE to a folder that can be written"
    assert result.stderr == f"error: {tmp_path}/cache/weights: Not a directory; {advice}\n"


def test_a_run_without_its_weights_names_file_and_command_and_makes_nothing(materia, server, tmp_path):
    result = materia(
        "run",
        "--input",
        "none.jsonl",
        "--output",
        str(tmp_path / "out"),
        "--engine",
        "serial",
        checkpoint=FILE,
        sha256="f" * 64,
    )
    assert result.returncode == 2
    assert result.stderr.count("dino.pth is not there") == 1  # localise and background share the detector
    assert "materia models pull --config configs/local.yaml" in result.stderr
    assert not (tmp_path / "out" / "dataset.json").exists()
