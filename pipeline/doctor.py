"""What a configuration needs and this machine has not, with the command that installs it. Loads no model."""

from __future__ import annotations

import os
import sys
from typing import Literal

import msgspec
import psutil

from pipeline.build import build_stage
from pipeline.config import STAGE_ORDER, Config
from stages.records import StageName
from stages.weights import cache_dir

Status = Literal["ok", "warning", "missing"]


class Check(msgspec.Struct, frozen=True):
    """One line of the doctor's report; `fix` is empty where nothing is to be done."""

    what: str
    status: Status
    found: str
    fix: str = ""


def examine(config: Config) -> list[Check]:
    """Check interpreter, machine and every stage of a configuration. Raises BackendError for a backend that cannot be built."""
    return [*_machine(config), *(check for name in STAGE_ORDER for check in _stage(config, name))]


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


def _stage(config: Config, name: StageName) -> list[Check]:
    missing = build_stage(config, name).missing()
    if not missing:
        backend = getattr(getattr(config, name, None), "backend", "built in")
        return [Check(f"stage {name}", "ok", backend)]
    return [Check(f"stage {name}", "missing", lack.what, lack.fix) for lack in missing]
