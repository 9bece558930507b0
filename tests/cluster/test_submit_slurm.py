"""`materia submit --target slurm`: what is handed in, and what comes of it on a scheduler of this machine."""

import os
import shlex
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from jobs import STUBS, contents, make_config, make_manifest, wait_for
from pydantic import ValidationError

from materia.base.errors import UserError
from materia.cli.main import main
from pipeline.cluster import slurm
from pipeline.cluster.description import JobDescription
from pipeline.cluster.settings import SlurmSettings
from pipeline.cluster.slurm_scripts import sbatch, scripts
from pipeline.job import run_job
from stages.specs import STAGE_ORDER

ROOT = Path(__file__).parents[2]
FAKE = """\
#!{python} -SE
import sys
sys.path[:0] = [{folder!r}]
import fake_slurm
fake_slurm.main()
"""
STUB = """\
#!{python}
import sys
sys.path[:0] = [{root!r}, {stubs!r}]
from pipeline.job import run_job
run_job.__kwdefaults__["stage_factory"] = {factory!r}
from materia.base.errors import UserError
from materia.cli.main import main
main()
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with a scheduler, a `materia` of stub stages, a configuration and clips."""
    place = tmp_path / 'it\'s a "disk" 100%'
    commands, state, gates = tmp_path / "bin", tmp_path / "state", tmp_path / "gates"
    for folder in (place, commands, state, gates):
        folder.mkdir()
    for name in ("sbatch", "squeue", "scancel", "scontrol", "sacct"):
        executable(commands / name, FAKE.format(python=sys.executable, folder=str(Path(__file__).parent)))
    stub = STUB.format(python=sys.executable, root=str(ROOT), stubs=str(ROOT / "tests" / "pipeline"), factory=STUBS)
    executable(commands / "materia", stub)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(state))
    monkeypatch.setenv("STUB_GATES", str(gates))
    monkeypatch.setattr(slurm, "POLL_S", 0.5)
    monkeypatch.setattr(slurm, "_GRACE_S", 1.0)
    make_manifest(place, [f"a dog{' [gate]' if row in (1, 5) else ''}" for row in range(8)])
    (place / "config.yaml").write_text(yaml.safe_dump(config().model_dump(mode="json")))
    settings = {"folder": str(place / "jobs"), "setup": ["export SEEN='a b'"], "tasks": 2, "engine": "serial", "gres": "gpu:1"}
    (place / "cluster.yaml").write_text(yaml.safe_dump({"slurm": settings}))
    return place


def config():
    pool = {"stages": list(STAGE_ORDER), "num_cpus": 0.2, "memory_limit_gib": 0.6, "rows_per_batch": 1}
    return make_config(rows_per_chunk=2, rows_per_slice=1, min_deadline_s=60, pools=[pool])


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def submit(place: Path, *more: str):
    names = {"--cluster": "cluster.yaml", "--config": "config.yaml", "--input": "manifest.jsonl", "--output": "out"}
    given = [part for option, name in names.items() for part in (option, str(place / name))]
    return CliRunner().invoke(main, ["submit", "--target", "slurm", *given, *more])


@pytest.mark.slow
def test_an_array_with_a_lost_node_and_a_time_limit_is_as_a_plain_run(cluster, tmp_path):
    gates, state = tmp_path / "gates", tmp_path / "state"

    def disturb() -> None:
        here = [gates / "c0001.here", gates / "c0005.here"]
        wait_for(lambda: all(file.exists() and file.read_text() for file in here))
        lost, late = (int((state / f"{number}.pid").read_text()) for number in (200, 201))
        for pid in (lost, *map(int, (here[0].read_text(),))):
            os.killpg(os.getpgid(pid), signal.SIGKILL)
        os.kill(late, signal.SIGUSR1)  # as Slurm does 120 s before the end of the time, to the script alone
        for file in here:
            file.with_suffix(".open").touch()

    disturber = threading.Thread(target=disturb)
    disturber.start()
    result = submit(cluster, "--name", "array")
    disturber.join()
    assert result.exit_code == 0, result.output
    assert "[part-1] error: stopped by SIGTERM; the same command continues" in result.output
    assert "[rest] " in result.output and "8 rows = 8 samples + 0 rejections" in result.output

    plain = run_job(
        config(), input=str(cluster / "manifest.jsonl"), output=str(tmp_path / "plain"), engine="serial", stage_factory=STUBS
    )
    assert plain.exit_code == 0
    assert contents(cluster / "out") == contents(tmp_path / "plain")

    before = len(list(state.glob("*.json")))
    again = submit(cluster, "--name", "array")
    assert again.exit_code == 0 and "array finished before" in again.output and "8 rows" in again.output
    assert len(list(state.glob("*.json"))) == before == 3

    refused = submit(cluster, "--name", "array", "--set", "localise.min_score=0.9")
    assert refused.exit_code == 4 and "[rest] error: " in refused.output and "[part-0]" not in refused.output


def settings(**more) -> SlurmSettings:
    return SlurmSettings.model_validate({"tasks": 3, "at_once": 2, "partition": "gpu", "gres": "gpu:1"} | more)


JOB = JobDescription("clips", "engine: {}\n", "/nas/clips.jsonl", "/nas/out", ("--limit", "5"))


def test_an_array_is_planned_then_run_in_parts_then_looked_over():
    plan, part, rest = scripts(JOB, settings(), Path("/nas/jobs/clips"))
    common = {"--partition=gpu", "--gres=gpu:1", "--time=24:00:00", "--requeue", "--signal=B:USR1@120", "--nodes=1"}
    assert all(common < set(script.options) for script in (plan, part, rest))
    assert "--array=0-2%2" in part.options and "--output=/nas/jobs/clips/logs/part-%a.log" in part.options
    assert sbatch(part, Path("/j"), "12")[-3:] == ["--dependency=afterok:12", "--kill-on-invalid-dep=yes", "/j/part.sh"]
    assert sbatch(rest, Path("/j"), "13")[-3:-1] == ["--dependency=afterany:13", "--kill-on-invalid-dep=yes"]
    assert " --range 0:0 &" in plan.text and ' --part "$SLURM_ARRAY_TASK_ID/3" &' in part.text
    assert "exit_code" in rest.text and "exit_code" not in part.text


def test_one_allocation_is_one_ray_of_all_its_nodes():
    (run,) = scripts(JOB, settings(nodes=4), Path("/nas/jobs/clips"))
    assert {"--nodes=4", "--ntasks-per-node=1", "--gres=gpu:1"} < set(run.options)
    assert "srun --relative=1 --nodes=3 --ntasks=3 " in run.text and 'await_nodes "$address:$port" 4 ||' in run.text
    assert "RAY_AUTH_TOKEN=" in run.text
    (alone,) = scripts(JOB, settings(nodes=1), Path("/nas/jobs/clips"))
    assert "srun" not in alone.text


hostile = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@hypothesis_settings(max_examples=30)
@given(hostile, hostile, st.sampled_from([None, 2]))
def test_scripts_are_bash_and_words_arrive_as_they_were_typed(output, folder, nodes):
    """Every script is run, with `materia` and all that belongs to Ray and Slurm as functions that do nothing."""
    job = JobDescription("clips", "", "/in", f"/nas/{output}", ("--limit", "5"))
    for script in scripts(job, settings(nodes=nodes), Path("/nas") / folder):
        stubs = "materia() { printf '%s\\0' \"$@\"; }; ray() { :; }; srun() { :; }; python() { :; }; mv() { :; }\n"
        text = stubs + script.text.replace("printf '%s\\n' \"$1\" >", ": ")
        done = subprocess.run(
            ["bash", "-c", text], capture_output=True, env={"PATH": os.environ["PATH"], "SLURM_JOB_ID": "7"}, check=False
        )
        assert done.returncode == 0, done.stderr
        words = done.stdout.decode().split("\0")
        assert words[:7] == [
            "run",
            "--config",
            str(Path("/nas") / folder / "config.yaml"),
            "--input",
            "/in",
            "--output",
            f"/nas/{output}",
        ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"partition": "gpu --wrap=evil"},
        {"account": "a\n#SBATCH -n 9"},
        {"time": "soon"},
        {"options": ["evil"]},
        {"options": ["--comment=a\nb"]},
        {"tasks": 0},
    ],
)
def test_settings_that_are_no_words_are_refused(wrong):
    with pytest.raises(ValidationError):
        settings(**wrong)


def test_a_dry_run_prints_the_same_bytes_and_hands_nothing_in(cluster, tmp_path):
    runs = [submit(cluster, "--dry-run") for _ in range(2)]
    assert runs[0].exit_code == 0, runs[0].output
    assert runs[0].stdout == runs[1].stdout and runs[0].stdout.count("#!/bin/bash\n") == 3
    assert "'--dependency=afterany:NUMBER OF part.sh'" in runs[0].stdout
    assert "part.sh: sbatch: Job 1 to start at" in runs[0].stderr
    assert not (cluster / "jobs").exists() and not list((tmp_path / "state").glob("*.json"))


def test_what_sbatch_would_refuse_is_not_handed_in(cluster, tmp_path):
    written = yaml.safe_load((cluster / "cluster.yaml").read_text())
    (cluster / "cluster.yaml").write_text(yaml.safe_dump({"slurm": written["slurm"] | {"partition": "full"}}))
    result = submit(cluster)
    assert result.exit_code == 2 and "error: sbatch: " in result.stderr
    assert not list((tmp_path / "state").glob("*.json"))


def test_rows_are_not_appended_by_an_array(cluster):
    result = submit(cluster, "--", "--append")
    assert result.exit_code == 2 and "slurm: {nodes: 1}" in result.stderr


def test_without_slurm_it_is_said(cluster, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    result = submit(cluster)
    assert result.exit_code == 2 and "squeue is not on the PATH" in result.stderr


def test_a_cancelled_job_is_told_and_another_job_of_the_name_refused(cluster, tmp_path):
    """The first script waits; meanwhile somebody else wants the name, and then the job is cancelled."""
    here = tmp_path / "here"
    chosen = SlurmSettings(folder=str(cluster / "jobs"), setup=(f"touch {here}", "sleep 60"), tasks=2)
    job, other = (JobDescription("gone", config, "/in", "/out") for config in ("a: 1", "a: 2"))

    def disturb() -> None:
        wait_for(lambda: here.exists() and list((tmp_path / "state").glob("300.0.state")))
        try:
            slurm.submit(other, chosen, told.append, told.append)
        except UserError as error:
            told.append(str(error))
        subprocess.run(shlex.split(slurm.stop_command(job, chosen)), check=True)

    told: list[str] = []
    disturber = threading.Thread(target=disturb)
    disturber.start()
    with pytest.raises(UserError, match=r"gone has left the queue without an exit code; sacct says 300\|CANCELLED\|0:15"):
        slurm.submit(job, chosen, lambda text: None, lambda text: None)
    disturber.join()
    assert "another job of this name" in told[-1]
