"""What all kinds of clusters share: the description of a job, code that travels, refusals on the command line."""

import io
import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from materia.base.errors import UserError
from materia.base.settings_file import ConfigError
from materia.cli.main import main
from pipeline.cluster import code, ray_jobs
from pipeline.cluster.description import NAME, describe
from pipeline.cluster.kuberay import objects
from pipeline.cluster.settings import load_cluster
from pipeline.cluster.slurm_scripts import scripts
from pipeline.config import load_config
from pipeline.job import chunks_of_part

ROOT = Path(__file__).parents[2]
LOCAL = load_config("local")


@pytest.mark.parametrize("name", ["local", "gpu", "gpu-7b", "cluster"])
def test_the_configuration_that_travels_is_the_one_that_was_checked(tmp_path, name):
    overrides = ("localise.min_score=0.123", "source.allowed_roots=[., /nas/clips é]")
    config = load_config(name, overrides)
    (tmp_path / "job.yaml").write_text(describe(config, input="a", output="b").config, encoding="utf-8")
    assert load_config(tmp_path / "job.yaml") == config


@settings(max_examples=15)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_name_follows_from_any_output(output):
    job = describe(LOCAL, input="s3://b/in", output=f"s3://b/{output}")
    assert NAME.fullmatch(job.name)
    assert job.name == describe(LOCAL, input="elsewhere", output=f"s3://b/{output}").name
    assert job.name != describe(LOCAL, input="s3://b/in", output=f"s3://b/{output}x").name


@pytest.mark.parametrize("name", ["", "Clips", "9clips", "a b", "a;b", "a\nb", "a-", "a" * 41, "../a", "ä", "-a", "$(id)"])
def test_a_name_that_some_cluster_would_not_take_is_refused(name):
    with pytest.raises(UserError, match="--name"):
        describe(LOCAL, input="a", output="b", name=name)


def test_the_fingerprint_knows_what_the_job_does():
    jobs = [
        describe(LOCAL, input="a", output="b", name="n"),
        describe(LOCAL, input="c", output="b", name="n"),
        describe(LOCAL, input="a", output="b", name="n", options=("--limit", "3")),
        describe(load_config("local", ("localise.min_score=0.9",)), input="a", output="b", name="n"),
    ]
    assert len({job.fingerprint for job in jobs}) == len(jobs)
    assert jobs[0].fingerprint == describe(LOCAL, input="a", output="b", name="n").fingerprint


def test_local_paths_are_told_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = describe(LOCAL, input="clips/../clips.jsonl", output="s3://b/out")
    assert job.command("c.yaml")[:7] == [
        "run",
        "--config",
        "c.yaml",
        "--input",
        f"{tmp_path}/clips.jsonl",
        "--output",
        "s3://b/out",
    ]


@pytest.fixture
def repository(tmp_path):
    files = {
        "a.py": "print()",
        "deep/b é.txt": "b",
        "ignored.bin": "no",
        ".gitignore": "*.bin",
        "gone.py": "gone",
        "run.sh": "#!",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "run.sh").chmod(0o755)
    for command in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / "gone.py").unlink()
    (tmp_path / "a.py").write_text("print(1)")
    (tmp_path / "unknown.py").write_text("not added")
    return tmp_path


def test_code_is_what_git_tracks_as_it_is_now(repository):
    packed = code.archive(repository / "deep", {"job.yaml": "é"})
    with zipfile.ZipFile(io.BytesIO(packed)) as file:
        assert file.namelist() == [".gitignore", "a.py", "deep/b é.txt", "job.yaml", "run.sh"]
        assert file.read("a.py") == b"print(1)" and file.read("job.yaml").decode() == "é"
        assert file.getinfo("run.sh").external_attr >> 16 & 0o111 and not file.getinfo("a.py").external_attr >> 16 & 0o111
    os.utime(repository / "a.py", (1, 1))
    assert code.archive(repository, {"job.yaml": "é"}) == packed


def test_code_that_cannot_travel_is_refused(tmp_path, repository, monkeypatch):
    monkeypatch.setattr(code, "MOST_BYTES", 10)
    with pytest.raises(UserError, match="code: nodes"):
        code.archive(repository, {})
    with pytest.raises(UserError, match="not a git repository"):
        code.archive(Path("/"), {})


def test_a_part_of_an_output_that_is_not_planned_is_refused(tmp_path):
    with pytest.raises(UserError, match="--range 0:0"):
        chunks_of_part(LOCAL, str(tmp_path), 0, 3)


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 4, 4),
        ("FAILED", 130, 130),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, 143),
    ],
)
def test_exit_codes_of_ray_jobs(status, driver, code):
    assert ray_jobs.exit_code_of(status, driver) == code


def submit(tmp_path: Path, cluster: dict, *more: str):
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(cluster))
    given = ["--cluster", str(tmp_path / "cluster.yaml"), "--config", "local", "--input", "clips.jsonl", "--output", "out"]
    return CliRunner().invoke(main, ["submit", *given, *more])


RAY = {"ray": {"address": "http://127.0.0.1:9", "code": "nodes"}}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--target", "slurm"], "has no section `slurm:`"),
        (["--target", "ray", "--crd", "f"], "--crd is of --target kuberay"),
        (["--target", "ray", "--", "--limt", "3"], "Did you mean one of: '--input', '--limit'"),
        (["--target", "ray", "--", "--limit", "0"], "options of `materia run`"),
        (["--target", "ray", "--", "--engine", "serial"], "--engine is decided by submit"),
        (["--target", "ray", "--", "--range", "0:5"], "--range is decided by submit"),
        (["--target", "ray", "--name", "No"], "--name 'No'"),
        (["--target", "ray", "--set", "localise.min_scoer=1"], "did you mean 'min_score'?"),
        (["--target", "ray"], "no Ray takes jobs at http://127.0.0.1:9"),
    ],
)
def test_what_cannot_be_handed_in_is_refused_here(tmp_path, more, words):
    result = submit(tmp_path, RAY, *more)
    assert result.exit_code == 2 and words in result.stderr


def test_a_dry_run_for_ray_prints_the_same_bytes(tmp_path, repository, monkeypatch):
    monkeypatch.chdir(repository)
    cluster = {"ray": {"address": "http://head:8265", "env": {"A": "b c"}}}
    runs = [submit(tmp_path / "..", cluster, "--target", "ray", "--dry-run", "--", "--limit", "3") for _ in range(2)]
    assert runs[0].exit_code == 0, runs[0].output
    assert runs[0].stdout == runs[1].stdout
    request = yaml.safe_load(runs[0].stdout)
    assert request["entrypoint"].startswith("python -m prima_materia run --config materia-job.yaml --input ")
    assert request["entrypoint"].endswith(" --wait --limit 3 --ray-address auto")
    assert request["runtime_env"]["working_dir"].startswith("5 files, ") and request["runtime_env"]["env_vars"] == {"A": "b c"}


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({"ray": {"adress": "http://a:1"}}, "did you mean 'address'?"),
        ({"ray": {"address": "head:8265"}}, "http://HOST:PORT"),
        ({"ray": {"code": "wheel"}}, "path of a wheel"),
        ({"kuberay": {"image": "a b", "workers": [{"name": "w"}]}}, "one word"),
        ({"kuberay": {"image": "a", "workers": [{"name": "w"}, {"name": "w"}]}}, "names must differ"),
        ({"kuberay": {"image": "a", "workers": [{"name": "W w"}]}}, "small letters"),
        ({"kuberay": {"image": "a", "workers": [{"name": "w"}], "env": {"A=B": "c"}}}, "letters, digits and _"),
        ({"sulrm": {}}, "did you mean 'slurm'?"),
    ],
)
def test_a_clusters_file_is_checked(tmp_path, cluster, words):
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(cluster))
    with pytest.raises(ConfigError, match=words):
        load_cluster(tmp_path / "cluster.yaml")


def test_the_example_of_the_page_holds_the_example_configuration(tmp_path):
    """docs/submit.md and configs/cluster.yaml: two large cards, two nodes of four small ones, two that decode."""
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "submit.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "cluster.yaml").write_text(block)
    cluster, config = load_cluster(tmp_path / "cluster.yaml"), load_config("cluster")
    job = describe(config, input="s3://bucket/clips.jsonl", output="s3://bucket/out")
    _, rayjob = objects(job, cluster.kuberay, config.engine.pools)
    assert [group["replicas"] for group in rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]] == [1, 2, 2]
    assert len(scripts(job, cluster.slurm, tmp_path)) == 3 and cluster.ray.code == "git"
