"""Where the command `materia` begins: what all of it counts on is made sure of before anything of it is imported.

Text is UTF-8 whatever the locale says, as in the manifests and tables that are read and written; and our packages are ours,
though a folder on PYTHONPATH may be called like one of them, which is why this one is called like the distribution. Child
processes inherit both.
"""

from __future__ import annotations

import codecs
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("materia", "pipeline", "stages", "trainer")
"""What lies beside this one."""


def main() -> None:
    """The command `materia`."""
    use_utf8()
    put_ours_first()
    from materia.cli.main import main as materia

    materia()


def use_utf8() -> None:
    """Begin again in Python's UTF-8 mode if the locale's encoding is another: a file name could be printed in no other way."""
    if codecs.lookup(sys.getfilesystemencoding()).name != "utf-8" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def put_ours_first() -> None:
    """Put the folder of our packages before others, here and for child processes, if one would be taken for ours."""
    if all(_is_ours(name) for name in PACKAGES):
        return
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def _is_ours(name: str) -> bool:
    spec = PathFinder.find_spec(name)
    found = spec.submodule_search_locations if spec is not None else None
    return any(Path(folder).resolve() == ROOT / name for folder in found or ())  # the way there may lead through links
