"""Proof that model, loss and sampler can learn at all: `tiny` learns eight samples by heart, on a CPU.

In: any output of `materia run` with at least eight samples that are long enough. Out: a table, and exit code 1 unless the loss
on a fixed set of noise and noise levels fell to a quarter of its start and every sampled latent is nearest to its own clip
among the eight. Each sample is one item throughout, encoded once: one window, references as they were cut, nothing dropped.

    python -m tools.overfit demo/out
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from torch import Tensor

from materia.base.settings_file import load_settings
from materia.dataset.reader import Dataset
from trainer import distributed
from trainer.config import TrainConfig
from trainer.data.batch import EncodedItem, collate
from trainer.data.encode import encode
from trainer.data.items import PixelSource
from trainer.data.loader import long_enough
from trainer.distributed import World
from trainer.encoders import Encoders, build_encoders
from trainer.errors import TrainError
from trainer.model import flow
from trainer.run.learner import Learner, begin, model_config
from trainer.run.objective import batch_losses, draw
from trainer.run.optimiser import ema_decay, learning_rate
from trainer.run.validation import validate

SAMPLES = 8
LOSS_SHARE = 0.25
"""The loss must fall to this share of its start."""
SAMPLING_STEPS = 32
OVERRIDES = (
    *("data.augment=false", "data.windows=1", "objective.drop_text=0", "objective.drop_images=0"),
    "objective.shift_tokens=7",  # most of the time at high noise, where only the conditions tell the clips apart
)


def overfit(config: TrainConfig, shards: str, steps: int) -> bool:
    """Train and measure; prints the table. Gives whether both conditions hold. Raises TrainError, OutputError."""
    world = distributed.join(config.run)
    encoders = build_encoders(config.encoders)
    encoders.setup(str(world.device))
    items = eight_items(config, shards, encoders)
    learner = begin(config, model_config(config, encoders), world)
    before = _loss(learner, items, config, world)
    began, cpu_s = time.monotonic(), time.process_time()
    _learn(learner, items, config, steps)
    wall_min, cpu_min = (time.monotonic() - began) / 60, (time.process_time() - cpu_s) / 60
    with distributed.averaged(learner.module, learner.ema):
        after = _loss(learner, items, config, world)
        distances = _distances(learner, items, config)
    nearest = distances.argmin(dim=1)
    print("root mean square distance of each sampled latent (row) to each clip's; * the nearest")
    for place, item in enumerate(items):
        cells = (f"{d:6.3f}{'*' if clip == nearest[place] else ' '}" for clip, d in enumerate(distances[place].tolist()))
        print(f"{item.key[:32]:32}", *cells)
    right = int((nearest.cpu() == torch.arange(len(items))).sum())
    print(f"nearest to its own clip: {right} of {len(items)}")
    print(f"loss {before:.4f} -> {after:.4f}: {after / before:.1%} of its start, at most {LOSS_SHARE:.0%} is wanted")
    print(f"{steps} steps in {cpu_min:.1f} CPU minutes, {wall_min:.1f} minutes")
    return after <= LOSS_SHARE * before and right == len(items)


def eight_items(config: TrainConfig, shards: str, encoders: Encoders) -> list[EncodedItem]:
    """Eight samples, of different sources as far as there are. Raises TrainError for an output with fewer that are usable."""
    samples = Dataset(shards, config.data.where)
    usable = long_enough(samples, config.data.buckets[0], config.data.fps).tolist()
    if len(usable) < SAMPLES:
        raise TrainError(f"{shards} has {len(usable)} samples that are long enough; {SAMPLES} are needed")
    sources = samples.index["source_id"].to_pylist()
    seen = [sources[number] for number in usable]
    by_source = sorted(usable, key=lambda number: seen[: usable.index(number)].count(sources[number]))
    source = PixelSource(samples, config.data, config.seed)
    return encode([source.read(0, slot, number, 0) for slot, number in enumerate(by_source[:SAMPLES])], encoders)


def _learn(learner: Learner, items: list[EncodedItem], config: TrainConfig, steps: int) -> None:
    batch = collate(items, learner.config.word_tokens)
    for step in range(steps):
        draws = draw(batch, config.objective, learner.config, seed=config.seed, step=step)
        loss = batch_losses(learner.module, batch, draws, learner.config).mean()
        learner.optimiser.zero_grad()
        loss.backward()
        distributed.clip_gradients(learner.module, config.optimiser.clip)
        for group in learner.optimiser.param_groups:
            group["lr"] = learning_rate(step, config.optimiser)
        learner.optimiser.step()
        distributed.update_average(learner.ema, learner.module, ema_decay(step, config.optimiser))
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} of {steps}: loss {loss.item():.4f}", file=sys.stderr, flush=True)


def _loss(learner: Learner, items: list[EncodedItem], config: TrainConfig, world: World) -> float:
    word_tokens, objective = learner.config.word_tokens, config.objective
    fixed = {"objective": objective, "shift": _shift(learner, items, config), "seed": config.seed, "world": world}
    return float(validate(learner.module, items, word_tokens=word_tokens, **fixed).own)


def _distances(learner: Learner, items: list[EncodedItem], config: TrainConfig) -> Tensor:
    """Of the latents sampled for the conditions of each item to the latents of all, (items, items)."""
    batch = collate(items, learner.config.word_tokens)
    noise = torch.randn(batch.mean.shape, generator=torch.Generator().manual_seed(config.seed))
    shift = _shift(learner, items, config)
    with torch.no_grad():
        sampled = flow.sample(lambda x, t, _: learner.module(x, t, batch.conditions), noise, steps=SAMPLING_STEPS, shift=shift)
    return (sampled[:, None] - batch.mean[None]).square().flatten(2).mean(dim=2).sqrt()


def _shift(learner: Learner, items: list[EncodedItem], config: TrainConfig) -> float:
    """Of the noise levels, as in training."""
    return flow.shift_for(items[0].mean.shape[1:], learner.config.patch, config.objective.shift_tokens)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Learn eight samples by heart.")
    parser.add_argument("shards", help="an output of materia run")
    parser.add_argument("--config", default="configs/train/tiny.yaml")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    overrides = (*OVERRIDES, f"run.threads={arguments.threads}", "run.device=cpu")
    config = load_settings(TrainConfig, arguments.config, overrides)
    sys.exit(0 if overfit(config, arguments.shards, arguments.steps) else 1)


if __name__ == "__main__":
    main()
