"""A scheduler of this machine for tests, called as sbatch, squeue, scancel, scontrol and sacct: tasks are processes.

Its state is the folder of FAKE_SLURM. Who is killed with SIGKILL was on a node that was lost, and is queued again.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

STATE = Path(os.environ["FAKE_SLURM"])
FINAL = {"COMPLETED", "FAILED", "CANCELLED"}


def jobs() -> dict[int, dict]:
    """Number -> job; of an array, all tasks are in one."""
    return {int(file.stem): json.loads(file.read_text()) for file in sorted(STATE.glob("*.json"))}


def change(number: int, task: int, state: str) -> None:
    (STATE / f"{number}.{task}.state").write_text(state)


def states(number: int) -> dict[int, str]:
    files = [(int(file.name.split(".")[1]), file) for file in STATE.glob(f"{number}.*.state")]
    return {task: file.read_text() for task, file in sorted(files)}


def sbatch(options: dict[str, str], script: str | None) -> None:
    if "--test-only" in options:
        assert script is None and sys.stdin.read().startswith("#!/bin/bash\n")
        sys.exit("sbatch: Job 1 to start at 2026-01-01T00:00:00") if options.get("--partition") == "full" else None
        sys.stderr.write("sbatch: Job 1 to start at 2026-01-01T00:00:00\n")
        return
    number = 100 * (1 + len(jobs()))
    tasks = re.match(r"0-(\d+)", options.get("--array", "0-0"))
    job = {"name": options["--job-name"], "options": options, "script": script, "cwd": str(Path.cwd())}
    (STATE / f"{number}.json").write_text(json.dumps(job))
    for task in range(int(tasks[1]) + 1):
        change(number, task, "PENDING")
    command = [sys.executable, "-SE", __file__, "--run", str(number)]
    nowhere = subprocess.DEVNULL  # who called sbatch waits for the end of its pipes
    subprocess.Popen(command, start_new_session=True, stdin=nowhere, stdout=nowhere, stderr=nowhere)
    sys.stdout.write(f"{number}\n")


def run(number: int) -> None:
    """What the controller and a node do: wait for other jobs, run the tasks two at a time."""
    job = jobs()[number]
    kind, _, other = job["options"].get("--dependency", "").partition(":")
    while other and not set(states(int(other)).values()) <= FINAL:
        time.sleep(0.05)
    if kind == "afterok" and set(states(int(other)).values()) != {"COMPLETED"}:
        assert job["options"]["--kill-on-invalid-dep"] == "yes"
        for task in states(number):
            change(number, task, "CANCELLED")
        return
    with ThreadPoolExecutor(2) as nodes:
        list(nodes.map(lambda task: run_task(number, job, task), states(number)))


def run_task(number: int, job: dict, task: int) -> None:
    restarts = 0
    one = str(number + task)
    log = job["options"]["--output"].replace("%a", str(task)).replace("%%", "%")
    while states(number)[task] == "PENDING":
        environment = os.environ | {"SLURM_JOB_ID": one, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_RESTART_COUNT": str(restarts)}
        with Path(log).open("a") as output:
            process = subprocess.Popen(
                ["bash", job["script"]], cwd=job["cwd"], env=environment, stdout=output, stderr=output, start_new_session=True
            )
            (STATE / f"{one}.pid").write_text(str(process.pid))
            change(number, task, "RUNNING")
            code = process.wait()
        again = STATE / f"{one}.again"
        if code == -signal.SIGKILL or again.exists():
            again.unlink(missing_ok=True)
            restarts += 1
            change(number, task, "PENDING")
        else:
            change(number, task, "CANCELLED" if states(number)[task] == "CANCELLED" else "FAILED" if code else "COMPLETED")


def main() -> None:
    arguments = sys.argv[1:]
    options = dict(part.partition("=")[::2] for part in arguments if part.startswith("--"))
    names = options.get("--name", "").split(",")
    match Path(sys.argv[0]).name:
        case "sbatch":
            sbatch(options, next((part for part in arguments if not part.startswith("--")), None))
        case "squeue":
            for number, job in jobs().items():
                for state in states(number).values():
                    if job["name"] in names and state not in FINAL:
                        sys.stdout.write(f"{job['name']} {state}\n")
        case "scancel":
            for number, job in jobs().items():
                for task, state in states(number).items() if job["name"] in names else ():
                    change(number, task, "CANCELLED")
                    pid = STATE / f"{number + task}.pid"
                    if pid.exists() and state not in FINAL:
                        os.killpg(int(pid.read_text()), signal.SIGTERM)
        case "scontrol":
            assert arguments[0] == "requeue"
            (STATE / f"{arguments[1]}.again").touch()
        case "sacct":
            for number, job in jobs().items():
                for state in states(number).values():
                    if job["name"] in names:
                        sys.stdout.write(f"{number}|{state}|0:15\n")
        case _:
            run(int(arguments[1]))


if __name__ == "__main__":
    main()
