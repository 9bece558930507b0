"""The loss of a batch: what is drawn for its items, and rectified flow on it with dropped conditions [paper §3.2, B].

In: an encoded batch and (seed, step). Out: a loss for each clip. Every draw of an item comes from its own generator
(trainer/data/batch.py: torch_rng) on the CPU, so a step is the same however it is cut into micro-batches and ranks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.config import ObjectiveSettings
from trainer.data.batch import Batch, torch_rng
from trainer.model.dit import Conditions, ModelConfig
from trainer.model.flow import Velocity, clean_estimate, draw_times, flow_losses, interpolate, shift_for
from trainer.model.shapes import assert_shape

SELF_CONDITIONED = 0.5
"""Share of the clips that are given their own estimate in training (Chen et al. 2022)."""


class Draws(NamedTuple):
    """What is random about B items: float32 `t` (B,), `noise` and `posterior` (B, C, T, H, W), the others (B,) bool."""

    posterior: Tensor | None  # standard normal, scaled by the encoder's std
    t: Tensor
    noise: Tensor
    drop_text: Tensor
    drop_images: Tensor
    self_condition: Tensor


def draw(batch: Batch, objective: ObjectiveSettings, config: ModelConfig, *, seed: int, step: int) -> Draws:
    """The draws of a batch's items in a step, on the batch's device; in a fixed order, of which none depends on a setting."""
    shape = batch.mean.shape[1:]  # (C, T, H, W)
    shift = shift_for(shape[1:], config.patch, objective.shift_tokens)
    posteriors, times, noises, coins = [], [], [], []
    for slot in batch.slots:
        rng = torch_rng(seed, step, slot)
        if batch.std is not None:
            posteriors.append(torch.randn(shape, generator=rng))
        times.append(draw_times(1, rng, law=objective.times, shift=shift))
        noises.append(torch.randn(shape, generator=rng))
        coins.append(torch.rand(3, generator=rng))
    device = batch.mean.device
    shares = torch.tensor([objective.drop_text, objective.drop_images, SELF_CONDITIONED])
    drop_text, drop_images, self_condition = (torch.stack(coins) < shares).to(device).unbind(1)
    posterior = torch.stack(posteriors).to(device) if posteriors else None
    return Draws(posterior, torch.cat(times).to(device), torch.stack(noises).to(device), drop_text, drop_images, self_condition)


def batch_losses(model: Velocity, batch: Batch, draws: Draws, config: ModelConfig) -> Tensor:
    """(B,) float32: the mean squared error of each clip's velocity."""
    latents, b = batch.mean, len(batch.mean)
    assert_shape("noise", draws.noise, *latents.shape)
    for name, drawn in (("t", draws.t), ("drop_text", draws.drop_text), ("drop_images", draws.drop_images)):
        assert_shape(name, drawn, b)
    if batch.std is not None and draws.posterior is not None:
        assert_shape("posterior", draws.posterior, *latents.shape)
        latents = latents + batch.std * draws.posterior
    conditions = batch.conditions.without(text=draws.drop_text, images=draws.drop_images)
    estimate = _estimate(model, latents, draws, conditions) if config.self_conditioning else None
    return flow_losses(model, latents, draws.noise, draws.t, conditions, estimate)


@torch.no_grad()
def _estimate(model: Velocity, latents: Tensor, draws: Draws, conditions: Conditions) -> Tensor:
    """Clean latents as the model sees them without an estimate; zeros for clips that are to have none."""
    assert_shape("self_condition", draws.self_condition, len(latents))
    x = interpolate(latents, draws.noise, draws.t)
    estimate = clean_estimate(x, model(x, draws.t, conditions).float(), draws.t)
    return estimate * draws.self_condition.reshape(-1, 1, 1, 1, 1)
