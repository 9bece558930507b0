"""What a clip of a manifest costs on this machine: some of its slices through the pools of a configuration.

Pools run one after the other, each with as many workers side by side as this machine would run of them, so that what they take
from each other is in the numbers. The first slice of every worker is not counted: it warms up.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from materia.base import storage
from materia.base.storage_settings import use_storage
from materia.base.terminal import plural
from materia.dataset.documents import Provenance
from pipeline.capacity.rates import Rates, StageRate
from pipeline.config import Config, PoolSettings
from pipeline.engine.child import load_stage_factory
from pipeline.engine.messages import JobSpec, Work, seconds_of
from pipeline.engine.spool import commit_chunk, plan_folder
from pipeline.engine.worker import PoolWorker, what_loads
from pipeline.job import STAGE_FACTORY
from pipeline.plan import Plan, make_plan
from pipeline.preflight import JobError, check_nothing_missing
from pipeline.progress import Planning
from stages.records import Rejection, Row, Sample, StageName, encode_rows
from stages.specs import STAGE_ORDER


def measure(
    config: Config,
    input_address: str,
    clips: int,
    *,
    first_rows: int | None = None,
    cards: int = 0,
    stage_factory: str = STAGE_FACTORY,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Rates, int]:
    """Rates of about so many clips, evenly spread over the manifest; and its number of rows.

    `first_rows`: read no more of it, and count no further; `cards`: that this machine has. Raises SourceError, JobError.
    """
    use_storage(config.storage)
    check_nothing_missing(load_stage_factory(stage_factory)(config, STAGE_ORDER))
    of_slice = config.engine.rows_per_slice
    with tempfile.TemporaryDirectory(prefix="materia-") as out:
        tell("reading the manifest")
        with Planning() as planning:
            plan = make_plan(
                input_address, plan_folder(out), config.source, of_slice, of_slice, planning.tell, limit=first_rows
            )
        if not plan.rows:
            raise JobError(2, f"{input_address} has no rows")
        chosen = _evenly(plan.n_slices, -(-clips // of_slice))
        empty = dict.fromkeys((stage for stage in STAGE_ORDER if stage != "cut"), "")
        paths = [entry for entry in sys.path if entry]
        job = JobSpec(config.model_dump_json().encode(), out, Provenance("", empty), stage_factory, paths)
        works = [Work(chunk=number, slice=number) for number in chosen]
        stages: dict[StageName, StageRate] = {}
        setup_s = 0.0
        for number, pool in enumerate(config.engine.pools):
            tell(f"{', '.join(pool.stages)}: {what_loads([pool])}")
            with _workers(job, number, _side_by_side(pool, len(works), cards)) as (workers, took_s):
                setup_s = max(setup_s, took_s)
                tell(f"{', '.join(pool.stages)}: {plural(sum(len(plan.rows_of(one)) for one in chosen), 'clip')}")
                works, rates = _run(workers, works, plan)
            stages |= rates
        rows = [row for work in works for row in work.rows]
        kept = [row for row in rows if isinstance(row, Sample)]
        if not kept:
            reasons = Counter(row.reason for row in rows if isinstance(row, Rejection)).most_common(3)
            told = ", ".join(f"{reason} {times}" for reason, times in reasons)
            raise JobError(
                2,
                f"none of the {plural(len(rows), 'clip')} that were tried was kept ({told}), so what later stages take is"
                " not known; measure more with --clips, or see `materia run --limit`",
            )
        commits_s = [_commit(job, plan, work) for work in works]
        commit_s = sum(commits_s[1:]) / sum(len(work.rows) for work in works[1:]) if works[1:] else 0.0  # the first one imports
        origin = f"measured on {plural(len(rows), 'clip')} of {input_address}, {plural(os.cpu_count() or 1, 'core')}"
        return Rates(
            stages=stages,
            kept=round(len(kept) / len(rows), 4),
            bytes_in=round(_bytes_in(kept)),
            bytes_out=round(_bytes_out(Path(out)) / len(rows)),
            setup_s=round(setup_s, 3),
            commit_s=round(commit_s, 6),
            origin=dict.fromkeys(stages, origin),
        ), plan.rows


def _evenly(n_slices: int, wanted: int) -> list[int]:
    """Numbers of slices, in the middle of equal parts."""
    wanted = min(max(wanted, 1), n_slices)
    return [(2 * number + 1) * n_slices // (2 * wanted) for number in range(wanted)]


def _side_by_side(pool: PoolSettings, n_slices: int, cards: int) -> int:
    """Workers of a pool that this machine runs at once: by its cards, or by its cores."""
    room = int(cards / pool.num_gpus) if pool.num_gpus else os.cpu_count() or 1
    return max(1, min(pool.workers, room, n_slices))


@contextmanager
def _workers(job: JobSpec, pool: int, count: int) -> Iterator[tuple[list[PoolWorker], float]]:
    """Workers of a pool with their models loaded, and how long that took."""
    began = time.perf_counter()
    workers = [PoolWorker(job, pool) for _ in range(count)]
    try:
        for worker in workers:
            worker.set_up()
        yield workers, time.perf_counter() - began
    finally:
        for worker in workers:
            worker.close()


def _run(workers: Sequence[PoolWorker], works: list[Work], plan: Plan) -> tuple[list[Work], dict[StageName, StageRate]]:
    """Take the slices through a pool: what became of them, and what its stages took for a clip."""
    free = list(workers)

    def advance(work: Work) -> tuple[Work, float]:
        worker = free.pop()
        began = time.perf_counter()
        done = worker.advance(Work(chunk=work.chunk, slice=work.slice, rows=list(work.rows)))
        took_s = time.perf_counter() - began
        free.append(worker)
        if done.failure:
            raise JobError(done.exit_code, "\n".join([done.failure, *done.notes]))
        return done, took_s

    with ThreadPoolExecutor(len(workers)) as threads:
        list(threads.map(advance, [works[number % len(works)] for number in range(len(workers))]))
        before_s = cpu_s()
        done = list(threads.map(advance, works))
        spent_s = cpu_s() - before_s
    rows = sum(len(plan.rows_of(work.slice)) for work in works)
    own = seconds_of(span for work, _ in done for span in work.spans)
    whole_s = sum(own.values()) or 1.0
    took_s = sum(seconds for _, seconds in done)
    # What lies between stages, and what they save where they work side by side, is divided among them.
    rates = {
        stage: StageRate(round(took_s * seconds / whole_s / rows, 6), round(spent_s * seconds / whole_s / rows, 6))
        for stage, seconds in own.items()
    }
    return [work for work, _ in done], rates


def _commit(job: JobSpec, plan: Plan, work: Work) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    commit_chunk(job, plan.extra, work.chunk, [encode_rows(work.rows)])
    return time.perf_counter() - began


def cpu_s() -> float:
    """Seconds of CPU until now, of this process and those that it has started."""
    this = psutil.Process()
    spent: float = sum(this.cpu_times()[:2])
    for process in this.children(recursive=True):
        with suppress(psutil.Error):
            spent += sum(process.cpu_times()[:2])
    return spent


def _bytes_in(kept: Sequence[Row]) -> float:
    """Of a clip's video, the mean: of a file from which a clip is cut, the clip's share."""
    sizes = []
    for row in kept:
        assert isinstance(row, Sample) and row.video is not None
        clip = row.clip
        whole = storage.size(clip.address)
        span_s = (clip.end_s if clip.end_s is not None else row.video.duration_s) - (clip.start_s or 0.0)
        sizes.append(whole * min(1.0, span_s / row.video.duration_s))
    return sum(sizes) / len(sizes) if sizes else 0.0


def _bytes_out(out: Path) -> int:
    """Of what was committed."""
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file() and "_run" not in file.relative_to(out).parts)
