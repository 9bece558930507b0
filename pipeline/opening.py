"""The output of a job, begun or gone on with: its plan and its dataset.json, and whether the input is still that of the plan.

An input may have grown: then `append` makes the plan longer, and dataset.json follows it. After a death between the two the
next start does the second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version

import msgspec

from materia.base import storage
from materia.base.terminal import plural
from materia.dataset.layout import DatasetInfo, replace_info, write_info
from pipeline.config import Config
from pipeline.engine.spool import plan_folder
from pipeline.plan import Plan, Tasks, extend_plan, growth, make_plan, open_plan, save_plan
from pipeline.preflight import JobError, check_same, existing_dataset, record_libraries
from pipeline.sources import find_source
from stages.base import Stage
from stages.specs import library_versions, stage_fingerprints

_MEND = "choose another output, or bring the input back"


def open_output(
    config: Config,
    stages: list[Stage],
    input: str,
    output: str,
    *,
    limit: int | None = None,
    append: bool = False,
    tasks: Tasks | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Plan, DatasetInfo]:
    """The output's plan and dataset.json, made if this is the first start; otherwise nothing that matters may have changed.

    `on_progress` is told the rows that were planned so far, `tasks` plans a large input. Raises JobError(4), SourceError.
    """
    old = existing_dataset(output)
    plan = None
    if old is not None:
        check_same(output, old, _dataset(config, stages, old.rows, old.chunks, old.plan_sha256), library_versions())
        plan = open_plan(plan_folder(output))
    if plan is not None and plan.limit != limit:
        planned = f"with --limit {plan.limit}" if plan.limit else "without --limit"
        raise JobError(4, f"{output} was planned {planned}; give the same, or choose another output")
    if plan is None or plan.is_outdated:
        plan = _new_plan(config, input, output, old, limit, tasks, on_progress)
    else:
        plan = _up_to_date(plan, config, input, output, append, tasks, on_progress)
    if old is None:
        dataset = _dataset(config, stages, plan.rows, plan.n_chunks, plan.sha256)
        record_libraries(output, library_versions())
        write_info(output, dataset)
        return plan, dataset
    dataset = msgspec.structs.replace(old, rows=plan.rows, chunks=plan.n_chunks, plan_sha256=plan.sha256)
    if dataset != old:
        replace_info(output, dataset)
    return plan, dataset


def _new_plan(
    config: Config,
    input: str,
    output: str,
    old: DatasetInfo | None,
    limit: int | None,
    tasks: Tasks | None,
    on_progress: Callable[[int], None] | None,
) -> Plan:
    """A plan where there is none, or an earlier version's: the rows of an output that exists must be those planned then."""
    folder, engine = plan_folder(output), config.engine
    address = storage.join(folder, "plan.json")
    before = storage.read_bytes(address) if storage.exists(address) else None
    if old is None and before is not None:  # of a start that died
        storage.remove(address)
    plan = make_plan(
        input, folder, config.source, engine.rows_per_chunk, engine.rows_per_slice, on_progress, limit=limit, tasks=tasks
    )
    if old is not None and old.plan_sha256 not in (plan.sha256, _earlier_sha256(plan)):
        storage.remove(address)
        if before is not None:
            storage.atomic_write(address, before)
        rows = f"{plural(old.rows, 'row')} then, {plan.rows} now"
        raise JobError(4, f"{input} is not as it was when {output} was planned ({rows}); {_MEND}")
    for name in ("rows.msgpack", "offsets.bin"):  # where earlier versions kept the rows
        storage.remove(storage.join(folder, name))
    return plan


def _up_to_date(
    plan: Plan,
    config: Config,
    input: str,
    output: str,
    append: bool,
    tasks: Tasks | None,
    on_progress: Callable[[int], None] | None,
) -> Plan:
    """The plan, longer if the input has grown and `append` is given."""
    source = find_source(input, config.source)
    found = growth(plan, source, config.source, tasks)
    not_as_it_was = f"{input} is not as it was when {output} was planned"
    if found.problem:
        raise JobError(4, f"{not_as_it_was}: {found.problem}; {_MEND}")
    if found.pieces and not append:
        where = source.address_of(found.pieces[0].file)
        raise JobError(
            4,
            f"{not_as_it_was}: its {plural(plan.rows, 'row')} are there, and more were added, first in {where}; "
            f"to take these in, too, give --append; or {_MEND}",
        )
    now = replace(plan, input=source.address, root=source.root, files=found.files)
    if found.pieces:
        return extend_plan(now, source, found.pieces, config.source, on_progress, tasks=tasks)
    return plan if now == plan else save_plan(now)


def _earlier_sha256(plan: Plan) -> str:
    """What earlier versions took for the hash of a plan: that of its rows, encoded one after the other."""
    digest = hashlib.sha256()
    for number in range(plan.n_slices):
        for row in plan.read(number):
            digest.update(msgspec.msgpack.encode(row))
    return digest.hexdigest()


def _dataset(config: Config, stages: list[Stage], rows: int, chunks: int, plan_sha256: str) -> DatasetInfo:
    return DatasetInfo(
        version=version("prima-materia"),
        rows=rows,
        chunks=chunks,
        rows_per_chunk=config.engine.rows_per_chunk,
        plan_sha256=plan_sha256,
        config=config.result_fields(),
        prompt_sha=next(stage.identity() for stage in stages if stage.name == "entities")["prompt"],
        stage_sha=stage_fingerprints(config, stages),
    )
