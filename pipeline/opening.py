"""The output of a job, begun or gone on with: its plan and its dataset.json, and whether the input is still that of the plan.

An input may have grown: then `append` makes the plan longer, and dataset.json follows it. After a death between the two the
next start does the second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Opening:
    """Of an output for an input. `tasks` plans a large input side by side, `on_progress` is told the rows planned so far."""

    config: Config
    stages: list[Stage]
    input: str
    output: str
    tasks: Tasks | None = None
    on_progress: Callable[[int], None] | None = None

    def open(self, limit: int | None, *, append: bool, others: bool) -> tuple[Plan, DatasetInfo]:
        """The output's plan and dataset.json, made if this is the first start; otherwise nothing that matters may have changed.

        `others`: other jobs may write other chunks of it, and read its plan. Raises JobError(2 or 4), SourceError.
        """
        if append and others:
            raise JobError(2, "--append changes the plan, which jobs for other chunks read: give it to a start without --range")
        old = existing_dataset(self.output)
        plan = None
        if old is not None:
            check_same(self.output, old, self._dataset(old.rows, old.chunks, old.plan_sha256), library_versions())
            plan = open_plan(plan_folder(self.output))
        if plan is not None and plan.limit != limit:
            planned = f"with --limit {plan.limit}" if plan.limit else "without --limit"
            raise JobError(4, f"{self.output} was planned {planned}; give the same, or choose another output")
        if plan is None or plan.is_outdated:
            if old is not None and others:
                raise JobError(4, f"the plan of {self.output} must be made anew, which a start without --range does")
            plan = self._new_plan(old, limit)
        else:
            plan = self._up_to_date(plan, append, others)
        if old is None:
            dataset = self._dataset(plan.rows, plan.n_chunks, plan.sha256)
            record_libraries(self.output, library_versions())
            write_info(self.output, dataset)
            return plan, dataset
        dataset = msgspec.structs.replace(old, rows=plan.rows, chunks=plan.n_chunks, plan_sha256=plan.sha256)
        if dataset != old:
            replace_info(self.output, dataset)
        return plan, dataset

    def _new_plan(self, old: DatasetInfo | None, limit: int | None) -> Plan:
        """A plan where there is none, or an earlier version's: the rows of an output that exists must be those planned then."""
        folder, engine = plan_folder(self.output), self.config.engine
        address = storage.join(folder, "plan.json")
        before = storage.read_bytes(address) if storage.exists(address) else None
        if old is None and before is not None:  # of a start that died
            storage.remove(address)
        size = engine.rows_per_chunk, engine.rows_per_slice
        plan = make_plan(self.input, folder, self.config.source, *size, self.on_progress, limit=limit, tasks=self.tasks)
        if old is not None and old.plan_sha256 not in (plan.sha256, _earlier_sha256(plan)):
            storage.remove(address)
            if before is not None:
                storage.atomic_write(address, before)
            rows = f"{plural(old.rows, 'row')} then, {plan.rows} now"
            raise JobError(4, f"{self._not_as_it_was} ({rows}); {_MEND}")
        for name in ("rows.msgpack", "offsets.bin"):  # where earlier versions kept the rows
            storage.remove(storage.join(folder, name))
        return plan

    def _up_to_date(self, plan: Plan, append: bool, others: bool) -> Plan:
        """The plan, longer if the input has grown and that is asked for."""
        source = find_source(self.input, self.config.source)
        found = growth(plan, source, self.config.source, self.tasks)
        if found.problem:
            raise JobError(4, f"{self._not_as_it_was}: {found.problem}; {_MEND}")
        if found.pieces and not append:
            where = source.address_of(found.pieces[0].file)
            raise JobError(
                4,
                f"{self._not_as_it_was}: its {plural(plan.rows, 'row')} are there, and more were added, first in {where}; "
                f"to take these in, too, give --append; or {_MEND}",
            )
        now = replace(plan, input=source.address, root=source.root, files=found.files)
        if found.pieces:
            return extend_plan(now, source, found.pieces, self.config.source, self.on_progress, tasks=self.tasks)
        return plan if now == plan or others else save_plan(now)

    @property
    def _not_as_it_was(self) -> str:
        return f"{self.input} is not as it was when {self.output} was planned"

    def _dataset(self, rows: int, chunks: int, plan_sha256: str) -> DatasetInfo:
        return DatasetInfo(
            version=version("prima-materia"),
            rows=rows,
            chunks=chunks,
            rows_per_chunk=self.config.engine.rows_per_chunk,
            plan_sha256=plan_sha256,
            config=self.config.result_fields(),
            prompt_sha=next(stage.identity() for stage in self.stages if stage.name == "entities")["prompt"],
            stage_sha=stage_fingerprints(self.config, self.stages),
        )


def _earlier_sha256(plan: Plan) -> str:
    """What earlier versions took for the hash of a plan: that of its rows, encoded one after the other."""
    digest = hashlib.sha256()
    for number in range(plan.n_slices):
        for row in plan.read(number):
            digest.update(msgspec.msgpack.encode(row))
    return digest.hexdigest()
