"""The seam between the method's steps and whatever runs them: a stage is a plain class, rows in, rows out."""

from __future__ import annotations

from typing import Protocol

from materia.base.weights.files import Missing
from stages.records import Row, Sample, StageName


class Stage(Protocol):
    """One step of the method.

    `process` gives one row for each sample, in order: the sample with its part filled in, or a rejection. It never raises for
    a row: what goes wrong with one clip becomes that clip's rejection (`internal_error` for the unexpected).
    """

    name: StageName

    def missing(self) -> list[Missing]:
        """What this machine lacks to run the stage."""
        ...

    def identity(self) -> dict[str, str]:
        """What results depend on besides the settings: hashes of prompts and weights."""
        ...

    def setup(self) -> None:
        """Load what `process` needs; once per process."""
        ...

    def process(self, samples: list[Sample]) -> list[Row]:
        """Samples of one slice, in manifest order -> one row each, in order."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...
