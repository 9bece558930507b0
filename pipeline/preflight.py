"""What must be true before a job may start: nothing missing, one writer, and an output that this configuration made.

In: configuration, stages, output address. Out: nothing, or a `JobError` with the exit code of design.md and a message that
names what is wrong and what to do. Nothing here starts a process or loads a model.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec

from materia.base import storage
from materia.base.errors import UserError
from materia.base.leases import Held, Lease, hold
from materia.base.terminal import say
from materia.base.weights.files import Missing
from materia.dataset.layout import DatasetInfo, read_info
from pipeline.changes import changes
from stages.base import Stage
from stages.records import StageName

RUN = "_run"
"""Folder of an output for what is no result: plan, timings, events, log, lease."""


_LIBRARIES = f"{RUN}/libraries.json"
_LOOK_S = 5.0  # at somebody else's claim


class JobError(UserError):
    """The job cannot start or go on; `exit_code` as in design.md."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def what_is_missing(stages: list[Stage]) -> dict[Missing, list[StageName]]:
    """Every package or weight that is lacking, once, with the stages that need it: some share a model."""
    lacking: dict[Missing, list[StageName]] = {}
    for stage in stages:
        for lack in dict.fromkeys(stage.missing()):
            lacking.setdefault(lack, []).append(stage.name)
    return lacking


def check_nothing_missing(stages: list[Stage]) -> None:
    """Raises JobError(2) naming what the stages lack, each once, with the command that installs it."""
    lacking = what_is_missing(stages)
    if lacking:
        lines = [f"  {', '.join(names)}: {lack.what}\n    {lack.fix}" for lack, names in lacking.items()]
        raise JobError(2, "this machine lacks what the configuration needs:\n" + "\n".join(lines))


def lease_folder(out: str) -> str:
    """Where it is written down who writes which chunks of an output."""
    return storage.join(out, RUN, "lease")


@contextmanager
def only_writer(
    out: str,
    chunks: tuple[int, int | None] = (0, None),
    lease_s: float = 180.0,
    *,
    force: bool = False,
    wait: bool = False,
    on_loss: Callable[[], None] = lambda: None,
) -> Iterator[Lease]:
    """Hold the lease on chunks (first, one after the last; None: to the end) of an output; on all of one that is not planned.

    Raises JobError(2) naming the holder, or that the store cannot keep two jobs apart. `force`: whatever they say. `wait`:
    until the holder's claim runs out, unless it is renewed in that time.
    """
    folder = lease_folder(out)
    if storage.local_path(out) is None and not storage.checks_conditions(storage.join(folder, f"probe-{secrets.token_hex(4)}")):
        unguarded = f"the storage of {out} does not check conditions of writes, so that nothing keeps two jobs apart"
        if not force:
            raise JobError(2, f"{unguarded}; see that only one runs, and say --force-lease")
        say(unguarded)
    first, end = chunks if storage.exists(storage.join(out, "dataset.json")) else (0, None)
    seen: dict[int, float] = {}  # claim -> when it was renewed, as we first saw it
    while True:
        try:
            with hold(folder, first, end, lease_s, force=force, on_loss=on_loss) as lease:
                yield lease
                return
        except Held as held:
            fence, renewed_s = held.claim.fence, held.renewed_s
            if not wait or seen.get(fence, renewed_s) != renewed_s:
                raise JobError(2, _refusal(out, held, lease_s)) from None
            if fence not in seen:
                say(f"waiting: {out} is claimed by {held.claim.holder}, which counts as dead after {lease_s:.0f} s of silence")
            seen[fence] = renewed_s
        time.sleep(min(_LOOK_S, lease_s / 10))


def _refusal(out: str, held: Held, lease_s: float) -> str:
    claim = held.claim
    what = f" (chunks {claim.chosen})" if claim.chosen else ""
    since = datetime.fromtimestamp(claim.since_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return (
        f"{out} is being written by another job{what}: {claim.holder}, since {since}, last heard of"
        f" {max(0.0, time.time() - held.renewed_s):.0f} s ago. Wait for it, or give other chunks (--range); a dead one is taken"
        f" over after {lease_s:.0f} s of silence (engine.lease_s), or at once with --force-lease"
    )


def existing_dataset(out: str) -> DatasetInfo | None:
    """What an earlier start wrote. Raises JobError(2) for a folder that holds something else."""
    if (info := read_info(out)) is not None:
        return info
    foreign = [name for name in storage.listdir(out) if name != RUN]
    if foreign:
        raise JobError(2, f"{out} holds {foreign[0]!r} but no dataset.json: it is no output of ours; choose another folder")
    return None


def record_libraries(out: str, libraries: dict[str, str]) -> None:
    """Keep what a job was begun with, beside the results: fingerprints say that something differs, this says what."""
    storage.atomic_write(storage.join(out, _LIBRARIES), json.dumps(libraries, indent=1).encode() + b"\n")


def check_same(out: str, old: DatasetInfo, new: DatasetInfo, libraries: dict[str, str]) -> None:
    """Raises JobError(4) saying in words which settings, prompts, weights, libraries or code are not as they were."""
    known = _read_libraries(out) if storage.exists(storage.join(out, _LIBRARIES)) else None
    if lines := changes(old, new, known, libraries):
        hashed = [f"stage_sha.{stage}" for stage, sha in new.stage_sha.items() if old.stage_sha.get(stage) != sha]
        raise JobError(
            4,
            f"{out} was made with another configuration; choose another output, or go back to the old values (old -> new):\n"
            + "\n".join(f"  {line}" for line in lines)
            + (f"\nother results than before: {', '.join(hashed)} in dataset.json" if hashed else ""),
        )


def _read_libraries(out: str) -> dict[str, str] | None:
    try:
        return msgspec.json.decode(storage.read_bytes(storage.join(out, _LIBRARIES)), type=dict[str, str])
    except (msgspec.MsgspecError, OSError):  # it only explains
        return None
