"""`materia submit --target ray`: the job as a Ray Job on a cluster that is there.

In: a `JobDescription`. Out: the exit code of `materia run` on the cluster. A job that failed or was stopped is handed in again
as another attempt, NAME-2, NAME-3, ...; the cluster keeps the logs of all. What git tracks travels as the job's working
directory, with the configuration beside it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import yaml

from materia.base.errors import UserError
from pipeline.cluster import code
from pipeline.cluster.description import JobDescription
from pipeline.cluster.settings import RaySettings

CONFIG = "materia-job.yaml"
"""In the job's working directory, beside the code."""
POLL_S = 1.0
_PATIENCE_S = 120.0  # a busy head answers late
_NAME, _FINGERPRINT = "materia_job", "materia_fingerprint"


def dry_run(job: JobDescription, settings: RaySettings, folder: Path) -> str:
    """What would be sent, as YAML; the archive by its size and SHA-256."""
    archive = _archive(job, settings, folder)
    _, names = code.tracked_files(folder) if settings.code == "git" else (None, [])
    sent = f"{len(names) + 1} files, {len(archive)} bytes, SHA-256 {hashlib.sha256(archive).hexdigest()}"
    request = {"address": settings.address, "submission_id": f"{job.name}-1", **_request(job, settings, sent)}
    return yaml.safe_dump({**request, CONFIG: yaml.safe_load(job.config)}, sort_keys=False, allow_unicode=True)


def submit(
    job: JobDescription, settings: RaySettings, folder: Path, tell: Callable[[str], None], write: Callable[[str], None]
) -> int:
    """Hand the job in, or find it, and follow it to its end. Raises UserError."""
    client = _client(settings.address)
    last = _last_attempt(client, job)
    same = last is not None and last.metadata.get(_FINGERPRINT) == job.fingerprint
    if last is not None and same and last.status in ("PENDING", "RUNNING", "SUCCEEDED"):
        found = "finished before" if last.status == "SUCCEEDED" else "is there already"
        tell(f"{job.name} {found}, as {last.submission_id}; another --name starts another job")
        return _follow(client, last.submission_id, settings.address, tell, write)
    if last is not None and last.status in ("PENDING", "RUNNING"):
        raise UserError(
            f"{last.submission_id} at {settings.address} is another job of this name: {last.entrypoint}; wait for its end, stop"
            f" it with `{stop_command(job, settings)}`, or give another --name"
        )
    submission = f"{job.name}-{_number(last.submission_id) + 1 if last is not None else 1}"
    _send(client, job, settings, folder, submission)
    tell(f"{submission} is handed in at {settings.address}")
    return _follow(client, submission, settings.address, tell, write)


def stop_command(job: JobDescription, settings: RaySettings) -> str:
    """What ends the job's last attempt, typed in a shell. Raises UserError."""
    last = _last_attempt(_client(settings.address), job)
    submission = f"{job.name}-1" if last is None else last.submission_id
    return shlex.join(["ray", "job", "stop", "--address", settings.address, submission])


def exit_code_of(status: str, driver_exit_code: int | None) -> int:
    """Exit code of the command that a Ray Job ran; 143 if it was stopped, 1 if Ray could not run it to an end."""
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        return 143
    if driver_exit_code is None:
        return 1
    return 128 - driver_exit_code if driver_exit_code < 0 else driver_exit_code  # ended by a signal


def _request(job: JobDescription, settings: RaySettings, archive: str) -> dict[str, Any]:
    environment: dict[str, Any] = {"working_dir": archive, "env_vars": dict(settings.env)}
    if settings.code.endswith(".whl"):
        environment["py_modules"] = [settings.code]
    entrypoint = ["python", "-m", "prima_materia", *job.command(CONFIG, "--ray-address", "auto")]
    return {
        "entrypoint": shlex.join(entrypoint),
        "runtime_env": environment,
        "metadata": {_NAME: job.name, _FINGERPRINT: job.fingerprint},
    }


def _archive(job: JobDescription, settings: RaySettings, folder: Path) -> bytes:
    if settings.code == "git":
        return code.archive(folder, {CONFIG: job.config})
    if settings.code != "nodes" and not Path(settings.code).is_file():
        raise UserError(f"{settings.code}: no such wheel; `uv build --wheel` makes one")
    return code.packed({CONFIG: job.config.encode()})


def _client(address: str) -> Any:
    """Raises UserError that says what is lacking, here or at the head."""
    try:
        import aiohttp  # noqa: F401  # Ray's client imports without it, and fails later
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise UserError(f"Ray Jobs need {error.name}: pip install 'prima-materia[cluster]'") from None
    for name in ("job.sdk", "dashboard_sdk"):  # which tell of uploads and connections
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address, headers=_credentials())
    except AuthenticationError:
        raise UserError(
            f"Ray at {address} asks for its token: put what `ray get-auth-token` prints on its head into ~/.ray/auth_token"
            " here, or into RAY_AUTH_TOKEN"
        ) from None
    except (ConnectionError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        raise UserError(
            f"no Ray takes jobs at {address} ({why}); the head needs ray[default] (pip install 'prima-materia[cluster]') and,"
            " to be reached from other machines, `ray start --head --dashboard-host=0.0.0.0`; `ray: {address: ...}` in the"
            " cluster's file says where it is"
        ) from None


def _credentials() -> dict[str, str]:
    """Ray's own token as a header: its client for jobs sends it only where a variable says so."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return {}
    place = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    token = os.environ.get("RAY_AUTH_TOKEN") or (place.read_text().strip() if place.is_file() else "")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _send(client: Any, job: JobDescription, settings: RaySettings, folder: Path, submission: str) -> None:
    """An attempt of the same number that somebody else hands in at the same moment is as good as ours."""
    with tempfile.TemporaryDirectory(prefix="materia-submit-") as scratch:
        archive = Path(scratch, "code.zip")
        archive.write_bytes(_archive(job, settings, folder))
        try:
            client.submit_job(submission_id=submission, **_request(job, settings, str(archive)))
        except RuntimeError as error:
            if "already exists" not in str(error):
                raise UserError(
                    f"Ray at {settings.address} refuses {submission}: {str(error).strip().splitlines()[-1]}"
                ) from None
        except requests.RequestException as error:
            raise UserError(f"Ray at {settings.address} does not answer: {error}; the same command tries again") from None


def _follow(client: Any, submission: str, address: str, tell: Callable[[str], None], write: Callable[[str], None]) -> int:
    import aiohttp

    shown = 0

    def show(text: str) -> None:
        nonlocal shown
        shown += len(text)
        write(text)

    while True:
        whole = True
        try:
            asyncio.run(_tail(client, submission, shown, show))
        except (RuntimeError, OSError, aiohttp.ClientError):
            whole = False
        info = _persistently(lambda: client.get_job_info(submission), address)
        if info.status in ("SUCCEEDED", "FAILED", "STOPPED"):
            break
        time.sleep(POLL_S)
    if not whole:
        show(_persistently(lambda: client.get_job_logs(submission), address)[shown:])
    code = exit_code_of(info.status, info.driver_exit_code)
    if info.status == "FAILED" and info.driver_exit_code is None:
        tell(f"Ray could not run it: {(info.message or '').strip()}")
    tell(f"{submission} ended with exit code {code}")
    return code


async def _tail(client: Any, submission: str, shown: int, show: Callable[[str], None]) -> None:
    """Show the log as it grows, but what was shown before, until the job or the connection ends."""
    skip = shown
    async for text in client.tail_job_logs(submission):
        if skip < len(text):
            show(text[skip:])
        skip = max(0, skip - len(text))


def _persistently(ask: Callable[[], Any], address: str) -> Any:
    ends = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return ask()
        except (RuntimeError, OSError) as error:  # those of requests are OSErrors
            if time.monotonic() > ends:
                raise UserError(
                    f"Ray at {address} answers no more ({error}); the same command finds the job again, or, on a new cluster,"
                    " goes on with the output"
                ) from None
            time.sleep(POLL_S)


def _last_attempt(client: Any, job: JobDescription) -> Any:
    attempts = [one for one in client.list_jobs() if one.submission_id and (one.metadata or {}).get(_NAME) == job.name]
    return max(attempts, key=lambda one: _number(one.submission_id), default=None)


def _number(submission: str) -> int:
    return int(submission.rpartition("-")[2])
