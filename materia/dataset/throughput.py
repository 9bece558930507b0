"""How fast a job was, by its own timings: `_run/timings*.jsonl`, which are no result and may be torn or gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import msgspec

from materia.base import storage


class Throughput(msgspec.Struct, frozen=True):
    """From the timings of all starts of the job: `seconds` of work by stage, `wall_s` from start to last slice."""

    starts: int
    clips: int
    wall_s: float
    clips_per_s: float
    seconds: dict[str, float]


def read_throughput(run: str) -> Throughput | None:
    """Sum the timing lines; a line that is torn or foreign is passed over. Times that fall back mark another start."""
    starts, clips, wall_s, last_s = 0, 0, 0.0, float("inf")
    seconds: Counter[str] = Counter()
    for line in _timings(run):
        starts += line.end_s < last_s
        wall_s += line.end_s if line.end_s < last_s else line.end_s - last_s
        last_s = line.end_s
        clips += line.rows
        seconds.update(line.seconds)
    if not starts or wall_s <= 0:
        return None
    return Throughput(starts, clips, round(wall_s, 3), round(clips / wall_s, 3), {s: round(t, 3) for s, t in seconds.items()})


class _Timing(msgspec.Struct):
    rows: int
    end_s: float
    seconds: dict[str, float]


def _timings(run: str) -> Iterator[_Timing]:
    for name in storage.listdir(run):
        if name.startswith("timings") and name.endswith(".jsonl"):
            with storage.open_read(storage.join(run, name)) as file:
                for line in file:
                    with suppress(msgspec.MsgspecError):
                        yield msgspec.json.decode(line, type=_Timing)
