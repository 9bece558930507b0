"""Seeded validation loss with own and with shuffled references: their gap is what the model takes from the pictures.

In: encoded held-out clips, the same on every rank. Out: the mean loss over clips and noise levels, twice. Noise and noise
levels are a function of (seed, place of the clip), so that two points of the curve differ by the weights alone. With shuffled
references a clip keeps its caption and each image its word; only the pictures are foreign.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainer.config import ObjectiveSettings
from trainer.data.batch import EncodedItem, collate, torch_rng
from trainer.distributed import World, mean_over_ranks
from trainer.model.flow import Velocity, flow_losses, shift_time

LEVELS = 4
"""Noise levels at which each clip is measured."""
_NO_STEP = -1  # of trainer.data.batch.torch_rng: validation's noise is that of no training step


class ValidationLoss(NamedTuple):
    """Mean losses; `shuffled` is None where fewer than two clips have references: there is nothing to shuffle."""

    own: float
    shuffled: float | None

    @property
    def gap(self) -> float | None:
        """What foreign pictures cost; 0: the model does not look at them."""
        return None if self.shuffled is None else self.shuffled - self.own

    def __str__(self) -> str:
        """For people."""
        if self.shuffled is None:
            return f"loss {self.own:.4f}, no gap without two clips with references"
        gap = round(self.shuffled - self.own, 4) + 0.0  # never -0.0
        return f"loss {self.own:.4f}, with references of other clips {self.shuffled:.4f}: a gap of {gap:+.4f}"


@torch.no_grad()
def validate(
    model: Velocity,
    items: list[EncodedItem],
    *,
    word_tokens: int,
    objective: ObjectiveSettings,
    shift: float,
    seed: int,
    world: World,
) -> ValidationLoss:
    """Losses of `items` (at least one, all of one size) under the weights that `model` holds, in the mode and autocast that
    the caller has set; `shift` of the noise levels as in training.

    Every rank gives the same items, computes its share with as many forward passes as the others (FSDP2 needs that), and gets
    the mean over all. Clips without references count in both losses, alike.
    """
    donors = derangement([len(item.images) > 0 for item in items], seed)
    sums = torch.zeros(3, device=world.device)  # own, shuffled, clips
    for first in range(0, len(items), world.ranks):
        mine = first + world.rank
        place = mine % len(items)  # beyond the end: a pass for company, which does not count
        foreign = items[place] if donors is None else with_images_of(items[place], items[donors[place]])
        own, shuffled = (collate([item] * LEVELS, word_tokens).to(world.device) for item in (items[place], foreign))
        noise = torch.randn(own.mean.shape, generator=torch_rng(seed, _NO_STEP, place)).to(world.device)
        t = noise_levels(place, len(items), objective, shift).to(world.device)
        losses = [flow_losses(model, batch.mean, noise, t, batch.conditions).mean() for batch in (own, shuffled)]
        sums += torch.stack([*losses, sums.new_ones(())]) * (mine < len(items))
    own_sum, shuffled_sum, clips = mean_over_ranks(sums, world).tolist()
    return ValidationLoss(own_sum / clips, None if donors is None else shuffled_sum / clips)


def noise_levels(place: int, places: int, objective: ObjectiveSettings, shift: float) -> Tensor:
    """(LEVELS,) float32: quantiles of the law of training; those of all places together are spread evenly over the law."""
    quantiles = (torch.arange(LEVELS) + (place + 0.5) / places) / LEVELS
    t = quantiles if objective.times == "uniform" else torch.sigmoid(torch.special.ndtri(quantiles))
    return shift_time(t, shift)


def derangement(has_images: list[bool], seed: int) -> list[int] | None:
    """Whose references each clip gets: of another clip that has some, each of those once; clips without any keep none.

    None where fewer than two have references. The clips stand in a circle in random order: neighbours in the index may be cut
    from one film.
    """
    circle = np.random.default_rng(seed).permutation(np.flatnonzero(has_images))
    if len(circle) < 2:
        return None
    donors = list(range(len(has_images)))
    for taker, donor in zip(circle, np.roll(circle, 1), strict=True):
        donors[int(taker)] = int(donor)
    return donors


def with_images_of(item: EncodedItem, donor: EncodedItem) -> EncodedItem:
    """The item, its pictures replaced by the donor's in turn: as many as before, each with the word it had."""
    if not len(item.images):
        return item
    return replace(item, images=donor.images[torch.arange(len(item.images)) % len(donor.images)])
