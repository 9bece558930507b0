"""What turns gradients into weights: AdamW with the paper's constants, its warm-up, and how fast the average follows.

In: a model and the number of a step. Out: the optimiser, and its two rates. Sharding is trainer/distributed.py's affair:
make the optimiser of the module that it gives.
"""

from __future__ import annotations

import torch
from torch import nn

from trainer.config import OptimiserSettings


def adamw(model: nn.Module, settings: OptimiserSettings) -> torch.optim.AdamW:
    """The optimiser of all parameters that are trained; all decay, for the paper names no exception [paper B]."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)


def learning_rate(step: int, settings: OptimiserSettings) -> float:
    """Of step `step`, counted from 0: linear up to `lr` over `warmup_steps` steps, then constant [paper B]."""
    return settings.lr * min(1.0, (step + 1) / max(1, settings.warmup_steps))


def ema_decay(step: int, settings: OptimiserSettings) -> float:
    """Share of the old average that stays in step `step`: (1 + step) / (10 + step) at first, so that the start is forgotten."""
    return min(settings.ema_decay, (1 + step) / (10 + step))
