"""How long training waits for data: `python -m tools.bench_training_data [--shards OUT [--cache CACHE]]`.

In: shards and a cache of them; by default a small synthetic world, encoded first. Out: for each number of loader workers the
share of the time spent waiting for a step's items; the step itself (putting the batch together, model, AdamW, average) is
training's own. Floor: 5 % for configs/train/tiny.yaml on two cores. The first steps, in which workers start, are not counted.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from materia.base.settings_file import load_settings
from trainer import distributed
from trainer.config import TrainConfig
from trainer.data.training_data import encoded, open_data, steps
from trainer.encoders import build_encoders
from trainer.run import loop
from trainer.run.learner import begin, model_config
from trainer.run.precompute import precompute

FLOOR = 0.05
WARM_UP_STEPS = 5
CLIPS = 8


@click.command()
@click.option("--config", "config_path", default="configs/train/tiny.yaml", show_default=True)
@click.option("--shards", help="Output of `materia run`; default: a synthetic world.")
@click.option("--cache", help="What `materia precompute` wrote of --shards with --config; default: made now.")
@click.option("--workers", "numbers", multiple=True, type=int, default=(0, 2), show_default=True)
@click.option("--steps", "count", default=50, show_default=True)
@click.option("--threads", default=2, show_default=True, help="CPU threads of the model.")
def main(config_path: str, shards: str | None, cache: str | None, numbers: tuple[int, ...], count: int, threads: int) -> None:
    """Print a line for each number of workers."""
    overrides: tuple[str, ...] = (f"run.threads={threads}", f"stage.steps={count + WARM_UP_STEPS}", "data.validation=0")
    if cache is None:
        overrides += ("data.variants=2",)  # an item reads one of a reference's variants, however many there are
    with _prepared(load_settings(TrainConfig, config_path, overrides), shards, cache) as (source, encoded_before):
        for workers in numbers:
            config = load_settings(TrainConfig, config_path, (*overrides, f"data.workers={workers}"))
            waits, walls = measure(config, source, encoded_before)
            wait, step = (f"{statistics.median(seconds) * 1e3:.1f}" for seconds in (waits, walls))
            share = sum(waits) / sum(walls)
            print(f"{workers} workers: waited {share:.1%} of the time (floor {FLOOR:.0%}), median {wait} of {step} ms a step")


def measure(config: TrainConfig, shards: str, cache: str) -> tuple[list[float], list[float]]:
    """Seconds of waiting and of the whole, for each step after the first ones."""
    world, encoders = distributed.join(config.run), build_encoders(config.encoders)
    data, learner = open_data(config, shards, cache, encoders, world), begin(config, model_config(config, encoders), world)
    waits, walls = [], []
    began = time.perf_counter()
    for number, _, keys, items in steps(data, config, 0, world):
        waited = time.perf_counter()
        loop.gradients(learner, encoded(items, encoders), len(keys), number, config, world)
        loop.update(learner, number, config)
        now = time.perf_counter()
        waits.append(waited - began)
        walls.append(now - began)
        began = now
    return waits[WARM_UP_STEPS:], walls[WARM_UP_STEPS:]


@contextmanager
def _prepared(config: TrainConfig, shards: str | None, cache: str | None) -> Iterator[tuple[str, str]]:
    """Addresses of shards and a cache, made if they are not there."""
    with tempfile.TemporaryDirectory() as folder:
        if shards is None:
            from tools.synthetic_world import make

            shards = f"{folder}/shards"
            make(shards, clips=CLIPS, seed=0)
        if cache is None:
            cache = f"{folder}/cache"
            precompute(config, shards=shards, output=cache)
        yield shards, cache


if __name__ == "__main__":
    main()
