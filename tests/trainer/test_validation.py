"""The validation loss: seeded, and with own and shuffled references."""

from dataclasses import replace

import pytest
import torch
from conditions import CONFIG, awake
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import ObjectiveSettings
from trainer.data.batch import EncodedItem
from trainer.distributed import World
from trainer.model.dit import VideoDiT
from trainer.run.validation import LEVELS, ValidationLoss, derangement, noise_levels, validate, with_images_of

ALONE = World(0, 1, 0, torch.device("cpu"))


def item(seed: int, images: int = 2) -> EncodedItem:
    draw = torch.Generator().manual_seed(seed)
    return EncodedItem(
        key=f"clip{seed}",
        slot=seed,
        mean=torch.randn(CONFIG.latent_channels, 2, 4, 4, generator=draw),
        std=None,
        text=torch.randn(6, CONFIG.text_width, generator=draw),
        offsets=torch.tensor([[0, 0], [0, 1], [2, 5], [6, 8], [9, 12], [0, 0]]),
        images=torch.randn(images, 3, CONFIG.image_width, generator=draw),
        spans=torch.tensor([[2, 5], [9, 12], [2, 5]])[:images],
    )


def losses(items: list[EncodedItem], model: VideoDiT | None = None, seed: int = 0, world: World = ALONE) -> ValidationLoss:
    model = model or awake()
    return validate(
        model, items, word_tokens=CONFIG.word_tokens, objective=ObjectiveSettings(), shift=1, seed=seed, world=world
    )


def test_a_model_that_looks_at_pictures_notices_foreign_ones() -> None:
    found = losses([item(seed) for seed in range(4)])
    assert found.gap is not None and found.gap != 0


def test_a_model_that_does_not_look_at_pictures_has_no_gap() -> None:
    blind = awake()
    with torch.no_grad():
        for parameter in (block.personal_attention.out.weight for block in blind.blocks):
            parameter.zero_()
    assert losses([item(seed) for seed in range(4)], blind).gap == 0


def test_equal_references_have_no_gap() -> None:
    same = item(0).images
    assert losses([replace(item(seed), images=same) for seed in range(4)]).gap == 0


@pytest.mark.parametrize("counts", [(0, 0, 0), (2, 0, 0)])
def test_without_two_clips_with_references_there_is_no_gap(counts: tuple[int, ...]) -> None:
    found = losses([item(seed, images) for seed, images in enumerate(counts)])
    assert found.shuffled is None and found.gap is None and found.own > 0


def test_clips_without_references_count_alike_in_both_losses() -> None:
    with_images = [item(seed) for seed in range(3)]
    model = awake()
    fewer, more = losses(with_images, model), losses([*with_images, item(9, images=0)], model)
    assert fewer.gap is not None and more.gap is not None
    assert abs(more.gap) < abs(fewer.gap) * 1.5 and more.gap != 0


def test_the_same_seed_gives_the_same_losses_and_another_one_others() -> None:
    items = [item(seed) for seed in range(3)]
    assert losses(items) == losses(items)
    assert losses(items).own != losses(items, seed=1).own


def test_the_loss_of_a_clip_is_the_mean_over_fixed_noise_and_levels() -> None:
    only = item(0, images=0)

    def perfect_at_first_level(x: torch.Tensor, t: torch.Tensor, *_: object) -> torch.Tensor:
        noise = (x - (1 - t.reshape(-1, 1, 1, 1, 1)) * only.mean) / t.reshape(-1, 1, 1, 1, 1)
        velocity = noise - only.mean
        velocity[1:] += 2  # wrong by 2 at all but the first level
        return velocity

    found = validate(perfect_at_first_level, [only], word_tokens=3, objective=ObjectiveSettings(), shift=1, seed=0, world=ALONE)
    assert found.own == pytest.approx(4 * (LEVELS - 1) / LEVELS, rel=1e-3)


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 9))
def test_shuffling_gives_every_clip_the_references_of_another(has_images: list[bool], seed: int) -> None:
    donors = derangement(has_images, seed)
    if sum(has_images) < 2:
        assert donors is None
        return
    assert donors is not None and sorted(donors) == list(range(len(has_images)))
    for taker, donor in enumerate(donors):
        assert (donor != taker) == has_images[taker] and has_images[donor] == has_images[taker]


@pytest.mark.parametrize(("own", "donated"), [(1, 3), (3, 1), (2, 2), (0, 2)])
def test_foreign_pictures_come_in_own_number_and_under_own_words(own: int, donated: int) -> None:
    taker, donor = item(0, own), item(1, donated)
    mixed = with_images_of(taker, donor)
    assert mixed.images.shape == taker.images.shape and torch.equal(mixed.spans, taker.spans)
    assert all(any(torch.equal(image, given) for given in donor.images) for image in mixed.images)
    assert torch.equal(mixed.text, taker.text) and torch.equal(mixed.mean, taker.mean)


@given(st.integers(1, 20), st.sampled_from(["logit_normal", "uniform"]), st.sampled_from([1.0, 3.0]))
def test_levels_of_all_clips_together_are_spread_over_the_law(places: int, law: str, shift: float) -> None:
    objective = ObjectiveSettings(times=law)  # type: ignore[arg-type]
    levels = torch.cat([noise_levels(place, places, objective, shift) for place in range(places)])
    assert levels.min() > 0 and levels.max() < 1
    unshifted = levels / (shift - (shift - 1) * levels)
    quantiles = unshifted if law == "uniform" else torch.special.ndtr(torch.logit(unshifted))
    expected = (torch.arange(places * LEVELS) + 0.5) / (places * LEVELS)
    assert torch.allclose(quantiles.sort().values, expected, atol=1e-4)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_clips_and_make_equally_many_passes(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    items, model = [item(seed) for seed in range(4)], awake()
    sums, passes = [], []
    monkeypatch.setattr("trainer.run.validation.mean_over_ranks", lambda tensor, world: sums.append(tensor) or tensor)

    def counted(*given: torch.Tensor) -> torch.Tensor:
        passes[-1] += 1
        return model(*given)  # type: ignore[no-any-return]

    for rank in range(ranks):
        passes.append(0)
        losses(items, counted, world=World(rank, ranks, rank, torch.device("cpu")))  # type: ignore[arg-type]
    assert len(set(passes)) == 1
    own, shuffled, clips = torch.stack(sums).sum(dim=0).tolist()
    alone = losses(items, model)
    assert clips == len(items)
    assert (own / clips, shuffled / clips) == pytest.approx((alone.own, alone.shuffled), rel=1e-5)
