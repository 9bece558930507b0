"""Fetching one address of weights: a file by https, or files of a hub repository.

In: an address that `materia.base.weights.files` understands. Out: the file or folder where
`materia.base.weights.files.local_path` looks for it, verified, or a `DownloadError`. A file is placed whole or not at all; by
https, what came before a break stays beside it (`.part`) and the next try goes on from there, if the server says that the file
is still the same (If-Range).
"""

from __future__ import annotations

import glob
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests

from materia.base.weights.files import (
    WEIGHT_SUFFIXES,
    HashedFile,
    HubAddress,
    hash_files,
    local_path,
    manifest_path,
    model_files,
    sha256_of,
)

TRIES = 5
"""Tries in a row that bring no byte; each waits twice as long as the one before."""
FIRST_WAIT_S = 1.0
TIMEOUT_S = (15.0, 60.0)
"""To connect; between two pieces."""
PIECE_BYTES = 2**17
"""What a break may cost."""
TRANSIENT = frozenset({408, 425, 429})
"""Client errors that pass; so do all 5xx."""

BREAKS = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)

Tell = Callable[[int, int | None], None]
"""Told how many bytes of how many (if known) are here."""


class DownloadError(RuntimeError):
    """What could not be fetched, why, and what to do; one line."""


class _TransientError(Exception):
    """Worth another try."""


def fetch_url(url: str, sha256: str | None, tell: Tell) -> Path:
    """Download a file by https to where it belongs. Raises DownloadError; a file with another hash than stated is removed."""
    path = local_path(url)
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _receive_all(url, part, tell)
        found, size = sha256_of(part), _size(part)
        if sha256 is None or found == sha256.lower():
            part.replace(path)
            return path
        part.unlink()
    except (requests.RequestException, OSError) as error:
        raise DownloadError(f"{url} cannot be fetched: {error}") from None
    raise DownloadError(f"{url} has SHA-256 {found} ({size:,} bytes), expected {sha256}; the file was removed")


def _receive_all(url: str, part: Path, tell: Tell) -> None:
    """Try until `part` is whole. Raises DownloadError when several tries in a row brought nothing."""
    failures = 0
    with requests.Session() as session:
        while True:
            before = _size(part)
            try:
                _receive(session, url, part, tell)
                _tag(part).unlink(missing_ok=True)
                return
            except (_TransientError, *BREAKS) as error:
                failures = 1 if _size(part) > before else failures + 1
                if failures == TRIES:
                    raise DownloadError(f"{url} cannot be fetched: {error}; start again, it goes on where it stopped") from None
                time.sleep(FIRST_WAIT_S * 2 ** (failures - 1))


def _receive(session: requests.Session, url: str, part: Path, tell: Tell) -> None:
    """Bring `part` to its full size. Raises _TransientError, DownloadError, or what requests raises."""
    have, tag = _size(part), _tag(part).read_text() if _tag(part).is_file() else ""
    headers = {"Accept-Encoding": "identity"}  # sizes and ranges of the file itself
    if have and tag:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        status = response.status_code
        if status == 416 and response.headers.get("Content-Range") == f"bytes */{have}":
            return  # all of it was here
        if status in TRANSIENT or status >= 500:
            raise _TransientError(f"the server answers {status} {response.reason}")
        if status not in (200, 206):
            _tag(part).unlink(missing_ok=True)
            raise DownloadError(f"{url} cannot be fetched: the server answers {status} {response.reason}")
        if urlsplit(response.url).scheme != urlsplit(url).scheme:
            raise DownloadError(f"{url} leads to {response.url}, which is not encrypted; refused")
        start = have if status == 206 else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        _tag(part).write_text(_strong(response.headers.get("ETag", "")))
        _write(response, part, start, total, tell)
    if total is not None and _size(part) != total:
        raise _TransientError(f"the connection ended after {_size(part):,} of {total:,} bytes")


def _write(response: requests.Response, part: Path, start: int, total: int | None, tell: Tell) -> None:
    """Write at the offset, never append: where a file system's locks do nothing, two pulls write the same bytes twice."""
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT, 0o644), "wb") as file:
        file.seek(start)
        for piece in response.iter_content(PIECE_BYTES):
            file.write(piece)
            tell(file.tell(), total)
        file.truncate()


def _strong(etag: str) -> str:
    """An entity tag that promises equal bytes; weak ones promise less and are dropped."""
    return "" if etag.startswith("W/") else etag


def _tag(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def fetch_hub(hub: HubAddress, sha256: str | None) -> Path:
    """Download a file of a hub repository, or the files that make its model, into huggingface_hub's cache, and verify them.

    Large files are compared with the SHA-256 that the hub's metadata gives, or with `sha256`; damaged ones of earlier are
    fetched again. A whole repository gets a manifest (`materia.base.weights.files.read_manifest`). Raises DownloadError.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError  # of the client that the hub's library uses

    if constants.HF_HUB_OFFLINE:
        raise DownloadError(f"{_shown(hub)} cannot be fetched: HF_HUB_OFFLINE is set; unset it for this command")
    tries = 0
    while True:
        try:
            return _fetch_hub(hub, sha256)
        except (HTTPError, OSError, ValueError) as error:  # OSError: also what the library says without a connection
            tries += 1
            if tries == TRIES or not _passes(error):
                raise DownloadError(f"{_shown(hub)} cannot be fetched: {_reason(error)}") from None
            time.sleep(FIRST_WAIT_S * 2 ** (tries - 1))


def _fetch_hub(hub: HubAddress, sha256: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache

    info = HfApi().model_info(hub.repo, revision=hub.revision, files_metadata=True)
    expected = _expected(hub, {file.rfilename: file for file in info.siblings or ()}, sha256)
    for name, stated in expected.items():
        cached = try_to_load_from_cache(hub.repo, name, revision=info.sha)
        if isinstance(cached, str) and _wrong(Path(cached), stated):
            _remove(Path(cached))
    patterns = [glob.escape(name) for name in expected]
    folder = Path(snapshot_download(hub.repo, revision=hub.revision, allow_patterns=patterns))
    if folder.name != info.sha:
        raise DownloadError(f"{_shown(hub)} changed while it was fetched; start again, or name a commit")
    for name, stated in expected.items():
        if wrong := _wrong(folder / name, stated):
            _remove(folder / name)
            raise DownloadError(f"{_shown(hub)}: {name} {wrong}; the file was removed")
    if hub.file is not None:
        return folder / hub.file
    _write_manifest(folder, hash_files(folder, expected))
    return folder


class _Stated(NamedTuple):
    """What is known of a file before it is here: size in bytes and SHA-256 (hex), None for what the hub does not say."""

    size: int | None
    sha256: str | None


def _expected(hub: HubAddress, files: Mapping[str, Any], sha256: str | None) -> dict[str, _Stated]:
    """The wanted files of a repository: name -> what the hub states. Raises DownloadError where it has not what is wanted."""
    names = [hub.file] if hub.file is not None else model_files(files)
    if absent := [name for name in names if name not in files]:
        raise DownloadError(f"{_shown(hub)}: {hub.repo} has no file {absent[0]} at revision {hub.revision}")
    if not any(name.endswith(WEIGHT_SUFFIXES) for name in names) and hub.file is None:
        raise DownloadError(f"{_shown(hub)}: {hub.repo} holds no weights (*.safetensors, *.bin) at revision {hub.revision}")
    stated = {name: _Stated(files[name].size, files[name].lfs.sha256 if files[name].lfs else None) for name in names}
    if hub.file is None or sha256 is None:
        return stated
    there = stated[hub.file].sha256
    if there not in (None, sha256.lower()):
        raise DownloadError(f"{_shown(hub)} has SHA-256 {there} on the hub, expected {sha256}; nothing was fetched")
    return {hub.file: _Stated(stated[hub.file].size, sha256.lower())}


def _wrong(path: Path, stated: _Stated) -> str:
    """What is wrong with a file of the cache, empty if nothing is."""
    if not path.is_file():
        return "is not there"
    if stated.size is not None and (size := path.stat().st_size) != stated.size:
        return f"has {size:,} bytes, expected {stated.size:,}"
    if stated.sha256 is not None and (found := sha256_of(path)) != stated.sha256:
        return f"has SHA-256 {found}, expected {stated.sha256}"
    return ""


def _remove(cached: Path) -> None:
    """A file of huggingface_hub's cache: the link in the snapshot and the blob that it leads to."""
    blob = cached.resolve()
    cached.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


def _write_manifest(folder: Path, files: dict[str, HashedFile]) -> None:
    path = manifest_path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(json.dumps(files, indent=1, sort_keys=True))
    temporary.replace(path)


def _passes(error: Exception) -> bool:
    """Whether another try may help: no connection, or a server that is busy or broken."""
    response = getattr(error, "response", None)
    if response is None:  # an error number is this machine's own, e.g. a full disk
        return not isinstance(error, ValueError) and getattr(error, "errno", None) is None
    return response.status_code in TRANSIENT or response.status_code >= 500


def _reason(error: Exception) -> str:
    """The hub's many lines in one, with what helps for repositories that want to know who asks."""
    text = " ".join(str(error).split())[:300]
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"{text} (private or gated? set HF_TOKEN)" if status in (401, 403) else text


def _shown(hub: HubAddress) -> str:
    return f"hf://{hub.repo}{f'/{hub.file}' if hub.file else ''}@{hub.revision}"
