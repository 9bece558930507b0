"""Writes that happen only if a file is still as its writer saw it; storage.py's `staged` and `atomic_write` lead here.

In: what a file shall be replaced by, and the version that shall be there (None: no file). Out: the file is replaced, or
`Conflict` is raised and it is as it was. Who finds a conflict but the very content that they wanted to write has succeeded: the
answer to an earlier attempt was lost, or another writer made the same.
On a local disk a new file is linked under its name, which fails if that exists; before a replacement the version is checked,
but not in one step with it: there writers need a lock besides. S3 checks If-None-Match and If-Match in one step with the
write. Other stores may check nothing: storage.py's `checks_conditions` tells.
"""

from __future__ import annotations

import errno
import filecmp
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

ANY: Final = "*"
"""In place of a version: whatever is there."""

_PART_BYTES = 64 << 20
_CHECKED = {"PreconditionFailed", "412"}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV}


class Conflict(OSError):
    """A conditional write found a file that is not the one expected, and with other content than it wanted to write."""


def local_version(path: Path) -> str | None:
    """A mark of a local file's state, which changes when it is replaced; None if there is none."""
    try:
        seen = path.stat()
    except FileNotFoundError:
        return None
    return f"{seen.st_ino}-{seen.st_mtime_ns}-{seen.st_size}"


def store_version(store: Any, name: str) -> str | None:
    """The store's own mark of an object's content (ETag); None if there is no object."""
    try:
        info = store.info(name)
    except FileNotFoundError:
        return None
    return str(info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("created") or info["size"])


def rename(temporary: Path, path: Path, replaces: str | None) -> None:
    """Give a finished local file its name. Raises Conflict."""
    if replaces is None:
        try:
            path.hardlink_to(temporary)
            return
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_LINKS or path.exists():
                raise
            temporary.replace(path)
            return
    elif replaces == ANY or local_version(path) == replaces:
        temporary.replace(path)
        return
    if not (path.exists() and filecmp.cmp(temporary, path, shallow=False)):
        raise Conflict(errno.EEXIST, "was written by somebody else meanwhile", str(path))


def put(store: Any, name: str, path: Path, replaces: str | None) -> None:
    """Upload a finished local file. Raises Conflict where the store checks conditions."""
    if replaces == ANY:
        store.put_file(str(path), name)
    elif replaces is None:
        with _conflicts(store, name, path, replaces):
            store.put_file(str(path), name, mode="create")
    elif not _is_s3(store):
        store.put_file(str(path), name)
    else:
        with _conflicts(store, name, path, replaces):
            _replace(store, name, path, replaces)


@contextmanager
def _conflicts(store: Any, name: str, path: Path, replaces: str | None) -> Iterator[None]:
    """Turn a store's refusal into Conflict, unless what is there is what was to be written.

    A refusal although all is as it was to be says nothing yet: that error goes on, and the write is tried again.
    """
    try:
        yield
    except Exception as error:
        if not _refused(error):
            raise
        if _same(store, name, path):
            return
        if store_version(store, name) == replaces:
            raise TimeoutError("refused, though nothing had changed") from error
        raise Conflict(errno.EEXIST, "was written by somebody else meanwhile", name) from None


def _refused(error: Exception) -> bool:
    if isinstance(error, FileExistsError | FileNotFoundError):  # If-Match of an object that has gone: 404
        return True
    response = getattr(error.__cause__ or error, "response", None)
    return isinstance(response, dict) and response.get("Error", {}).get("Code") in _CHECKED


def _same(store: Any, name: str, path: Path) -> bool:
    try:
        if int(store.size(name)) != path.stat().st_size:
            return False
        with store.open(name, "rb") as there, path.open("rb") as here:
            while block := here.read(_PART_BYTES):
                if there.read(_PART_BYTES) != block:
                    return False
    except FileNotFoundError:
        return False
    return True


def _is_s3(store: Any) -> bool:
    return "s3" in ((store.protocol,) if isinstance(store.protocol, str) else store.protocol)


def _replace(store: Any, name: str, path: Path, version: str) -> None:
    """PutObject, or in parts if it is large, If-Match; s3fs has a word only for If-None-Match."""
    bucket, key, _ = store.split_path(name)
    place = {"Bucket": bucket, "Key": key}
    try:
        if path.stat().st_size <= _PART_BYTES:
            store.call_s3("put_object", **place, Body=path.read_bytes(), IfMatch=version)
            return
        upload = {**place, "UploadId": store.call_s3("create_multipart_upload", **place)["UploadId"]}
        try:
            parts: list[dict[str, Any]] = []
            with path.open("rb") as file:
                while block := file.read(_PART_BYTES):
                    number = len(parts) + 1
                    answer = store.call_s3("upload_part", **upload, PartNumber=number, Body=block)
                    parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            if store_version(store, name) != version:  # a server of tests checks no condition here, unlike S3
                raise FileExistsError(name)
            store.call_s3("complete_multipart_upload", **upload, MultipartUpload={"Parts": parts}, IfMatch=version)
        except BaseException:
            store.call_s3("abort_multipart_upload", **upload)
            raise
    finally:
        store.invalidate_cache(name)
