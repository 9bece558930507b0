"""All that a step changes - weights, moments, their average - and how it begins, is saved and comes back.

In: a configuration, sizes of a model, the world. Out: a `Learner` laid over the ranks. Checkpoints hold whole tensors whatever
the layout, so that a run can go on with other numbers of processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer import distributed
from trainer.config import TrainConfig
from trainer.distributed import World
from trainer.encoders import Encoders
from trainer.errors import TrainError
from trainer.model.dit import SIZES, ModelConfig, VideoDiT
from trainer.run import checkpoints
from trainer.run.optimiser import adamw
from trainer.run.progress import Say


@dataclass
class Learner:
    """`module` is what `distributed.parallelise` gave; `ema` the average of its weights, each rank's part."""

    module: nn.Module
    config: ModelConfig
    optimiser: torch.optim.Optimizer
    ema: dict[str, Tensor]


def model_config(config: TrainConfig, encoders: Encoders) -> ModelConfig:
    """The sizes that the configuration names, with the encoders' widths."""
    settings = config.model
    return ModelConfig(
        **SIZES[settings.size],
        text_width=encoders.text.width,
        image_width=encoders.image.width,
        latent_channels=encoders.video.channels,
        patch=settings.patch,
        word_tokens=settings.word_tokens,
        self_conditioning=settings.self_conditioning,
    )


def begin(config: TrainConfig, sizes: ModelConfig, world: World) -> Learner:
    """A new learner: from the seed, the same on every rank, or with the weights of `stage.init`. Raises TrainError."""
    if config.stage.new_attention_steps and config.stage.init is None:
        raise TrainError(
            "stage.new_attention_steps needs stage.init: the output of a new model is zero, from which the new attention alone"
            " learns nothing; name a run of stage I, or set new_attention_steps to 0"
        )
    torch.manual_seed(config.seed)
    model = VideoDiT(sizes)
    if config.stage.init is not None:
        model.load_state_dict(checkpoints.initial_weights(config.stage.init, sizes), strict=False)
    if not config.stage.images:
        for parameter in model.new_attention():
            parameter.requires_grad_(False)
    module = distributed.parallelise(model, world, config.run)
    return Learner(module, sizes, adamw(module, config.optimiser), distributed.average_of(module))


def resume(learner: Learner, run: Path, world: World, say: Say) -> int:
    """Take up the run's last checkpoint; gives the number of steps done, 0 for a new run. Raises TrainError."""
    checkpoint = checkpoints.latest(run, say)
    start = 0 if checkpoint is None else checkpoint.state.step
    mean = float(distributed.mean_over_ranks(torch.tensor(float(start)), world))
    if distributed.any_rank(mean != start, world):
        raise TrainError(
            f"the processes do not see the same checkpoints in {run}; put --output on storage that all machines share"
        )
    if checkpoint is None:
        return 0
    checkpoints.check_sizes(checkpoint, learner.config)
    loads: dict[str, Callable[[dict[str, Tensor]], None]] = {
        "model": partial(distributed.load_state, learner.module),
        "ema": partial(distributed.load_state, learner.ema),
        "optimiser": partial(distributed.load_moments, learner.module, learner.optimiser),
    }
    for part, load in loads.items():
        tensors = checkpoints.read(checkpoint, part)
        try:
            load(tensors)
        except TrainError as error:
            raise TrainError(f"{checkpoint.folder}/{part}.safetensors: {error}, or remove the checkpoint") from None
    say(f"{run}: going on after step {start}")
    return start


def save(learner: Learner, config: TrainConfig, run: Path, step: int, world: World) -> None:
    """Write a checkpoint after `step` steps. Every rank calls it; rank 0 writes."""
    parts = _whole(learner)
    if world.rank:
        deque(parts, maxlen=0)  # take part in gathering them
        return
    images, keep = config.stage.images, config.checkpoint.keep
    checkpoints.save(run, parts, step=step, model=learner.config, trained_images=images, keep=keep)


def _whole(learner: Learner) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Parts of a checkpoint on the CPU of rank 0, one at a time."""
    yield "model", distributed.full_state(learner.module)
    yield "ema", distributed.full_state(learner.ema)
    yield "optimiser", distributed.full_state(distributed.moments(learner.module, learner.optimiser))
