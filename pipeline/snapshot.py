"""What a running job tells others about itself, every few seconds, beside its claim (materia/base/leases.py: Renewal.told).

In: what the driver knows. Out: one small record, whatever the size of the job. `materia status` reads those of the starts
that are running, and of each that has ended its last one, which the list of claims keeps.
"""

from __future__ import annotations

import shutil
import tempfile

import msgspec

from materia.base import storage
from pipeline.pools import Pool, speed_of_light
from stages.records import StageName


class UnderWay(msgspec.Struct, frozen=True):
    """A slice that a worker has, and for how long."""

    slice: int
    stages: list[StageName]
    node: str
    seconds: float


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Of a start. Rows and chunks are of those that were asked for; spans are (first, one after the last), ascending.

    `done_before`: rows of chunks that were committed when it began, which are `chunks_before`. `done` and `seconds` (stage
    -> seconds of workers) are of rows that it finished, `kept`, `rejected` (reason -> rows) and `chunks` of those that it
    committed. `clips_per_s` over the last `over_s` seconds; 0 until a slice is there. `slice_s`: for which a
    slice is worked at, lately. `pools`: who shares the work. `nodes`: node -> seconds since a worker
    there finished a slice. `under_way`: the slices that have been worked at for longest. `free_bytes`: place -> room on
    its disk. `errors`: the last ones, newest first.
    """

    rows: int
    done_before: int
    chunks_before: list[tuple[int, int]] = []
    chunks: list[tuple[int, int]] = []
    done: int = 0
    kept: int = 0
    rejected: dict[str, int] = {}
    seconds: dict[StageName, float] = {}
    pools: list[Pool] = []
    elapsed_s: float = 0.0
    clips_per_s: float = 0.0
    over_s: float = 0.0
    left_s: float | None = None
    slice_s: float = 0.0
    waits_for: str = ""
    since_commit_s: float = 0.0
    nodes: dict[str, float] = {}
    under_way: list[UnderWay] = []
    free_bytes: dict[str, int] = {}
    errors: list[str] = []

    @property
    def speed_of_light(self) -> float:
        """Clips a second if the slowest pool's workers did nothing but work, as they have until now; 0 if nothing is known."""
        return speed_of_light(self.seconds, self.pools, self.done)


def free_bytes(out: str) -> dict[str, int]:
    """Room on the disks that a job here writes to: the output's, if it is local, and that of temporary files."""
    places = [tempfile.gettempdir()] + ([out] if storage.local_path(out) is not None else [])
    return {place: shutil.disk_usage(storage.local_path(place) or place).free for place in places}
