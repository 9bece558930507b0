"""One process's run on real clips, which launchers of several processes have to repeat (conftest.py makes it)."""

import json
import sys
from pathlib import Path
from typing import NamedTuple

STEPS, CHECKPOINT_EVERY = 10, 3


class ReferenceRun(NamedTuple):
    config_path: Path
    shards: str
    cache: str
    steps: list[dict]  # of steps.jsonl

    def command(self, output: Path) -> list[str]:
        """The same as `materia train`, into another folder."""
        paths = ["--shards", self.shards, "--cache", self.cache, "--output", str(output)]
        return [str(Path(sys.executable).with_name("materia")), "train", "--config", str(self.config_path), *paths]


def logged_steps(run: Path) -> list[dict]:
    """What RUN/steps.jsonl says, as far as it is written."""
    path = run / "steps.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
