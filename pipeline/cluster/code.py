"""Code that travels with a job: what git tracks in a repository, as it is on disk now, in one archive.

In: a folder of the repository. Out: the bytes of a ZIP file, the same ones for the same files.
"""

from __future__ import annotations

import io
import os
import subprocess
import zipfile
from collections.abc import Collection
from pathlib import Path

from materia.base.errors import UserError

MOST_BYTES = 100 * 2**20
"""Of an archive; Ray's head keeps it in memory and sends it to every node, and takes no more than 500 MiB of all jobs' code."""
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # of ZIP


def tracked_files(folder: Path) -> tuple[Path, list[str]]:
    """The root of the repository around a folder, and the files that git tracks there, relative to it, in order.

    What was removed stays tracked until it is committed, and is left out, as names that are no UTF-8. Raises UserError where
    there is no repository.
    """
    root = Path(os.fsdecode(_git(folder, "rev-parse", "--show-toplevel").removesuffix(b"\n")))
    names = sorted({name.decode(errors="replace") for name in _git(root, "ls-files", "-z").split(b"\0") if name})
    return root, [name for name in names if (root / name).is_file()]


def archive(folder: Path, extra: dict[str, str]) -> bytes:
    """What git tracks around a folder, and texts beside it by name. Raises UserError if it is too large to travel."""
    root, names = tracked_files(folder)
    total = sum((root / name).stat().st_size for name in names)
    if total > MOST_BYTES:
        largest = max(names, key=lambda name: (root / name).stat().st_size)
        raise UserError(
            f"{root}: git tracks {total / 2**20:.0f} MiB there, e.g. {largest}, and at most {MOST_BYTES >> 20} travel with a"
            " job; install the code on the nodes and say `code: nodes` in the cluster's file"
        )
    files = {name: (root / name).read_bytes() for name in names} | {name: text.encode() for name, text in extra.items()}
    return packed(files, {name for name in names if os.access(root / name, os.X_OK)})


def packed(files: dict[str, bytes], executable: Collection[str] = ()) -> bytes:
    """A ZIP file of contents by name."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if name in executable else 0o644) << 16
            file.writestr(entry, data)
    return written.getvalue()


def _git(folder: Path, *arguments: str) -> bytes:
    try:
        return subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True).stdout
    except FileNotFoundError:
        raise UserError("git is not on the PATH, and says which code travels with a job; `code: nodes` does without") from None
    except subprocess.CalledProcessError as error:
        why = os.fsdecode(error.stderr).strip()
        raise UserError(f"{folder}: {why}; `code: nodes` in the cluster's file takes what the nodes have installed") from None
