"""Which addresses may be opened, and finding a clip's video behind its address (design: "Safety of sources").

In: a clip whose `uri` is what the manifest says. Out: the clip with `address` filled in, or a rejection; called on the worker,
right before processing. Local files are judged on their real path with lstat and readlink alone: nothing outside the allowed
roots is ever opened, and the address handed on is the real path itself, so that no symbolic link is followed later.
What is not there may be there in another Unicode normal form (macOS and Linux, archives and stores differ): then folders below
the allowed roots are listed to find it.
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
import stat
import unicodedata
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

from materia.base import storage
from materia.base.errors import NoWayIn, StorageFailed
from materia.base.settings_file import set_argument
from pipeline.sources.settings import SourceSettings
from stages.records import Clip, Rejection, Sample, reject

T = TypeVar("T")

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")  # FFmpeg's concat:, subfile:, data: ... need no slashes
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Denied(Exception):
    """An address that is not opened: `reason` is a source reason code, the message names the fix."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def resolve(clip: Clip, root: str, settings: SourceSettings) -> Clip | Rejection:
    """Find the clip's video below the allowed roots and fill in its address; `root` is the plan's root.

    A video of exactly this name comes first, then one whose name differs in Unicode normal form only.
    Reasons: outside_root, not_found, not_a_file, transient_exhausted (the storage failed, after retries).
    """
    try:
        return msgspec.structs.replace(clip, address=_find(clip.uri, root, settings))
    except Denied as denied:
        return reject(Sample(clip=clip), "source", denied.reason, str(denied))


def split_scheme(address: str) -> tuple[str, str]:
    """Scheme (lower case; "file" if there is none) and path of an address: `s3://a/b` -> ("s3", "a/b")."""
    match = _URL.match(address)
    return (match[1].lower(), address[match.end() :]) if match else ("file", address)


def absolute(name: str, root: str) -> str:
    """The address of `name`, which is relative to the folder `root` or an address of its own; "." and ".." go by name.

    Local addresses are plain absolute paths, others `scheme://path`.
    """
    if _URL.match(name) or name.startswith("/"):
        scheme, path = split_scheme(name)
    else:
        scheme, folder = split_scheme(root)
        path = f"{folder}/{name}"
    path = posixpath.normpath(path).lstrip("/")
    return f"/{path}" if scheme == "file" else f"{scheme}://{'' if path == '.' else path}"


def relative(name: str, root: str, folder: str = "") -> str:
    """What a sample records for `name`: relative to `root` if it lies below it, else absolute; "." and ".." go by name.

    A relative `name` starts at `folder`, itself relative to `root`. The same wherever `root` is, so that keys do not depend on
    the machine.
    """
    if not name.startswith("/") and not ("://" in name and _URL.match(name)):
        return posixpath.normpath(f"{folder}/{name}" if folder else name)
    address = absolute(name, root)
    for place in (root, real_folder(root)):
        if is_below(address, place) and address != place:
            return address.removeprefix(place).lstrip("/")
    return address


def is_below(address: str, folder: str) -> bool:
    """Whether an address is the folder or lies below it, by name."""
    return address == folder or address.startswith(folder.rstrip("/") + "/")


@functools.cache
def real_folder(folder: str) -> str:
    """A folder's address with symbolic links followed if it is local."""
    return os.path.realpath(folder) if split_scheme(folder)[0] == "file" else folder


class Roots(NamedTuple):
    """Folders that may be opened: `folders` by address, real paths where they are local; `named` as the settings have them."""

    folders: tuple[str, ...]
    named: list[str]

    def check(self, address: str, name: str) -> None:
        """Raises Denied for an address below none of them; `name` is what the manifest calls it."""
        if any(is_below(address, folder) for folder in self.folders):
            return
        where = "lies" if address == name else f"leads to {quoted(address)},"
        wider = set_argument("source.allowed_roots", [*self.named, posixpath.dirname(address)])
        raise Denied(
            "outside_root", f"{quoted(name)} {where} outside the allowed roots; move it there, or allow its folder: {wider}"
        )


def allowed_roots(root: str, settings: SourceSettings) -> Roots:
    """The roots of a manifest in the folder `root`."""
    named = settings.allowed_roots or ["."]
    return Roots(tuple(real_folder(absolute(folder, root)) for folder in named), named)


def check_local(path: str, roots: Roots, name: str) -> str:
    """Real path of a regular file below `roots`, found without opening anything.

    `name` is what messages call it. Raises Denied.
    """
    shown = quoted(name)
    real = os.path.realpath(path)
    roots.check(real, name)
    mode = _attempt(lambda: os.lstat(real).st_mode, shown)
    if stat.S_ISREG(mode):
        return real
    kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "a link to itself")
    raise Denied("not_a_file", f"{shown} is {kind}, not a file")


def quoted(name: str) -> str:
    """A name for a message: quoted, bounded, valid UTF-8 whatever it holds."""
    return repr(name if len(name) <= 200 else f"{name[:150]}...{name[-40:]}")


def _find(uri: str, root: str, settings: SourceSettings) -> str:
    shown = quoted(uri)
    if "\0" in uri:
        raise Denied("not_found", f"{shown}: a file name cannot hold a NUL character")
    if "::" in uri:
        raise Denied("outside_root", f"{shown}: '::' would chain file systems and is never followed; rename the file")
    address = absolute(uri, root)
    scheme, path = split_scheme(address)
    if scheme not in settings.schemes:
        allowed = ", ".join(settings.schemes)
        raise Denied("outside_root", f"{shown}: scheme {scheme!r} is not allowed; source.schemes allows {allowed}")
    roots = allowed_roots(root, settings)
    check = _check_named if scheme == "file" else _check_remote
    try:
        return check(address, roots, uri)
    except Denied as denied:
        if (
            address.isascii()
            or denied.reason not in ("not_found", "outside_root")
            or (scheme == "file" and os.path.lexists(path))
        ):
            raise
        other = _attempt(lambda: _respelled(address, roots.folders), shown)
        if other is None:
            raise
    return (check_local if scheme == "file" else _check_remote)(other, roots, uri)


def _check_named(path: str, roots: Roots, name: str) -> str:
    """`check_local`, but a name like `concat:a.mp4` is an attempt at a protocol unless there is a file of that name."""
    match = _PROTOCOL.match(name)
    if match and not os.path.lexists(path):
        raise Denied("outside_root", f"{quoted(name)}: no such file, and scheme {match[1]!r} is not in source.schemes")
    return check_local(path, roots, name)


def _check_remote(address: str, roots: Roots, name: str) -> str:
    """The address of a file below `roots`. Raises Denied."""
    shown = quoted(name)
    roots.check(address, name)
    info: dict[str, Any] = _attempt(lambda: storage.info(address), shown)
    if info["type"] != "file":
        raise Denied("not_a_file", f"{shown} is a {info['type']}, not a file")
    return address


def _respelled(address: str, roots: tuple[str, ...]) -> str | None:
    """The address below one of `roots` whose parts are this one's, or what is there of the same text in another normal form.

    None if it lies below none by name. Only folders below `roots` are listed, after following symbolic links.
    """
    local = split_scheme(address)[0] == "file"
    if local:
        address = os.path.realpath(address)
    for root in roots:
        n_parts = root.rstrip("/").count("/") + 1
        above, parts = address.split("/")[:n_parts], address.split("/")[n_parts:]
        if _nfc("/".join(above)) != _nfc(root.rstrip("/")):
            continue
        place = root
        for depth, part in enumerate(parts):
            if local and not is_below(place := os.path.realpath(place), root):
                return storage.join(place, *parts[depth:])
            place = storage.join(place, _spelling(place, part))
        return place
    return None


def _spelling(folder: str, name: str) -> str:
    """How a name is spelled in a folder: as it is, if that is there or nothing alike."""
    if name.isascii():
        return name
    version = os.stat(folder).st_mtime_ns if storage.local_path(folder) is not None else 0  # noqa: PTH116 - an address
    alike = _spellings(folder, version).get(_nfc(name), [_nfc(name)])
    return name if name in alike else alike[0]


@functools.lru_cache(maxsize=16)
def _spellings(folder: str, version: int) -> dict[str, list[str]]:
    """Names in a folder that are not ASCII, by their NFC; remembered for as long as its `version` is the same."""
    found: dict[str, list[str]] = {}
    for name in storage.listdir(folder):
        if not name.isascii():
            found.setdefault(_nfc(name), []).append(name)
    return found


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _attempt(look: Callable[[], T], shown: str) -> T:
    """Ask the storage. Raises Denied, and NoWayIn, which is no clip's fault."""
    try:
        return look()
    except NoWayIn:
        raise
    except StorageFailed as failed:
        raise Denied("transient_exhausted", f"{shown}: {failed}") from None
    except PermissionError:
        raise Denied("not_found", f"{shown} cannot be seen: permission denied") from None
    except OSError:
        raise Denied("not_found", f"{shown} does not exist{_hint(shown)}") from None


def _hint(shown: str) -> str:
    if "\\\\" in shown:
        return "; folders are separated by /"
    return "; %-escapes are not decoded" if re.search("%[0-9A-Fa-f]{2}", shown) else ""
