"""Draws of a batch and its loss: the same however the batch is cut, with the shares and formulas of the method."""

import dataclasses

import pytest
import torch
from conditions import CONFIG, awake, conditions, latents
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import ObjectiveSettings
from trainer.data.batch import Batch, torch_rng
from trainer.model.flow import shift_time
from trainer.run.objective import Draws, batch_losses, draw

OBJECTIVE = ObjectiveSettings()


def batch(slots: list[int], std: bool = True) -> Batch:
    n = len(slots)
    spread = torch.full((n, *latents().shape[1:]), 0.5) if std else None
    return Batch([str(slot) for slot in slots], slots, latents(n), spread, conditions(n))


def drawn(slots: list[int], objective: ObjectiveSettings = OBJECTIVE, seed: int = 0, step: int = 0, std: bool = True) -> Draws:
    return draw(batch(slots, std), objective, CONFIG, seed=seed, step=step)


@settings(max_examples=20)
@given(st.permutations(range(6)), st.integers(1, 5), st.integers(0, 2**31), st.integers(0, 10**6))
def test_draws_of_a_slot_do_not_depend_on_how_the_batch_is_cut(slots, cut, seed, step):
    whole = drawn(list(range(6)), seed=seed, step=step)
    for part in (slots[:cut], slots[cut:]):
        for mine, all_ in zip(drawn(part, seed=seed, step=step), whole, strict=True):
            assert torch.equal(mine, all_[part])


def test_steps_slots_and_seeds_draw_anew():
    noises = [drawn([slot], seed=seed, step=step).noise for slot, seed, step in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert all(not torch.equal(a, b) for number, a in enumerate(noises) for b in noises[:number])


def test_the_draws_are_in_the_order_posterior_level_noise_coins():
    rng = torch_rng(0, 0, 3)
    shape = latents().shape[1:]
    posterior, t = torch.randn(shape, generator=rng), torch.sigmoid(torch.randn(1, generator=rng))
    noise, coins = torch.randn(shape, generator=rng), torch.rand(3, generator=rng)
    found = drawn([3])
    assert torch.equal(found.posterior[0], posterior)
    assert torch.equal(found.t, t)
    assert torch.equal(found.noise[0], noise)
    assert [bool(found.drop_text), bool(found.drop_images)] == (coins[:2] < 0.1).tolist()
    assert bool(found.self_condition) == bool(coins[2] < 0.5)


def test_conditions_are_dropped_independently_with_their_shares():
    found = drawn(list(range(3000)), ObjectiveSettings(drop_text=0.1, drop_images=0.3), std=False)
    text, images = found.drop_text.float(), found.drop_images.float()
    assert text.mean() == pytest.approx(0.1, abs=0.02)
    assert images.mean() == pytest.approx(0.3, abs=0.03)
    assert (text * images).mean() == pytest.approx(0.03, abs=0.012)


def test_levels_are_shifted_by_the_clips_tokens():
    plain, shifted = drawn([0, 1]), drawn([0, 1], ObjectiveSettings(shift_tokens=2))
    tokens = 3 * 4 * 6 // (1 * 2 * 2)
    assert torch.allclose(shifted.t, shift_time(plain.t, (tokens / 2) ** 0.5))
    assert torch.equal(drawn([0, 1], ObjectiveSettings(shift_tokens=1000)).t, plain.t)


def test_the_loss_is_that_of_the_velocity_from_noised_posterior_samples():
    model, given_, found = awake(), batch([0, 1]), drawn([0, 1])
    found = found._replace(drop_text=torch.tensor([True, False]), drop_images=torch.tensor([False, True]))
    clean = given_.mean + 0.5 * found.posterior
    t = found.t.reshape(2, 1, 1, 1, 1)
    kept = given_.conditions.without(text=torch.tensor([True, False]), images=torch.tensor([False, True]))
    velocity = model((1 - t) * clean + t * found.noise, found.t, kept)
    expected = ((velocity - (found.noise - clean)) ** 2).mean(dim=(1, 2, 3, 4))
    assert torch.allclose(batch_losses(model, given_, found, CONFIG), expected, rtol=1e-5)


def test_self_conditioning_gives_half_of_the_clips_their_own_estimate_without_gradient():
    config = dataclasses.replace(CONFIG, self_conditioning=True)
    model, given_ = awake(config=config), batch([0, 1], std=False)
    found = drawn([0, 1], std=False)._replace(
        self_condition=torch.tensor([True, False]), drop_text=torch.zeros(2, dtype=bool), drop_images=torch.zeros(2, dtype=bool)
    )
    t = found.t.reshape(2, 1, 1, 1, 1)
    x = (1 - t) * given_.mean + t * found.noise
    estimate = (x - t * model(x, found.t, given_.conditions)).detach()
    estimate[1] = 0
    velocity = model(x, found.t, given_.conditions, estimate)
    expected = ((velocity - (found.noise - given_.mean)) ** 2).mean(dim=(1, 2, 3, 4))
    assert torch.allclose(batch_losses(model, given_, found, config), expected, rtol=1e-5)
