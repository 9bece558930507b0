"""The scripts of `materia submit --target slurm`, and how sbatch is called for each.

In: a `JobDescription` and the cluster's settings. Out: `Script`s in the order in which they are handed in. Options are
arguments of sbatch and not `#SBATCH` lines, whose quoting is sbatch's own; in the scripts every value is quoted for bash.

An array is three jobs: one plans (an empty range: nothing is computed), tasks that own a part of the chunks each, and one that
waits for all tasks, however they ended, and runs the whole: mostly it finds nothing left to do. Its exit code is the job's.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec

from materia.base.errors import UserError
from pipeline.cluster.description import JobDescription
from pipeline.cluster.settings import SlurmSettings

CONFIG, EXIT_CODE, LOGS = "config.yaml", "exit_code", "logs"
"""Files of a job's folder."""
_WARNING_S = 120  # before the time limit: enough to give back what is in work


class Script(msgspec.Struct, frozen=True):
    """`after`: (kind of dependency, file of the script that it waits for). The last script's exit code is the job's."""

    file: str
    job_name: str
    options: tuple[str, ...]
    text: str
    after: tuple[str, str] | None = None


def scripts(job: JobDescription, settings: SlurmSettings, folder: Path) -> list[Script]:
    """What is to be written into a job's folder and handed in, in this order. Raises UserError for --append with an array."""
    if settings.nodes is not None:
        return [_allocation(job, settings, settings.nodes, folder)]
    if "--append" in job.options:
        raise UserError("--append makes the plan longer, which tasks of an array read; `slurm: {nodes: 1}` has one task for it")
    common = (*_common(settings), "--nodes=1", "--ntasks=1")
    throttle = f"%{settings.at_once}" if settings.at_once else ""
    engine = ("--engine", settings.engine)

    def run(*more: str) -> str:
        return shlex.join(["materia", *job.command(str(folder / CONFIG), *engine), *more])

    part = f'{run()} --part "$SLURM_ARRAY_TASK_ID/{settings.tasks}"'
    return [
        Script("plan.sh", f"{job.name}-plan", (*common, _log(folder, "plan")), _script(settings, run("--range", "0:0"))),
        Script(
            "part.sh",
            job.name,
            (*common, f"--array=0-{settings.tasks - 1}{throttle}", _log(folder, "part-%a")),
            _script(settings, part),
            after=("afterok", "plan.sh"),
        ),
        Script(
            "rest.sh",
            f"{job.name}-rest",
            (*common, _log(folder, "rest")),
            _script(settings, run(), folder / EXIT_CODE),
            after=("afterany", "part.sh"),
        ),
    ]


def sbatch(script: Script, folder: Path, dependency: str | None = None) -> list[str]:
    """The command that hands a script in; `dependency`: number of the job that `after` means."""
    command = ["sbatch", "--parsable", f"--job-name={script.job_name}", *script.options]
    if script.after is not None and dependency is not None:
        command += [f"--dependency={script.after[0]}:{dependency}", "--kill-on-invalid-dep=yes"]
    return [*command, str(folder / script.file)]


def _common(settings: SlurmSettings) -> tuple[str, ...]:
    named = {
        "--partition": settings.partition,
        "--account": settings.account,
        "--qos": settings.qos,
        "--gres": settings.gres,
        "--mem": None if settings.memory_gib is None else f"{settings.memory_gib}G",
        "--time": settings.time,
        "--cpus-per-task": settings.cpus,
    }
    given = tuple(f"{option}={value}" for option, value in named.items() if value is not None)
    # a signal of its own for the end of the time: after SIGTERM, which scancel sends, nobody wants to be queued again
    return (*given, "--requeue", "--open-mode=append", f"--signal=B:USR1@{_WARNING_S}", *settings.options)


def _log(folder: Path, name: str) -> str:
    """`%` in a path would be a pattern of sbatch's."""
    return f"--output={str(folder / LOGS).replace('%', '%%')}/{name}.log"


def _script(settings: SlurmSettings, command: str, exit_code: Path | None = None, before: str = "") -> str:
    """Run a command that hears of its end in time: when the time is nearly up it stops in good order and is queued again.

    `before`: lines that may call `finish CODE`. The code of the second `wait` is the command's, also where a signal has ended
    the first one.
    """
    setup = "".join(f"{line}\n" for line in settings.setup)
    note = ""
    if exit_code is not None:
        file = shlex.quote(str(exit_code))
        note = f"printf '%s\\n' \"$1\" > {file}.new && mv {file}.new {file}; "
    return f"""\
#!/bin/bash
# Written by `materia submit`.
finish() {{ {note}kill $(jobs -p) 2>/dev/null; exit "$1"; }}
{setup}{before}again=
trap 'again=yes; kill -TERM "$run"' USR1
trap 'kill -TERM "$run"' TERM INT
{command} &
run=$!
while wait "$run"; kill -0 "$run" 2>/dev/null; do :; done
wait "$run"
code=$?
if [ -n "$again" ] && [ "$code" -ge 128 ]; then
  scontrol requeue "$SLURM_JOB_ID" && exit
fi
finish "$code"
"""


def _allocation(job: JobDescription, settings: SlurmSettings, nodes: int, folder: Path) -> Script:
    """One Ray over all nodes of an allocation: its head where the script runs, the driver beside it.

    A token of the job's own keeps others on the nodes out of it.
    """
    ray = 'ray start --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats --block'
    before = f"""\
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN="$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')"
address="$(hostname --all-ip-addresses | cut -d' ' -f1)"
port=$((20000 + SLURM_JOB_ID % 20000))
{ray} --head --node-ip-address="$address" --port="$port" --include-dashboard=false &
"""
    if nodes > 1:
        tasks = f"--relative=1 --nodes={nodes - 1} --ntasks={nodes - 1} --ntasks-per-node=1"
        before += f'srun {tasks} {ray} --address="$address:$port" &\n'
    before += f'python -m pipeline.cluster.await_nodes "$address:$port" {nodes} || finish $?\n'
    command = shlex.join(["materia", *job.command(str(folder / CONFIG))]) + ' --ray-address "$address:$port"'
    options = (*_common(settings), f"--nodes={nodes}", "--ntasks-per-node=1", _log(folder, "run"))
    return Script("run.sh", job.name, options, _script(settings, command, folder / EXIT_CODE, before))
