"""Rectified flow: objective, timesteps, guidance and sampling against their formulas."""

import pytest
import torch
from conditions import awake, conditions, latents

from trainer.model.flow import clean_estimate, draw_times, flow_losses, guided, interpolate, sample, shift_time


def test_the_interpolation_runs_from_data_to_noise() -> None:
    clean, noise = latents(), latents(seed=2)
    assert torch.equal(interpolate(clean, noise, torch.zeros(2)), clean)
    assert torch.equal(interpolate(clean, noise, torch.ones(2)), noise)
    assert torch.allclose(interpolate(clean, noise, torch.tensor([0.25, 0.25])), 0.75 * clean + 0.25 * noise)


def test_the_true_velocity_has_no_loss_and_points_to_the_clean_latents() -> None:
    clean, noise, t = latents(), latents(seed=2), torch.tensor([0.2, 0.9])
    losses = flow_losses(lambda *_: noise - clean, clean, noise, t, conditions())
    assert losses.tolist() == pytest.approx([0, 0], abs=1e-9)
    assert torch.allclose(clean_estimate(interpolate(clean, noise, t), noise - clean, t), clean, atol=1e-5)


def test_losses_are_per_clip_and_in_float32() -> None:
    clean, noise = latents().bfloat16(), latents(seed=2).bfloat16()
    wrong = torch.stack([(noise - clean)[0], (noise - clean)[1] + 2])
    losses = flow_losses(lambda *_: wrong, clean, noise, torch.tensor([0.5, 0.5]), conditions())
    assert losses.dtype == torch.float32
    assert losses.tolist() == pytest.approx([0, 4], abs=0.05)


def test_guidance_is_the_papers_formula() -> None:
    model, given, t = awake(), conditions(), torch.tensor([0.4, 0.6])
    full = model(latents(), t, given)
    no_text = model(latents(), t, given.without(text=True))
    no_images = model(latents(), t, given.without(images=True))
    expected = full + 8 * (full - no_text) + 3 * (full - no_images)
    assert torch.allclose(guided(model, latents(), t, given), expected, atol=1e-4)
    assert torch.equal(guided(model, latents(), t, given, text_guidance=0, image_guidance=0), full)


@pytest.mark.parametrize("law", ["logit_normal", "uniform"])
def test_times_follow_their_law_and_their_seed(law: str) -> None:
    drawn = draw_times(20_000, torch.Generator().manual_seed(3), law=law)  # type: ignore[arg-type]
    assert torch.equal(drawn, draw_times(20_000, torch.Generator().manual_seed(3), law=law))  # type: ignore[arg-type]
    spread = float(drawn.std())
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.01)
    assert spread == pytest.approx(0.208 if law == "logit_normal" else 12**-0.5, abs=0.01)


def test_a_shift_keeps_the_ends_and_moves_the_middle_to_noise() -> None:
    t = torch.tensor([0.0, 0.5, 1.0])
    assert shift_time(t, 3.0).tolist() == pytest.approx([0, 0.75, 1])
    assert torch.equal(shift_time(t, 1.0), t)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_sampling_with_the_true_velocity_arrives_at_the_data(shift: float) -> None:
    clean, noise = latents(), latents(seed=2)
    assert torch.allclose(sample(lambda *_: noise - clean, noise, steps=7, shift=shift), clean, atol=1e-5)


def test_sampling_hands_on_the_estimate_only_when_asked() -> None:
    clean, noise = latents(), latents(seed=2)
    seen: list[torch.Tensor | None] = []

    def velocity(x: torch.Tensor, t: torch.Tensor, estimate: torch.Tensor | None) -> torch.Tensor:
        seen.append(estimate)
        return noise - clean

    sample(velocity, noise, steps=3, self_conditioning=True)
    assert seen[0] is None
    assert all(estimate is not None and torch.allclose(estimate, clean, atol=1e-5) for estimate in seen[1:])
    seen.clear()
    sample(velocity, noise, steps=3)
    assert seen == [None] * 3
