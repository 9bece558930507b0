"""The training loop: configuration and shards in, a run's folder out. Read from top to bottom, in the order things happen.

The same call again goes on from the last checkpoint, exactly: a step's clips, noise and drops follow from (seed, step) alone,
so that neither a kill nor other numbers of processes, workers or micro-batches change what is learnt. Every rank runs `train`;
what leaves the process (logs, checkpoints, curves) is written by rank 0.
"""

from __future__ import annotations

import json
import math
import signal
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from materia.base import storage
from materia.base.signals import Interrupt, interruptible
from materia.base.storage_settings import use_storage
from materia.base.terminal import plural
from trainer import distributed
from trainer.config import TrainConfig
from trainer.data.batch import EncodedItem, collate
from trainer.data.samples import Addresses
from trainer.data.training_data import Data, encoded, open_data, steps, told
from trainer.distributed import World
from trainer.encoders import Encoders, build_encoders
from trainer.errors import TrainError
from trainer.run import checkpoints
from trainer.run import folder as runs
from trainer.run.learner import Learner, begin, model_config, resume, save
from trainer.run.monitor import Measured, by_time, step_flops
from trainer.run.objective import batch_losses, draw
from trainer.run.optimiser import ema_decay, learning_rate
from trainer.run.progress import Say, StepProgress, tell
from trainer.run.watch import Watch, draws_grids


class NonFiniteError(TrainError):
    """A loss or gradient that is no number: no step was made with it."""

    exit_code = 5


@dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended: steps done by all calls, loss of the last of them if this call did it.

    `exit_code` 0: all of `stage.steps`; 143, 130: interrupted by SIGTERM, SIGINT, saved, resumable.
    """

    steps: int
    loss: float | None
    exit_code: int = 0


class Outcome(NamedTuple):
    """Of one step: `losses` and noise levels `t` of all clips of the batch in slot order, (B,) float32 each, on the CPU."""

    losses: Tensor
    t: Tensor
    grad_norm: float  # before clipping
    flops: float  # of this rank


def train(
    config: TrainConfig,
    *,
    shards: Addresses,
    output: str,
    cache: Addresses | None = None,
    say: Say = tell,
    interrupt: Interrupt | None = None,
) -> TrainResult:
    """Train to `stage.steps`, from the run's last checkpoint if there is one; `cache` is what `materia precompute` wrote, one
    for each of `shards` if there are several.

    `interrupt` asks from elsewhere for what signals ask for: to end after the step that is going on, with a checkpoint. Raises
    TrainError or OutputError for what the user can mend, runs.OtherRunError for a run that was started with other settings,
    NonFiniteError where a loss or gradient is not finite.
    """
    use_storage(config.storage)
    run = runs.run_folder(output)
    world = distributed.join(config.run)
    try:
        with ExitStack() as stack:
            if world.rank == 0:
                stack.enter_context(runs.only_writer(run))
                checkpoints.prepare(run)
            return _train(config, world, shards, run, cache, say if world.rank == 0 else _silent, interrupt)
    finally:
        distributed.leave(world)


def check(config: TrainConfig, *, shards: Addresses, output: str, cache: Addresses | None, ranks: int) -> None:
    """Raise here, in seconds, what `train` would raise in every one of `ranks` processes before its first step."""
    use_storage(config.storage)
    _opened(config, World(0, ranks, 0, torch.device("cpu")), shards, runs.run_folder(output), cache)


def _opened(
    config: TrainConfig, world: World, shards: Addresses, run: Path, cache: Addresses | None
) -> tuple[Encoders, Data, dict[str, Any]]:
    """What is learnt from, and with what, and the record of both: it must be as it was when the run was started."""
    encoders = build_encoders(config.encoders)
    data = open_data(config, shards, cache, encoders, world)
    record = runs.record(config, data.samples.sha256, encoders.identity(), data.selection._asdict())
    runs.check_same(run, record)
    return encoders, data, record


def _train(
    config: TrainConfig,
    world: World,
    shards: Addresses,
    run: Path,
    cache: Addresses | None,
    say: Say,
    interrupt: Interrupt | None,
) -> TrainResult:
    encoders, data, record = _opened(config, world, shards, run, cache)

    # What learns: new, or as the last checkpoint has it.
    learner = begin(config, model_config(config, encoders), world)
    start = resume(learner, run, world, say)
    if start >= config.stage.steps:
        say(f"{run} has {plural(start, 'step')} already; raise stage.steps to go on")
        return TrainResult(start, None)
    for line in told(data, config):
        say(line)
    if cache is None or (data.validation and draws_grids(config, start)):
        encoders.setup(str(world.device))

    with ExitStack() as stack:
        if world.rank == 0:
            runs.write_record(run, record)
            log = stack.enter_context(runs.open_steps(run, start))
        watch = stack.enter_context(Watch(run, config, record, start, data, encoders, world, say))
        interrupt = interrupt or stack.enter_context(interruptible())
        progress = stack.enter_context(StepProgress(start, config.stage.steps, say, shown=world.rank == 0))
        stack.enter_context(distributed.attention_kernels(config.run))
        read = stack.enter_context(closing(steps(data, config, start, world)))
        began = time.monotonic()
        for number, bucket, keys, items in read:
            arrived = time.monotonic()
            clips, done = config.data.buckets[bucket].batch, number + 1

            outcome = gradients(learner, encoded(items, encoders), clips, number, config, world)
            _require_finite(outcome, run, number, keys, world)
            lr = update(learner, number, config)

            loss = float(outcome.losses.double().mean())
            wait_s, time_s = arrived - began, time.monotonic() - began
            binned = by_time(outcome.losses, outcome.t)
            watch.step(done, learner, Measured(binned, outcome.grad_norm, lr, clips, outcome.flops, wait_s, time_s))
            if world.rank == 0:
                runs.log_step(log, number, loss, keys)
                progress.step(done, loss, clips, wait_s, time_s)

            ending = distributed.any_rank(interrupt.number is not None, world)
            if ending or done == config.stage.steps or done % config.checkpoint.every == 0:
                if world.rank == 0:
                    runs.sync(log)
                save(learner, config, run, done, world)
            if ending:
                say(
                    f"interrupted after {done} of {plural(config.stage.steps, 'step')}, saved in {run};"
                    " the same command continues"
                )
                return TrainResult(done, loss, 128 + (interrupt.number or signal.SIGTERM))
            began = time.monotonic()
    say(f"{run}: {plural(config.stage.steps, 'step')}, loss {loss:.4f}")
    return TrainResult(config.stage.steps, loss)


def gradients(
    learner: Learner, items: list[EncodedItem], clips: int, number: int, config: TrainConfig, world: World
) -> Outcome:
    """Leave the gradient of the mean loss over the `clips` of the whole batch, clipped; `items` are this rank's share of them.

    Ranks average their gradients, so each one's loss is its share of that mean times their number.
    """
    learner.optimiser.zero_grad()
    ours = torch.zeros(2, clips, device=world.device)  # losses and t of the whole batch: zero where not ours
    flops = 0.0
    size = len(items) // config.run.accumulate
    for first in range(0, len(items), size):
        batch = collate(items[first : first + size], learner.config.word_tokens).to(world.device)
        draws = draw(batch, config.objective, learner.config, seed=config.seed, step=number)
        with distributed.accumulating(learner.module, last=first + size == len(items)):
            losses = batch_losses(learner.module, batch, draws, learner.config)  # (b,)
            (losses.sum() * world.ranks / clips).backward()
        ours[:, batch.slots] = torch.stack([losses.detach(), draws.t])
        flops += step_flops(learner.config, batch)
    if config.stage.images and number < config.stage.new_attention_steps:
        _keep_new_attention_only(learner)
    grad_norm = distributed.clip_gradients(learner.module, config.optimiser.clip)
    losses, t = distributed.mean_over_ranks(ours * world.ranks, world).cpu()
    return Outcome(losses, t, float(grad_norm), flops)


def _keep_new_attention_only(learner: Learner) -> None:
    """Without a gradient AdamW leaves a parameter as it is, weight decay and all."""
    model = distributed.plain(learner.module)
    new = {id(parameter) for parameter in model.new_attention()}
    for parameter in model.parameters():
        if id(parameter) not in new:
            parameter.grad = None


def _require_finite(outcome: Outcome, run: Path, number: int, keys: list[str], world: World) -> None:
    """Raises NonFiniteError, on all ranks alike, and leaves RUN/non_finite.json with what was in the batch."""
    if outcome.losses.isfinite().all() and math.isfinite(outcome.grad_norm):
        return
    if len(keys) < len(outcome.losses):  # the streaming reader knows a rank's own keys only
        by_rank = distributed.from_all_ranks(keys, world)
        keys = [by_rank[slot % world.ranks][slot // world.ranks] for slot in range(len(outcome.losses))]
    losses = [loss if math.isfinite(loss) else str(loss) for loss in outcome.losses.tolist()]
    found = {"step": number, "keys": keys, "losses": losses, "t": outcome.t.tolist(), "grad_norm": str(outcome.grad_norm)}
    if world.rank == 0:
        storage.atomic_write(str(run / "non_finite.json"), json.dumps(found, indent=1).encode())
    bad = [key for key, loss in zip(keys, losses, strict=True) if isinstance(loss, str)]
    what = f"the loss of {', '.join(bad)}" if bad else "the gradient"
    raise NonFiniteError(
        f"step {number}: {what} is not finite; the batch is in {run / 'non_finite.json'}. Look at those samples (data.where"
        " leaves some out), or lower optimiser.lr; checkpoints are from before"
    )


def update(learner: Learner, number: int, config: TrainConfig) -> float:
    """Step on the gradients and let the average follow; gives the learning rate."""
    lr = learning_rate(number, config.optimiser)
    for group in learner.optimiser.param_groups:
        group["lr"] = lr
    learner.optimiser.step()
    distributed.update_average(learner.ema, learner.module, ema_decay(number, config.optimiser))
    return lr


def _silent(_text: str) -> None:
    """What ranks but the first have to say."""
