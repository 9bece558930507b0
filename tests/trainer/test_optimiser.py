"""Rates of the optimiser and of the average, and AdamW against its formula."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainer.config import OptimiserSettings
from trainer.run.optimiser import adamw, ema_decay, learning_rate

SETTINGS = OptimiserSettings(lr=0.1, warmup_steps=4, ema_decay=0.9)


def test_warm_up_is_linear_then_the_rate_is_constant():
    assert [learning_rate(step, SETTINGS) for step in range(6)] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    assert learning_rate(0, SETTINGS.model_copy(update={"warmup_steps": 0})) == 0.1


@given(st.integers(0, 10**6))
def test_the_average_forgets_fast_at_first_and_never_slower_than_asked(step):
    assert ema_decay(step, SETTINGS) == pytest.approx(min(0.9, (1 + step) / (10 + step)))


def test_the_papers_constants_are_the_defaults_and_decay_is_on_every_parameter():
    model = nn.Linear(2, 1)
    optimiser = adamw(model, OptimiserSettings())
    group = optimiser.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-4, (0.9, 0.99), 0.01)
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in model.parameters()]


def test_a_step_is_that_of_adamw():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optimiser = adamw(model, SETTINGS)
    weight, mean, square = 2.0, 0.0, 0.0
    for step, gradient in enumerate([0.5, -3.0, 1.0], start=1):
        model.weight.grad = torch.full((1, 1), gradient)
        optimiser.step()
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        weight -= 0.1 * 0.01 * weight
        weight -= 0.1 * (mean / (1 - 0.9**step)) / (math.sqrt(square / (1 - 0.99**step)) + 1e-8)
        assert model.weight.item() == pytest.approx(weight, rel=1e-5)


def test_what_is_not_trained_is_not_in_it():
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    assert len(adamw(model, SETTINGS).param_groups[0]["params"]) == 1
