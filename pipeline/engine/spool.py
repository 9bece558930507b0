"""The spool: where finished slices wait until all of their chunk are there, and are committed together.

Every file is keyed by slice or chunk and appears whole or not at all, so each of these steps may be repeated.
"""

from __future__ import annotations

from collections.abc import Callable

from materia.base import leases, retries, storage
from materia.base.storage_settings import use_storage
from materia.dataset.writer import write_chunk
from pipeline.config import Config
from pipeline.engine.messages import JobSpec, Work, mostly_failed, report
from pipeline.plan import open_plan
from pipeline.preflight import RUN, lease_folder
from stages.records import decode_rows


def plan_folder(out: str) -> str:
    """Where the plan of an output lies."""
    return storage.join(out, RUN, "plan")


def spool_address(out: str, number: int) -> str:
    """Where a finished slice waits for its chunk's commit."""
    return storage.join(out, RUN, "spool", f"{number:09d}.msgpack")


def spooled(out: str) -> set[int]:
    """Slices that wait in the spool."""
    names = storage.listdir(storage.join(out, RUN, "spool"))
    return {int(name.removesuffix(".msgpack")) for name in names if name.endswith(".msgpack")}


def commit_chunk(job: JobSpec, chunk: int) -> None:
    """Write the shard, index and rejects of a chunk from the spool, then its commit record, then empty its spool."""
    use_storage(Config.model_validate_json(job.config_json).storage)  # a task may run in a process that nobody prepared
    retries.be_patient()
    plan = open_plan(plan_folder(job.out))
    assert plan is not None
    numbers = plan.slices_of(chunk)
    rows = (row for number in numbers for row in decode_rows(storage.read_bytes(spool_address(job.out, number))))
    # Reads no row if a repeated task comes after the commit.
    write_chunk(
        job.out,
        chunk,
        rows,
        provenance=job.provenance,
        extra=plan.extra,
        generation=job.fence if job.retry else 0,
        still_ours=lambda: leases.require(lease_folder(job.out), job.fence),
    )
    for number in numbers:
        storage.remove(spool_address(job.out, number))


def discard_failures(out: str, ours: Callable[[int], bool]) -> None:
    """Take those of our slices off the spool that mostly failed, or of which a stage failed for every row that it was given.

    Their rows get another chance when the cause is gone.
    """
    for number in filter(ours, spooled(out)):
        rows = decode_rows(storage.read_bytes(spool_address(out, number)))
        found = report(Work(chunk=0, slice=number, rows=rows))
        if mostly_failed(found) or found.down is not None:
            storage.remove(spool_address(out, number))
