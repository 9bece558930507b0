"""How busy the engine keeps a card, tried without one: stubs that sleep as long as the models work while they hold one lock.

In: clips that are nothing but rows. Out: the share of the time in which the lock, which stands for the card, was held. What the
CPU does before and after the card is slept too, so two cores are enough for what wants more.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.config import Config
from stages.records import Row, Sample, StageName
from tools.bench_pipeline import Stub

CARD = "STUB_CARD"
"""Environment variable: a folder that all workers see; in it the lock, and a line for every time that it was held."""


class Cost(NamedTuple):
    """Seconds a clip of three 720p frames: on the CPU before the card, on the card, on the CPU after it."""

    before: float
    card: float
    after: float


A100_TO_H100 = 312 / 989
"""bfloat16 peaks of the makers' data sheets, as in trainer/run/monitor.py."""
PICTURE_GROUNDINGDINO = 0.100 * A100_TO_H100
"""Swin-T at 800 px through PyTorch: about 100 ms (theneuralbase.com, TensorRT optimization)."""
PICTURE_SAM_H = 0.150 * A100_TO_H100
"""Image encoder of ViT-H: about 0.15 s on an A100 (segment-anything.com, FAQ)."""
COSTS: dict[StageName, Cost] = {
    "frames": Cost(0.10, 0, 0),
    "localise": Cost(0.09, 3 * PICTURE_GROUNDINGDINO, 0.01),
    "link": Cost(0.03, 0, 0),
    "segment": Cost(0.03, 3 * PICTURE_SAM_H, 0.03),
    "faces": Cost(0.03, 0, 0),
    "background": Cost(0.02, 2 * PICTURE_GROUNDINGDINO, 0.08),
    "cut": Cost(0.12, 0, 0),
}
"""Card: published figures, brought to an H100; LaMa, for which there is none, as a picture of GroundingDINO, beside that of the
residual check. CPU: of our stages on one core (GroundingDINO's by tools/bench_localise.py, the others rounded from runs)."""


class OnCard(Stub):
    """A stage that takes its time, the card's share of it alone."""

    def process(self, samples: list[Sample]) -> list[Row]:
        """As of a stage; the batch is on the card in one piece."""
        cost = COSTS.get(self.name, Cost(0, 0, 0))
        time.sleep(cost.before * len(samples))
        if cost.card:
            _hold(cost.card * len(samples))
        time.sleep(cost.after * len(samples))
        return super().process(samples)


def stages(_config: Config, names: Iterable[StageName]) -> list[OnCard]:
    """Stage factory."""
    return [OnCard(name) for name in names]


def _hold(seconds: float) -> None:
    folder = Path(os.environ[CARD])
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    log = os.open(folder / "held", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        time.sleep(seconds)
        os.write(log, f"{began} {time.monotonic()}\n".encode())
    finally:
        os.close(lock)
        os.close(log)


def held_share(folder: Path, warm_up: float) -> float:
    """Share of the time, after the first `warm_up` share of the holds and to the end of the last one, in which it was held."""
    held = sorted(tuple(map(float, line.split())) for line in (folder / "held").read_text().splitlines())
    warm = held[int(warm_up * len(held)) :]
    return sum(end - began for began, end in warm) / (warm[-1][1] - warm[0][0])
