"""How a job is doing, seen from outside: whether its driver is alive or dead, on a disk or in an object store.

In: the address of an output. Out: a `Status`. Reads dataset.json, the list of claims, and what each start that holds one said
last (pipeline/snapshot.py): a handful of small objects, however large the job.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import msgspec

from materia.base.leases import Claim, Renewal, as_range, claims_in, has_ended, renewal_of
from materia.base.terminal import duration
from materia.dataset.layout import DatasetInfo, OutputError, read_info
from pipeline.pools import Pool
from pipeline.preflight import lease_folder
from pipeline.snapshot import Snapshot, UnderWay

_AT_ONCE = 16
_STALLED_S = 60.0
_STALLED_TIMES = 10.0
"""A start is stalled if a slice is worked at for longer than the larger of `_STALLED_S` and so many times the usual."""

State = Literal["planning", "running", "stalled", "dead", "stopped", "done"]


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """A start that has not given its claim back: who, on which chunks, since when, and how long ago it was heard of."""

    fence: int
    state: State
    who: str
    host: str
    pid: int
    chunks: tuple[int, int | None]
    since_s: float
    silent_s: float
    snapshot: Snapshot | None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`rows` and `chunks` are those planned, 0 if that is not done; `rows_done` are committed, or finished by a start that is
    running. `kept` and `rejected` (reason -> rows) count what starts told; what one did between its last word and its death is
    not in them. `clips_per_s` of all running starts together, and since they began (`clips_per_s_overall`); `left_s` at this
    pace. `light_share`: the pace as a share of what the slowest pool's workers could do. `ms_per_clip`: milliseconds of a
    worker by stage. `card_hours` and `cpu_hours`: that workers of all starts have booked. `problems` in words, the worst first.
    """

    out: str
    state: State
    rows: int
    chunks: int
    rows_done: int
    chunks_done: int
    kept: int
    rejected: dict[str, int]
    clips_per_s: float
    clips_per_s_overall: float
    left_s: float | None
    light_share: float | None
    ms_per_clip: dict[str, float]
    card_hours: float
    cpu_hours: float
    nodes: dict[str, float]
    under_way: list[UnderWay]
    free_bytes: dict[str, int]
    problems: list[str]
    errors: list[str]
    starts: list[Start]
    ended: int


def read_status(out: str, now_s: float | None = None) -> Status:
    """Look at an output, which may be written at this moment. Raises OutputError where no job has begun, OSError."""
    now_s = time.time() if now_s is None else now_s
    folder = lease_folder(out)
    info, claims = read_info(out), claims_in(folder)
    if info is None and not claims:
        raise OutputError(f"{out} is no output: no job has begun there")
    held = [claim for claim in claims if not claim.ended and claim.first != claim.end]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        said = list(threads.map(lambda claim: renewal_of(folder, claim.fence), held))
    starts = [_start(claim, renewal, now_s) for claim, renewal in zip(held, said, strict=True)]
    ended = [claim for claim in claims if claim.ended]
    return _status(out, info, starts, [msgspec.convert(claim.told, Snapshot) for claim in ended if claim.told], len(ended))


def _start(claim: Claim, said: Renewal | None, now_s: float) -> Start:
    silent_s = max(0.0, now_s - (said.renewed_s if said else claim.since_s))
    snapshot = msgspec.convert(said.told, Snapshot) if said and said.told else None
    if has_ended(claim.holder) or (said and silent_s > said.lease_s):
        state: State = "dead"
    elif snapshot is None:
        state = "planning"
    else:
        state = "stalled" if _stalled(snapshot, silent_s) else "running"
    return Start(
        fence=claim.fence,
        state=state,
        who=claim.holder.who,
        host=claim.holder.host,
        pid=claim.holder.pid,
        chunks=(claim.first, claim.end),
        since_s=claim.since_s,
        silent_s=round(silent_s, 1),
        snapshot=snapshot,
    )


def _stalled(snapshot: Snapshot, silent_s: float) -> bool:
    slowest = max((slice_.seconds for slice_ in snapshot.under_way), default=0.0)
    return bool(slowest) and slowest + silent_s > max(_STALLED_S, _STALLED_TIMES * snapshot.slice_s)


def _status(out: str, info: DatasetInfo | None, starts: list[Start], ended: list[Snapshot], n_ended: int) -> Status:
    working = [start.snapshot for start in starts if start.snapshot and start.state in ("running", "stalled")]
    known = [*ended, *(start.snapshot for start in starts if start.snapshot)]
    rejected, seconds = Counter[str](), Counter[str]()
    for snapshot in known:
        rejected.update(snapshot.rejected)
    latest = working or known[-1:]
    for snapshot in latest:
        seconds.update(snapshot.seconds)
    done, pace = sum(snapshot.done for snapshot in latest), sum(snapshot.clips_per_s for snapshot in working)
    chunks_done = {
        chunk for snapshot in known for span in (*snapshot.chunks_before, *snapshot.chunks) for chunk in range(*span)
    }
    rows, chunks, rows_done = _rows(info, len(chunks_done), working)
    light = sum(snapshot.speed_of_light for snapshot in working)
    state = _state(starts, bool(info) and len(chunks_done) >= chunks)
    return Status(
        out=out,
        state=state,
        rows=rows,
        chunks=chunks,
        rows_done=rows_done,
        chunks_done=len(chunks_done),
        kept=sum(snapshot.kept for snapshot in known),
        rejected=dict(sorted(rejected.items(), key=lambda one: (-one[1], one[0]))),
        clips_per_s=round(pace, 4),
        clips_per_s_overall=round(sum(one.done / one.elapsed_s for one in working if one.elapsed_s), 4),
        left_s=round((rows - rows_done) / pace, 1) if pace else None,
        light_share=round(pace / light, 4) if light else None,
        ms_per_clip={stage: round(1000 * spent / done, 1) for stage, spent in seconds.items()} if done else {},
        card_hours=_hours(known, lambda pool: pool.cards),
        cpu_hours=_hours(known, lambda pool: pool.cpus),
        nodes={node: last for snapshot in working for node, last in snapshot.nodes.items()},
        under_way=sorted((one for snapshot in working for one in snapshot.under_way), key=lambda one: -one.seconds)[:5],
        free_bytes={place: room for snapshot in working for place, room in snapshot.free_bytes.items()},
        problems=_problems(out, starts, state),
        errors=[error for snapshot in latest for error in snapshot.errors][:5],
        starts=starts,
        ended=n_ended,
    )


def _hours(snapshots: list[Snapshot], booked: Callable[[Pool], float]) -> float:
    """Hours of what each worker booked, while starts were running."""
    spent = sum(one.elapsed_s * sum(pool.workers * booked(pool) for pool in one.pools) for one in snapshots)
    return round(spent / 3600, 4)


def _rows(info: DatasetInfo | None, chunks_done: int, working: list[Snapshot]) -> tuple[int, int, int]:
    """(rows, chunks, rows that are done). A short chunk counts as a whole one, until all are there."""
    if info is None:
        return 0, 0, 0
    if len(working) == 1 and working[0].rows == info.rows:
        return info.rows, info.chunks, working[0].done_before + working[0].done
    return (
        info.rows,
        info.chunks,
        info.rows if chunks_done >= info.chunks else min(chunks_done * info.rows_per_chunk, info.rows),
    )


def _state(starts: list[Start], complete: bool) -> State:
    """The best that can be said: one that works makes up for one that is dead."""
    states = {start.state for start in starts}
    for state in ("running", "stalled", "planning"):
        if state in states:
            return state
    return "done" if complete else "dead" if "dead" in states else "stopped"


def _problems(out: str, starts: list[Start], state: State) -> list[str]:
    found = []
    for start in starts:
        chosen = as_range(*start.chunks)
        part = f" (chunks {chosen})" if chosen else ""
        if start.state == "dead" and state != "done":
            found.append(f"{start.who}'s process {start.pid} on {start.host}{part} is dead; the same command goes on")
        if start.state == "stalled" and start.snapshot:
            slowest = max(start.snapshot.under_way, key=lambda one: one.seconds)
            where = f"slice {slowest.slice} on {slowest.node or start.host} ({', '.join(slowest.stages)})"
            commit_s = start.snapshot.since_commit_s + start.silent_s
            found.append(
                f"no commit{part} for {duration(commit_s)}; slowest: {where} since {duration(slowest.seconds + start.silent_s)}"
            )
    if state == "stopped":
        found.append(f"no job is running, and {out} is not finished; the same command goes on")
    return found
