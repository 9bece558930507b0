"""`materia submit --target kuberay`: hand a RayJob in through kubectl, follow its log, come back with its exit code.

In: the objects of pipeline/cluster/kuberay.py. Out: the exit code of `materia run` in the cluster, which Ray tells in the
message of a job that failed and KubeRay keeps in the RayJob's status. A job that is there is followed; one that failed is made
anew.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from materia.base.errors import UserError
from pipeline.cluster.description import JobDescription
from pipeline.cluster.kuberay import FINGERPRINT, as_yaml
from pipeline.cluster.settings import KubeRaySettings

POLL_S = 5.0
_PATIENCE_S = 300.0  # an API server may be away for a while
_ENDED = ("Complete", "Failed")
_EXIT_CODE = re.compile(r"failed with exit code (-?\d+)")


def submit(
    job: JobDescription,
    settings: KubeRaySettings,
    documents: list[dict[str, Any]],
    tell: Callable[[str], None],
    write: Callable[[str], None],
) -> int:
    """Hand the job in, or find it, and follow it to its end. Raises UserError."""
    there = _look(job, settings)
    if there is not None and _is_done(there):
        if _status(there).get("jobStatus") != "SUCCEEDED" or not _is_same(there, job):
            tell(f"the RayJob {job.name} of before has ended; it is made anew and goes on with the output")
            _kubectl("delete", "rayjob", job.name, "--namespace", settings.namespace, "--wait=true", "--ignore-not-found=true")
            there = None
    elif there is not None and not _is_same(there, job):
        raise UserError(
            f"the RayJob {job.name} in {settings.namespace} is another job of this name; wait for its end, stop it with"
            f" `{stop_command(job, settings)}`, or give another --name"
        )
    if there is None:
        _kubectl("apply", "--filename", "-", input=as_yaml(documents))
        tell(f"{job.name} is handed in to namespace {settings.namespace}")
    else:
        tell(f"{job.name} is there already; another --name starts another job")
    return _follow(job, settings, tell, write)


def stop_command(job: JobDescription, settings: KubeRaySettings) -> str:
    """What ends the job, typed in a shell."""
    return shlex.join(["kubectl", "delete", "rayjob", job.name, "--namespace", settings.namespace])


def exit_code_of(status: dict[str, Any]) -> int:
    """Of `materia run`, out of a RayJob's status: 143 if it was stopped, 1 if KubeRay could not run it to an end."""
    if status.get("jobStatus") == "SUCCEEDED":
        return 0
    if status.get("jobStatus") == "STOPPED":
        return 143
    told = _EXIT_CODE.search(status.get("message") or "")
    code = int(told[1]) if told else 1
    return 128 - code if code < 0 else code  # ended by a signal


def _follow(job: JobDescription, settings: KubeRaySettings, tell: Callable[[str], None], write: Callable[[str], None]) -> int:
    last = ""
    shown: Counter[str] = Counter()  # lines of each attempt's log
    while True:
        there = _patiently(lambda: _look(job, settings))
        if there is None:
            raise UserError(
                f"the RayJob {job.name} was deleted; the same command makes it anew, and it goes on with the output"
            )
        status = _status(there)
        state = status.get("jobDeploymentStatus") or "new"
        if state != last:
            tell(f"{job.name}: {state}")
            last = state
        if _is_done(there):
            break
        if state == "Running":
            _stream(job, settings, shown, status.get("jobId") or "", write)
        time.sleep(POLL_S)
    code = exit_code_of(status)
    if code and not _EXIT_CODE.search(status.get("message") or ""):
        tell(f"{job.name}: {status.get('reason') or ''} {status.get('message') or ''}".rstrip())
    tell(f"{job.name} ended with exit code {code}")
    return code


def _stream(
    job: JobDescription, settings: KubeRaySettings, shown: Counter[str], attempt: str, write: Callable[[str], None]
) -> None:
    """Show what the submitter's pod says until it ends or the connection does, but the lines that were shown before."""
    command = ["kubectl", "logs", f"job/{job.name}", "--namespace", settings.namespace, "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace") as process:
        assert process.stdout is not None
        for number, line in enumerate(process.stdout):
            if number >= shown[attempt]:
                write(line)
                shown[attempt] += 1


def _look(job: JobDescription, settings: KubeRaySettings) -> dict[str, Any] | None:
    found = _kubectl("get", "rayjob", job.name, "--namespace", settings.namespace, "--ignore-not-found=true", "--output=json")
    there: dict[str, Any] | None = json.loads(found) if found.strip() else None
    return there


def _status(there: dict[str, Any]) -> dict[str, Any]:
    status: dict[str, Any] = there.get("status") or {}
    return status


def _is_done(there: dict[str, Any]) -> bool:
    return _status(there).get("jobDeploymentStatus") in _ENDED


def _is_same(there: dict[str, Any], job: JobDescription) -> bool:
    annotations = there.get("metadata", {}).get("annotations") or {}
    return annotations.get(FINGERPRINT) == job.fingerprint


def _patiently(ask: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    ends = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return ask()
        except UserError:
            if time.monotonic() > ends:
                raise
            time.sleep(POLL_S)


def _kubectl(*arguments: str, input: str | None = None) -> str:
    try:
        return subprocess.run(["kubectl", *arguments], input=input, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise UserError(
            "kubectl is not on the PATH; install it, or hand in by other means what --dry-run prints, as `kubectl apply -f -`"
        ) from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"kubectl {arguments[0]}: {error.stderr.strip() or f'exit code {error.returncode}'}") from None
