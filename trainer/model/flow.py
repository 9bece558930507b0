"""Rectified flow [paper §3.2]: x_t = (1 - t) x_0 + t noise; the model learns dx/dt = noise - x_0; sampling runs t from 1 to 0.

In: clean latents and a model. Out: the loss, or new latents. Losses are computed in float32 whatever the model's dtype.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from trainer.model.dit import Conditions
from trainer.model.shapes import assert_shape

TEXT_GUIDANCE = 8.0
IMAGE_GUIDANCE = 3.0
"""Weights of the two guidances [paper B]."""


class Velocity(Protocol):
    """What a model must be: trainer.model.dit.VideoDiT, or a wrapper around it."""

    def __call__(self, latents: Tensor, t: Tensor, conditions: Conditions, estimate: Tensor | None = None) -> Tensor:
        """Velocity (B, C, T, H, W) at noise level `t` (B,)."""
        ...


def shift_time(t: Tensor, shift: float) -> Tensor:
    """t' = s t / (1 + (s - 1) t): more time at high noise for larger videos (s > 1); 0 and 1 stay (Esser et al. 2024)."""
    return shift * t / (1 + (shift - 1) * t)


def shift_for(latents: Sequence[int], patch: Sequence[int], base_tokens: int | None) -> float:
    """sqrt(tokens / base_tokens), at least 1: noise hides less of a video of more tokens (Esser et al. 2024); None: 1.

    `latents` (T, H, W) are cut into tokens of `patch` (t, h, w).
    """
    if base_tokens is None:
        return 1.0
    tokens = math.prod(side // cut for side, cut in zip(latents, patch, strict=True))
    return max(1.0, math.sqrt(tokens / base_tokens))


def draw_times(
    n: int, generator: torch.Generator, *, law: Literal["logit_normal", "uniform"] = "logit_normal", shift: float = 1.0
) -> Tensor:
    """Noise levels (n,) float32 in [0, 1] on the generator's device; logit-normal: sigmoid of a standard normal."""
    if law == "uniform":
        t = torch.rand(n, generator=generator, device=generator.device)
    else:
        t = torch.sigmoid(torch.randn(n, generator=generator, device=generator.device))
    return shift_time(t, shift)


def interpolate(latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t of clean `latents` and `noise` (B, C, T, H, W) at `t` (B,)."""
    assert_shape("noise", noise, *latents.shape)
    assert_shape("t", t, len(latents))
    t = t.reshape(-1, 1, 1, 1, 1).to(latents.dtype)
    return (1 - t) * latents + t * noise


def clean_estimate(x: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """The clean latents that a velocity at (x, t) points to: x - t v."""
    assert_shape("velocity", velocity, *x.shape)
    return x - t.reshape(-1, 1, 1, 1, 1).to(x.dtype) * velocity


def flow_losses(
    model: Velocity, latents: Tensor, noise: Tensor, t: Tensor, conditions: Conditions, estimate: Tensor | None = None
) -> Tensor:
    """Mean squared error of the velocity for each clip, (B,) float32."""
    velocity = model(interpolate(latents, noise, t), t, conditions, estimate)
    assert_shape("velocity", velocity, *latents.shape)
    return (velocity.float() - (noise - latents).float()).square().mean(dim=(1, 2, 3, 4))


def guided(
    model: Velocity,
    x: Tensor,
    t: Tensor,
    conditions: Conditions,
    *,
    text_guidance: float = TEXT_GUIDANCE,
    image_guidance: float = IMAGE_GUIDANCE,
    estimate: Tensor | None = None,
) -> Tensor:
    """e(I,T) + text_guidance [e(I,T) - e(I,0)] + image_guidance [e(I,T) - e(0,T)] [paper B], e being the velocity.

    One call of the model on up to three times the clips: a guidance of 0 needs no evaluation, nor do images that are not there.
    """
    guidances = []
    if text_guidance:
        guidances.append((text_guidance, conditions.without(text=True)))
    if image_guidance and conditions.image_mask.any():
        guidances.append((image_guidance, conditions.without(images=True)))
    n = 1 + len(guidances)
    stacked = Conditions.cat([conditions, *(without for _, without in guidances)])
    again = None if estimate is None else estimate.repeat(n, 1, 1, 1, 1)
    full, *others = model(x.repeat(n, 1, 1, 1, 1), t.repeat(n), stacked, again).chunk(n)
    out = full
    for (weight, _), other in zip(guidances, others, strict=True):
        out = out + weight * (full - other)
    return out


@torch.no_grad()
def sample(
    velocity: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    noise: Tensor,
    *,
    steps: int,
    shift: float = 1.0,
    self_conditioning: bool = False,
) -> Tensor:
    """Integrate from `noise` (B, C, T, H, W) at t = 1 to clean latents at t = 0 with Euler steps, spaced by `shift_time`.

    `velocity(x, t, estimate)` with t (B,); `estimate` of the clean latents is handed on if `self_conditioning`, else None.
    """
    times = shift_time(torch.linspace(1, 0, steps + 1, device=noise.device), shift)
    x, estimate = noise, None
    for now, then in itertools.pairwise(times):
        t = now.expand(len(x))
        v = velocity(x, t, estimate)
        estimate = clean_estimate(x, v, t) if self_conditioning else None
        x = x + (then - now).to(x.dtype) * v
    return x
