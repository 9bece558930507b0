"""What is looked at while a run goes on: curves, validation losses, sample grids (monitor.py, validation.py, report/grid.py).

In: the learner and what its steps measured. Out: nothing that it learns from. Validation and grids are of the averaged weights,
those that are sampled with; every rank takes part in computing them, because a sharded model needs all, and rank 0 writes.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from materia.base.terminal import plural
from materia.report.grid import grid
from trainer import distributed
from trainer.config import TrainConfig
from trainer.data.batch import EncodedItem
from trainer.data.items import PixelSource
from trainer.data.training_data import Data, encoded
from trainer.distributed import World
from trainer.encoders import Encoders
from trainer.model.flow import shift_for
from trainer.run.learner import Learner
from trainer.run.monitor import Measured, Monitor, peak_flops
from trainer.run.progress import Say
from trainer.run.validation import validate
from trainer.sample.generate import Trained, sample_rows


class Watch:
    """A context that follows a run from step `start` on; `record` is what config.json holds, `say` tells validation losses."""

    def __init__(
        self,
        run: Path,
        config: TrainConfig,
        record: dict[str, Any],
        start: int,
        data: Data,
        encoders: Encoders,
        world: World,
        say: Say,
    ) -> None:
        self._config = config
        self._data = data
        self._encoders = encoders
        self._world = world
        self._say = say
        self._monitor: Monitor | None = None
        if world.rank == 0:
            peak = peak_flops(world.device, config.run.precision)
            self._monitor = Monitor(str(run), config.log, first=start + 1, peak=peak, config=record["config"])

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._monitor is not None:
            self._monitor.close()

    def step(self, done: int, learner: Learner, measured: Measured) -> None:
        """Note what the `done`-th step measured; validate and draw, if it is time to. The last step is validated always."""
        if self._monitor is not None:
            self._monitor.step(done, measured)
        log, is_last = self._config.log, done == self._config.stage.steps
        if (is_last or done % log.validate_every == 0) and self._data.validation:
            self._validate(done, learner)
        if log.sample_every and done % log.sample_every == 0 and self._data.validation:
            self._draw(done, learner)

    @cached_property
    def _validation(self) -> list[EncodedItem]:
        """The clips of the validation loss, with the references that step 0 would draw for them."""
        items = [self._data.source.read(0, slot, index, 0) for slot, index in enumerate(self._data.validation)]
        return encoded(items, self._encoders)

    def _validate(self, done: int, learner: Learner) -> None:
        latents = self._validation[0].mean.shape[1:]  # (T, H, W)
        with distributed.averaged(learner.module, learner.ema):
            loss = validate(
                learner.module,
                self._validation,
                word_tokens=learner.config.word_tokens,
                objective=self._config.objective,
                shift=shift_for(latents, learner.config.patch, self._config.objective.shift_tokens),
                seed=self._config.seed,
                world=self._world,
            )
        if self._monitor is not None:
            self._monitor.validation(done, loss)
        kind = "held-out" if self._data.selection.held_out else "training"
        self._say(f"step {done}: validation {loss}, on {plural(len(self._validation), f'{kind} clip')}")

    def _draw(self, done: int, learner: Learner) -> None:
        config = self._config
        pixels = PixelSource(self._data.samples, config.data, config.seed, config.stage.images)
        numbers = self._data.validation[: config.log.samples]
        items = [pixels.read(0, slot, index, 0) for slot, index in enumerate(numbers)]
        trained = Trained(config, learner.config, learner.module, done, self._encoders, self._world.device)
        with distributed.averaged(learner.module, learner.ema):
            rows = sample_rows(trained, items, config.log.sample_steps)
        if self._monitor is not None:
            self._monitor.picture(done, grid(rows))


def draws_grids(config: TrainConfig, start: int) -> bool:
    """Whether a grid of samples is due between step `start` and the end; only that needs the encoders beside a cache."""
    every = config.log.sample_every
    return every > 0 and config.stage.steps // every > start // every
