"""`materia submit --target slurm`: hand scripts in, follow their logs, come back with the job's exit code.

In: a `JobDescription` and the cluster's settings. Out: the exit code, which the last script leaves in the job's folder. The
folder, on a disk that nodes and this machine see, has everything of a job: scripts, configuration, logs, exit code.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from materia.base.errors import UserError
from materia.base.locks import only_one
from pipeline.cluster.description import JobDescription
from pipeline.cluster.settings import SlurmSettings
from pipeline.cluster.slurm_scripts import CONFIG, EXIT_CODE, LOGS, Script, sbatch, scripts

POLL_S = 5.0
_PATIENCE_S = 600.0  # a controller may be away for a while
_GRACE_S = 90.0  # a network file system may show a new file so late
_FINGERPRINT = "fingerprint"


def dry_run(job: JobDescription, settings: SlurmSettings) -> str:
    """The files that would be written, and the commands that would hand them in."""
    folder = _folder(job, settings)
    parts = [f"# {folder / CONFIG}\n{job.config}"]
    parts += [f"# {folder / script.file}\n{script.text}" for script in scripts(job, settings, folder)]
    commands = [shlex.join(sbatch(script, folder, f"NUMBER OF {_before(script)}")) for script in scripts(job, settings, folder)]
    return "\n".join([*parts, "# handed in by\n" + "\n".join(commands)]) + "\n"


def submit(job: JobDescription, settings: SlurmSettings, tell: Callable[[str], None], write: Callable[[str], None]) -> int:
    """Hand the job in, or find it, and follow it to its end. Raises UserError."""
    folder = _folder(job, settings)
    written = scripts(job, settings, folder)
    with only_one(folder / "lock", lambda holder: tell(f"waiting for {holder}, which hands in the same job")):
        queued = _queued(written)
        same = _read(folder / _FINGERPRINT) == job.fingerprint
        if written[-1].job_name in queued:
            if not same:
                raise UserError(
                    f"{job.name} in the queue is another job of this name; wait for its end, stop it with"
                    f" `{stop_command(job, settings)}`, or give another --name"
                )
            tell(f"{job.name} is in the queue already; another --name starts another job")
        elif same and _exit_code(folder) == 0:
            tell(f"{job.name} finished before; another --name starts another job")
        else:
            if queued:  # somebody was interrupted while handing in
                _slurm("scancel", f"--name={','.join(queued)}", "--me")
            _hand_in(job, written, folder)
            tell(f"{job.name} is handed in; its folder is {folder}")
    return _follow(job, written, folder, tell, write)


def test_only(job: JobDescription, settings: SlurmSettings) -> list[str]:
    """What `sbatch --test-only` says of each script, without handing any in. Raises UserError if one would be refused."""
    folder = _folder(job, settings)
    said = []
    for script in scripts(job, settings, folder):
        command = sbatch(script, folder)
        test = [command[0], "--test-only", *command[1:-1]]
        said.append(f"{script.file}: {_slurm(*test, input=script.text).strip()}")
    return said


def stop_command(job: JobDescription, settings: SlurmSettings) -> str:
    """What ends the job, typed in a shell."""
    return f"scancel --me --name={','.join(script.job_name for script in scripts(job, settings, Path()))}"


def _folder(job: JobDescription, settings: SlurmSettings) -> Path:
    return Path(settings.folder).absolute() / job.name


def _before(script: Script) -> str:
    return script.after[1] if script.after is not None else ""


def _hand_in(job: JobDescription, written: list[Script], folder: Path) -> None:
    (folder / LOGS).mkdir(parents=True, exist_ok=True)
    for old in [folder / EXIT_CODE, *(folder / LOGS).glob("*.log")]:
        old.unlink(missing_ok=True)
    (folder / CONFIG).write_text(job.config, encoding="utf-8")
    (folder / _FINGERPRINT).write_text(job.fingerprint)
    numbers: dict[str, str] = {}
    for script in written:
        (folder / script.file).write_text(script.text, encoding="utf-8")
        answer = _slurm(*sbatch(script, folder, numbers.get(_before(script))))
        numbers[script.file] = answer.strip().partition(";")[0]  # NUMBER or NUMBER;CLUSTER


def _follow(
    job: JobDescription, written: list[Script], folder: Path, tell: Callable[[str], None], write: Callable[[str], None]
) -> int:
    logs = _Logs(folder / LOGS, write)
    last: dict[str, str] = {}
    heard = seen = time.monotonic()
    while True:
        queued: dict[str, str] | None = None
        try:
            queued, heard = _queued(written), time.monotonic()
        except UserError:
            if time.monotonic() - heard > _PATIENCE_S:
                raise
        if queued is None or written[-1].job_name in queued:
            seen = time.monotonic()
        code = _exit_code(folder)  # after the queue: who is no longer in it has written it
        logs.show()
        if queued is not None and queued != last and code is None:
            tell(", ".join(f"{name}: {states}" for name, states in queued.items()) or f"{job.name} has left the queue")
            last = queued
        if code is not None:
            tell(f"{job.name} ended with exit code {code}")
            return code
        if time.monotonic() - seen > _GRACE_S:
            raise UserError(_ended_without_a_code(job, written[-1]))
        time.sleep(POLL_S)


def _ended_without_a_code(job: JobDescription, script: Script) -> str:
    said = ""
    with contextlib.suppress(UserError):  # there may be no accounting
        columns = ["--allocations", "--noheader", "--parsable2", "--format=JobID,State,ExitCode"]
        table = _slurm("sacct", f"--name={script.job_name}", *columns)
        said = table.strip().splitlines()[-1] if table.strip() else ""
    return (
        f"{job.name} has left the queue without an exit code{f'; sacct says {said}' if said else ''}: it was cancelled, or its"
        " node was lost; the same command hands it in again, and it goes on with the output"
    )


class _Logs:
    """The files of a folder, shown as they grow, a line with its file's name before it; what was there before is shown, too."""

    def __init__(self, folder: Path, write: Callable[[str], None]) -> None:
        self._folder = folder
        self._write = write
        self._read: Counter[Path] = Counter()  # bytes

    def show(self) -> None:
        """Lines that are whole by now."""
        for path in sorted(self._folder.glob("*.log")):
            with path.open("rb") as file:
                file.seek(self._read[path])
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read[path] += len(whole)
            for line in whole.decode(errors="replace").splitlines():
                self._write(f"[{path.stem}] {line}\n")


def _queued(written: list[Script]) -> dict[str, str]:
    """Job name -> how many of its tasks are in which state, for those that are in the queue; in the order of the scripts."""
    names = [script.job_name for script in written]
    table = _slurm("squeue", "--me", "--noheader", "--array", f"--name={','.join(names)}", "--format=%j %T")
    states: dict[str, Counter[str]] = {name: Counter() for name in names}
    for line in table.splitlines():
        name, _, state = line.strip().partition(" ")
        if name in states and state not in ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT"):
            states[name][state.lower()] += 1
    told = {name: ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) for name, counts in states.items()}
    return {name: text for name, text in told.items() if text}


def _exit_code(folder: Path) -> int | None:
    text = _read(folder / EXIT_CODE)
    return int(text) if text.strip().isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _slurm(*command: str, input: str | None = None) -> str:
    try:
        done = subprocess.run(command, input=input, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(
            f"{command[0]} is not on the PATH; call this where one hands in to Slurm, or hand in what --dry-run prints"
        ) from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"{command[0]}: {error.stderr.strip() or f'exit code {error.returncode}'}") from None
    return done.stdout or done.stderr  # `sbatch --test-only` speaks on standard error
