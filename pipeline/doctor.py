"""What a configuration needs and this machine has not, with the command that installs it. Loads no model."""

from __future__ import annotations

import os
import sys
from typing import Literal

import msgspec
import psutil

from materia.base.terminal import plural
from materia.base.weights.files import cache_dir
from pipeline.config import Config, PoolSettings
from pipeline.preflight import what_is_missing
from stages.records import StageName
from stages.specs import MODEL_STAGES, STAGE_ORDER, build_stages

Status = Literal["ok", "warning", "missing"]


class Check(msgspec.Struct, frozen=True):
    """One line of the doctor's report; `fix` is empty where nothing is to be done."""

    what: str
    status: Status
    found: str
    fix: str = ""


def examine(config: Config) -> list[Check]:
    """Check interpreter, machine and every stage of a configuration. Raises BackendError for a backend that cannot be built."""
    return [*_machine(config), *_cards(config), *_stages(config)]


def _machine(config: Config) -> list[Check]:
    cores = len(os.sched_getaffinity(0))
    available_gib = psutil.virtual_memory().available / 2**30
    booked = sum(pool.workers * pool.num_cpus for pool in config.engine.pools)
    fix = "lower engine.pools[].workers or num_cpus, or give --ray-address of a cluster"
    return [
        Check("python", "ok", sys.version.split()[0]),
        Check("cores", "ok", f"{cores}, of which workers book {booked:g}")
        if booked < cores
        else Check("cores", "warning", f"{cores}, but workers book {booked:g}", fix),
        Check("memory", "ok" if available_gib > 4 else "warning", f"{available_gib:.1f} GiB free"),
        Check("weights folder", "ok", str(cache_dir())),
    ]


def _cards(config: Config) -> list[Check]:
    """The GPUs here and the shares that the pools book of them; nothing, and torch is not imported, if no stage uses one."""
    pools = [(pool, on_card) for pool in config.engine.pools if (on_card := _on_card(config, pool))]
    return [_cards_here(), *(_pool(config, *pool) for pool in pools)] if pools else []


def _on_card(config: Config, pool: PoolSettings) -> list[StageName]:
    """The stages of a pool that run on a GPU."""
    return [stage for stage in pool.stages if stage in MODEL_STAGES and getattr(config, stage).device != "cpu"]


def _cards_here() -> Check:
    fix = "run where the cards are, give --ray-address of a cluster that has them, or --set device=cpu"
    try:
        import torch
    except ImportError:
        return Check("GPUs", "missing", "torch cannot be imported", "make gpu")
    if not torch.cuda.is_available():
        return Check("GPUs", "warning", "none on this machine", fix)
    cards = (torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count()))
    return Check("GPUs", "ok", ", ".join(f"{card.name} {card.total_memory / 2**30:.0f} GiB" for card in cards))


def _pool(config: Config, pool: PoolSettings, on_card: list[StageName]) -> Check:
    needed_gib = sum(getattr(config, stage).gpu_memory_gib for stage in on_card)
    found = f"{plural(pool.workers, 'worker')}, each {pool.num_gpus:g} GPU"
    if pool.gib_per_gpu:
        found += f" = {pool.num_gpus * pool.gib_per_gpu:g} GiB of a card of {pool.gib_per_gpu:g} GiB"
    name = pool.stages[0] if len(pool.stages) == 1 else f"{pool.stages[0]}..{pool.stages[-1]}"
    return Check(f"pool {name}", "ok", f"{found}; its stages need {needed_gib:g} GiB")


def _stages(config: Config) -> list[Check]:
    """A line for each stage that can run, and one for each thing that is missing, under the first stage that needs it."""
    stages = build_stages(config, STAGE_ORDER)
    lacking = what_is_missing(stages)
    checks = []
    for stage in stages:
        if not any(stage.name in names for names in lacking.values()):
            backend = getattr(getattr(config, stage.name, None), "backend", "built in")
            checks.append(Check(f"stage {stage.name}", "ok", backend))
        for lack, names in lacking.items():
            if names[0] == stage.name:
                checks.append(Check(f"stage {stage.name}", "missing", lack.what + _also(names[1:]), lack.fix))
    return checks


def _also(names: list[StageName]) -> str:
    return f" (also for {', '.join(names)})" if names else ""
