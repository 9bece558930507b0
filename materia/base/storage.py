"""Files of an output, on a local disk or in an object store, written so that a reader sees a whole file or none.

In: addresses (a local path, `file://`, or any fsspec address: `s3://`, `gs://`, `memory://`). Out: bytes, names, whole files.
Nothing else here opens, lists, reads or uploads. An object store that fails is asked again (materia/base/retries.py); how it is
reached, materia/base/storage_settings.py says.
Locally a file is written beside its target under a temporary name (`.NAME.TOKEN.tmp`), fsynced, renamed over the target, and
its folder fsynced; to an object store it is uploaded in one piece from a local file, because a store shows an object only
when it is complete. Paths without a protocol never touch fsspec, so small local files stay cheap.
"""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TypeVar

from materia.base import conditional, retries
from materia.base.conditional import ANY, Conflict
from materia.base.errors import NoWayIn, StorageFailed, disk_trouble
from materia.base.retries import NotAFile
from materia.base.storage_settings import request_options

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")

_TEMPORARY = re.compile(r"\.[^/]+\.[0-9a-f]{8}\.tmp")
_READ_BYTES = 8 << 20
"""Of a file in a store, in one request, if less is asked for."""
_WITHOUT_WORDS = {"400", "403"}
"""What an S3 server's answer to HEAD says of credentials, whatever is wrong with them."""


class Staged:
    """A file in the making. Write to `file`; readers see nothing until `publish`, and never see it if that is not called."""

    def __init__(self, file: IO[bytes], publish: Callable[[str | None], None]) -> None:
        self.file = file
        self._publish = publish

    def publish(self, replaces: str | None = ANY) -> None:
        """Make what was written visible under its name, whole and durable.

        `replaces`: the version that must be there, None: no file must be; otherwise Conflict is raised, and another try may be
        made.
        """
        self.file.flush()
        self._publish(replaces)


def local_path(address: str) -> Path | None:
    """The path of a local address (`/a/b`, `a/b`, `file:///a/b`); None for an object store."""
    if address.startswith("file://"):
        return Path(address.removeprefix("file://"))
    return None if "://" in address else Path(address)


def check_scheme(scheme: str) -> None:
    """Raises ValueError if there is no storage of that scheme, or if the package that knows it is not installed."""
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        raise ValueError(str(error)) from None


def join(root: str, *parts: str) -> str:
    """`root/part/part`, for paths and addresses alike."""
    return "/".join([root.removesuffix("/"), *parts])


def exists(address: str) -> bool:
    """Whether a file or folder is there."""
    path = local_path(address)
    if path is not None:
        return path.exists()
    try:
        _ask(address, lambda store, name: store.info(name))
    except FileNotFoundError:
        return False
    return True


def size(address: str) -> int:
    """Bytes of a file. Raises FileNotFoundError."""
    path = local_path(address)
    if path is not None:
        return path.stat().st_size
    return int(_ask(address, lambda store, name: store.size(name)))


def info(address: str) -> dict[str, Any]:
    """What the storage tells of a file or folder, by fsspec's names: type ("file", "directory"), size, and more.

    Of a store's file it may be what `walk` was told. Raises FileNotFoundError, PermissionError, StorageFailed.
    """
    found: dict[str, Any] = _ask(address, lambda store, name: store.info(name), listings=True)
    return found


def walk(folder: str, skip: Callable[[str], bool] = lambda name: False) -> Iterator[tuple[str, list[str]]]:
    """(path inside the folder, names of its files) of a folder and those below, parents first, sorted.

    Folders whose name is to `skip` are not entered, nor are symbolic links to folders: they may loop. Raises OSError for a
    folder that cannot be listed: what it holds would be missing without a word.
    """
    path = local_path(folder)
    if path is not None:
        listing = os.walk(path, onerror=_raise)
        root = str(path)
    else:
        store, root = _store(folder, listings=True)
        store.invalidate_cache()
        listing = store.walk(root, on_error="raise")
    for place, folders, names in listing:
        folders[:] = sorted(name for name in folders if not skip(name))
        yield place.strip("/").removeprefix(root.strip("/")).strip("/"), sorted(names)


def glob(pattern: str) -> dict[str, dict[str, Any]]:
    """What lies at the addresses that a pattern matches (`*`, `?`, `[...]`, `**`), seen afresh: address -> as `info` tells."""

    def matches(store: Any, name: str) -> dict[str, dict[str, Any]]:
        store.invalidate_cache()
        return {store.unstrip_protocol(found): info for found, info in store.glob(name, detail=True).items()}

    found = _ask(pattern, matches)
    return found if "://" in pattern else {address.removeprefix("file://"): info for address, info in found.items()}


def listdir(address: str) -> list[str]:
    """Sorted names in a folder, without temporary files; a missing folder is empty."""
    return [name for name in _names(address) if not _TEMPORARY.fullmatch(name)]


def sizes(folder: str) -> dict[str, int]:
    """Name -> bytes of the files in a folder; a missing folder is empty."""
    path = local_path(folder)
    if path is not None:
        return {name: (path / name).stat().st_size for name in listdir(folder) if (path / name).is_file()}
    try:
        found = _ask(folder, lambda store, name: store.ls(name, detail=True))
    except FileNotFoundError:
        return {}
    return {file["name"].rsplit("/", 1)[-1]: int(file["size"]) for file in found if file["type"] == "file"}


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


def read_bytes(address: str, start: int = 0, end: int | None = None) -> bytes:
    """A whole small file, or its bytes from `start` to before `end`. Raises FileNotFoundError."""
    if local_path(address) is None:
        return bytes(_ask(address, lambda store, name: store.cat_file(name, start=start, end=end)))
    with open_read(address) as file:
        file.seek(start)
        return file.read(-1 if end is None else end - start)


def open_read(address: str) -> BinaryIO:
    """Open a regular file for reading, never waiting (a pipe or a device raises NotAFile). Raises FileNotFoundError."""
    path = local_path(address)
    if path is None:
        return io.BufferedReader(_StoreFile(address), _READ_BYTES)
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
    else:
        with suppress(FileNotFoundError):
            _ask(address, lambda store, name: store.rm_file(name))


@contextmanager
def local_copy(address: str) -> Iterator[Path]:
    """A local path with the file's content: the file itself, or a download that is removed afterwards."""
    path = local_path(address)
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="materia-") as folder:
        copy = Path(folder, address.rsplit("/", 1)[-1])
        with _writing_to(folder):
            _ask(address, lambda store, name: store.get_file(name, str(copy)))
        yield copy


def version(address: str) -> str | None:
    """A mark of a file's present content, for `replaces`; None if there is no file."""
    path = local_path(address)
    return conditional.local_version(path) if path is not None else _ask(address, conditional.store_version)


def checks_conditions(address: str) -> bool:
    """Whether the storage refuses a conditional write when it should; tried out on a file of this name, which is removed."""
    atomic_write(address, b"first")
    old = version(address)
    atomic_write(address, b"second")
    try:
        return _refuses(address, old) and _refuses(address, None)
    finally:
        remove(address)


def _refuses(address: str, replaces: str | None) -> bool:
    try:
        atomic_write(address, b"third", replaces)
    except Conflict:
        return True
    return False


@contextmanager
def staged(address: str) -> Iterator[Staged]:
    """Write a file of any size: yields a `Staged` whose local, seekable file becomes `address` when it is published."""
    path = local_path(address)
    with _staged_upload(address) if path is None else _staged_rename(path) as staging:
        yield staging


def atomic_write(address: str, data: bytes | Callable[[IO[bytes]], None], replaces: str | None = ANY) -> None:
    """Write a whole file, from bytes or by a callback that writes to a local file object.

    `replaces`: see `Staged.publish`. Raises OSError.
    """
    with staged(address) as staging:
        if callable(data):
            data(staging.file)
        else:
            staging.file.write(data)
        staging.publish(replaces)


class _StoreFile(io.RawIOBase):
    """A file of an object store, read by byte ranges, each asked for persistently.

    The file that s3fs opens retries in its own way, and fetches 50 MiB for a byte.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._size = size(address)
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: WriteableBuffer) -> int:
        room = memoryview(buffer).cast("B")
        end = min(self._place + len(room), self._size)
        if end <= self._place:
            return 0
        data = read_bytes(self._address, self._place, end)
        room[: len(data)] = data
        self._place += len(data)
        return len(data)


@contextmanager
def _staged_rename(path: Path) -> Iterator[Staged]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")

    def publish(replaces: str | None) -> None:
        os.fsync(file.fileno())
        conditional.rename(temporary, path, replaces)
        _fsync_folder(path.parent)

    try:
        with _writing_to(str(path.parent)), temporary.open("w+b") as file:
            yield Staged(file, publish)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _staged_upload(address: str) -> Iterator[Staged]:
    def publish(replaces: str | None) -> None:
        _ask(address, lambda store, name: conditional.put(store, name, Path(file.name), replaces))

    with tempfile.NamedTemporaryFile(prefix="materia-") as file, _writing_to(file.name):
        yield Staged(file, publish)


@contextmanager
def _writing_to(place: str) -> Iterator[None]:
    """Around writes: that a disk is full or read-only, the system says without a name."""
    try:
        yield
    except OSError as error:
        if error.filename is None and (trouble := disk_trouble(error)) is not None:
            trouble.filename = place
            raise trouble from error
        raise


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
        entries = _ask(address, lambda store, name: store.ls(name, detail=False))
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _raise(error: OSError) -> None:
    raise error


def _ask(address: str, question: Callable[[Any, str], T], listings: bool = False) -> T:
    """Ask the address's storage about the file there, persistently."""

    def ask() -> T:
        store, name = _store(address, listings)
        try:
            return question(store, name)
        except OSError as error:
            if retries.store_code(error) in _WITHOUT_WORDS:
                with suppress(FileNotFoundError):
                    store.cat_file(name, start=0, end=1)  # which is told what is wrong
            raise

    try:
        return retries.persistently(ask)
    except StorageFailed as failed:
        failed.address = address
        raise
    except PermissionError as error:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), address) from error


def _store(address: str, listings: bool = False) -> tuple[Any, str]:
    """The fsspec file system of an address and the name of the file in it; seen afresh, or with listings that it remembers.

    Raises PermissionError for an address that chains file systems with "::", which could lead anywhere, and NoWayIn.
    """
    import fsspec

    if "::" in address:
        raise PermissionError(f"{address!r}: '::' would chain file systems and is never followed")
    try:
        options = request_options(address.partition("://")[0])
        store, name = fsspec.core.url_to_fs(address, use_listings_cache=listings, **options)
    except (ImportError, ValueError) as error:
        raise NoWayIn(f"there is no storage of this kind, or its package is not installed: {error}") from None
    if hasattr(store, "retries"):
        store.retries = 1  # s3fs's own; materia/base/retries.py says who asks again
    return store, name
