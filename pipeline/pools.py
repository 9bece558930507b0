"""What pools of workers make of the seconds that stages take: the speed of light of a job, planned and running.

In: pools, and seconds of a worker for a clip, by stage. Out: clips a second, if the workers did nothing but work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from pipeline.config import PoolSettings
from stages.records import StageName


class Pool(msgspec.Struct, frozen=True):
    """Workers that run the same stages, one after the other or, each at another step, `side_by_side`.

    `cpus` and `cards` are those that each books.
    """

    stages: list[StageName]
    workers: int
    side_by_side: bool = False
    cpus: float = 0.0
    cards: float = 0.0

    def seconds(self, by_stage: Mapping[StageName, float]) -> float:
        """Of a worker, for what its stages take by themselves."""
        taken = [by_stage.get(stage, 0.0) for stage in self.stages]
        return max(taken) if self.side_by_side else sum(taken)

    def clips_per_s(self, by_stage: Mapping[StageName, float]) -> float:
        """Of all workers, by the seconds of one for a clip; infinite if they take none."""
        taken = self.seconds(by_stage)
        return self.workers / taken if taken > 0 else float("inf")


def pools_of(settings: Iterable[PoolSettings]) -> list[Pool]:
    """The pools of a configuration."""
    return [
        Pool(list(pool.stages), pool.workers, pool.rows_at_once is not None, pool.num_cpus, pool.num_gpus) for pool in settings
    ]


def speed_of_light(seconds: Mapping[StageName, float], pools: Iterable[Pool], clips: int) -> float:
    """Clips a second that the slowest pool allows, of which `clips` have taken these seconds by stage; 0: unknown."""
    if not clips or not any(seconds.values()):
        return 0.0
    a_clip = {stage: spent / clips for stage, spent in seconds.items()}
    return min((pool.clips_per_s(a_clip) for pool in pools), default=0.0)
