"""What a clip costs: seconds of a worker by stage, and bytes; as a file, so that what one machine measured plans for others.

Out: JSON, `{"stages": {"frames": {"seconds": 0.09, "cpu_s": 0.11}, ...}, "kept": 0.7, ...}`, which `materia plan --json`
prints as `rates`. In: such a file, in which fields may be left out, or `results.json` of `python -m tools.gpu_check`, which
knows the stages with networks of a card.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from materia.base.errors import UserError
from stages.records import StageName
from stages.specs import STAGE_ORDER

_FRAMES = 3  # of a clip, that boxes and masks are looked for in
_NETWORKS: dict[str, tuple[StageName, int]] = {
    "GroundingDINO": ("localise", _FRAMES),
    "SAM": ("segment", _FRAMES),
    "big-LaMa": ("background", 1),
}
"""How names of networks in the results of the GPU check begin -> the stage that runs them, and pictures of a clip."""


class StageRate(msgspec.Struct, frozen=True):
    """Of one worker, for a clip of the manifest, whether it is kept or not: seconds, and seconds of CPU."""

    seconds: float
    cpu_s: float = 0.0


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """`kept`: share of the clips. `bytes_in`: of a clip's video; `bytes_out`: of shards and tables, a clip. `setup_s`: until
    the models are loaded. `commit_s`: for a clip. `origin`: of each stage's numbers, in words."""

    stages: dict[StageName, StageRate]
    kept: float = 1.0
    bytes_in: float = 0.0
    bytes_out: float = 0.0
    setup_s: float = 0.0
    commit_s: float = 0.0
    origin: dict[StageName, str] = {}

    def of(self, stages: Iterable[StageName]) -> StageRate:
        """Of one worker that runs all these. What measured ones save side by side is in their numbers."""
        rates = [self.stages[stage] for stage in stages]
        return StageRate(sum(rate.seconds for rate in rates), sum(rate.cpu_s for rate in rates))

    def with_others(self, others: Rates) -> Rates:
        """These, and where `others` knows a stage, that."""
        return msgspec.structs.replace(self, stages=self.stages | others.stages, origin=self.origin | others.origin)

    def lacking(self) -> list[StageName]:
        """Stages of which nothing is known."""
        return [stage for stage in STAGE_ORDER if stage not in self.stages]


def read_rates(path: str | Path) -> Rates:
    """Read rates from either kind of file. Raises UserError."""
    try:
        data = msgspec.json.decode(Path(path).read_bytes())
        if isinstance(data, dict) and "steps" in data:
            rates = _of_the_check(data["steps"])
        else:
            rates = msgspec.convert(data.get("rates", data) if isinstance(data, dict) else data, Rates)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: neither rates as `materia plan --json` prints them nor results of the GPU check: {error}"
        ) from None
    if not rates.stages:
        raise UserError(f"{path}: knows of no stage how long it takes")
    if unknown := sorted(rates.stages.keys() - set(STAGE_ORDER)):
        raise UserError(f"{path}: no such stage: {', '.join(unknown)}; there are {', '.join(STAGE_ORDER)}")
    if wrong := [stage for stage, rate in rates.stages.items() if rate.seconds < 0 or rate.cpu_s < 0]:
        raise UserError(f"{path}: {wrong[0]} takes less than no time")
    return msgspec.structs.replace(rates, origin=dict.fromkeys(rates.stages, str(path)) | rates.origin)


def _of_the_check(steps: Iterable[Mapping[str, Any]]) -> Rates:
    """The quickest way that was measured of each network, with what surrounds it, for all pictures of a clip."""
    stages: dict[StageName, StageRate] = {}
    for step in steps:
        for row in step.get("rows", []):
            name = str(row.get("network", ""))
            for network, (stage, pictures) in _NETWORKS.items():
                if name.startswith(network) and isinstance(row.get("whole_ms"), int | float):
                    seconds = pictures * row["whole_ms"] / 1000
                    if stage not in stages or seconds < stages[stage].seconds:
                        stages[stage] = StageRate(round(seconds, 6))
    return Rates(stages=stages)
