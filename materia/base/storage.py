"""Files of an output, on a local disk or in an object store, written so that a reader sees a whole file or none.

In: addresses (a local path, `file://`, or any fsspec address: `s3://`, `gs://`, `memory://`). Out: bytes, names, whole files.
Locally a file is written beside its target under a temporary name (`.NAME.TOKEN.tmp`), fsynced, renamed over the target, and
its folder fsynced; to an object store it is uploaded in one piece from a local file, because a store shows an object only
when it is complete. Paths without a protocol never touch fsspec, so small local files stay cheap.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar

T = TypeVar("T")

_TEMPORARY = re.compile(r"\.[^/]+\.[0-9a-f]{8}\.tmp")


PAUSES_S = (0.0, 0.2, 1.0, 3.0)
"""Before each attempt at storage that may not answer."""
_NO_SUCH_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


class StorageFailed(OSError):
    """The storage failed for every attempt; the message names the last error's type, not its text, which may hold request ids
    that differ from run to run."""


class NotAFile(OSError):
    """The address names a folder, a pipe or a device: nothing that can be read as a clip."""


class Staged:
    """A file in the making. Write to `file`; readers see nothing until `publish`, and never see it if that is not called."""

    def __init__(self, file: IO[bytes], publish: Callable[[], None]) -> None:
        self.file = file
        self._publish = publish

    def publish(self) -> None:
        """Make what was written visible under its name, whole and durable; replaces what was there."""
        self.file.flush()
        self._publish()


def persistently(attempt: Callable[[], T]) -> T:
    """Ask the storage, again after a pause if it fails in a way that may pass.

    Raises StorageFailed, or at once the OSError of a file that is not there, may not be seen, or is none.
    """
    failure = ""
    for pause_s in PAUSES_S:
        time.sleep(pause_s)
        try:
            return attempt()
        except Exception as error:  # every storage library has exceptions of its own
            if isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError | NotAFile):
                raise
            if isinstance(error, OSError) and error.errno in _NO_SUCH_FILE:
                raise
            failure = type(error).__name__
    raise StorageFailed(f"the storage failed {len(PAUSES_S)} times, last with {failure}")


def local_path(address: str) -> Path | None:
    """The path of a local address (`/a/b`, `a/b`, `file:///a/b`); None for an object store."""
    if address.startswith("file://"):
        return Path(address.removeprefix("file://"))
    return None if "://" in address else Path(address)


def join(root: str, *parts: str) -> str:
    """`root/part/part`, for paths and addresses alike."""
    return "/".join([root.removesuffix("/"), *parts])


def exists(address: str) -> bool:
    """Whether a file or folder is there."""
    path = local_path(address)
    if path is not None:
        return path.exists()
    store, name = _store(address)
    return bool(store.exists(name))


def size(address: str) -> int:
    """Bytes of a file. Raises FileNotFoundError."""
    path = local_path(address)
    if path is not None:
        return path.stat().st_size
    store, name = _store(address)
    return int(store.size(name))


def listdir(address: str) -> list[str]:
    """Sorted names in a folder, without temporary files; a missing folder is empty."""
    return [name for name in _names(address) if not _TEMPORARY.fullmatch(name)]


def temporaries(out: str) -> list[str]:
    """Addresses of files that a crashed writer left in `out` and the folders below it."""
    root = local_path(out)
    if root is None:  # an object store has none: nothing is visible before it is whole
        return []
    return sorted(
        join(folder, name)
        for folder, _, names in os.walk(root, followlinks=False)
        for name in names
        if _TEMPORARY.fullmatch(name)
    )


def clean_temporaries(out: str) -> int:
    """Remove what a crashed writer left; gives the number of files. Only for a job that is `out`'s one writer."""
    leftovers = temporaries(out)
    for leftover in leftovers:
        Path(leftover).unlink(missing_ok=True)
    return len(leftovers)


def read_bytes(address: str) -> bytes:
    """A whole small file. Raises FileNotFoundError."""
    with open_read(address) as file:
        return file.read()


def open_read(address: str) -> BinaryIO:
    """Open a regular file for reading, never waiting (a pipe or a device raises NotAFile). Raises FileNotFoundError."""
    path = local_path(address)
    if path is None:
        store, name = _store(address)
        opened: BinaryIO = store.open(name, "rb")
        return opened
    # Without O_NONBLOCK, opening a pipe that nobody writes to waits for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotAFile(f"{address} is not a regular file")
    return os.fdopen(descriptor, "rb")


def remove(address: str) -> None:
    """Remove a file, if it is there."""
    path = local_path(address)
    if path is not None:
        path.unlink(missing_ok=True)
    elif exists(address):
        store, name = _store(address)
        store.rm_file(name)


@contextmanager
def local_copy(address: str) -> Iterator[Path]:
    """A local path with the file's content: the file itself, or a download that is removed afterwards."""
    path = local_path(address)
    if path is not None:
        yield path
        return
    store, name = _store(address)
    with tempfile.TemporaryDirectory(prefix="materia-") as folder:
        copy = Path(folder, name.rsplit("/", 1)[-1])
        store.get_file(name, str(copy))
        yield copy


@contextmanager
def staged(address: str) -> Iterator[Staged]:
    """Write a file of any size: yields a `Staged` whose local, seekable file becomes `address` when it is published."""
    path = local_path(address)
    with _staged_upload(address) if path is None else _staged_rename(path) as staging:
        yield staging


def atomic_write(address: str, data: bytes | Callable[[IO[bytes]], None]) -> None:
    """Write a whole file, from bytes or by a callback that writes to a local file object. Raises OSError."""
    with staged(address) as staging:
        if callable(data):
            data(staging.file)
        else:
            staging.file.write(data)
        staging.publish()


@contextmanager
def _staged_rename(path: Path) -> Iterator[Staged]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")

    def publish() -> None:
        os.fsync(file.fileno())
        temporary.replace(path)
        _fsync_folder(path.parent)

    try:
        with temporary.open("w+b") as file:
            yield Staged(file, publish)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _staged_upload(address: str) -> Iterator[Staged]:
    store, name = _store(address)
    with tempfile.NamedTemporaryFile(prefix="materia-") as file:
        yield Staged(file, lambda: store.put_file(file.name, name))


def _fsync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _names(address: str) -> list[str]:
    path = local_path(address)
    try:
        if path is not None:
            return sorted(os.listdir(path))  # noqa: PTH208 - names, not paths
        store, name = _store(address)
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in store.ls(name, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _store(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address and the name of the file in it, seen afresh (no cached listings)."""
    import fsspec

    store, name = fsspec.core.url_to_fs(address, use_listings_cache=False)
    return store, name
