"""The model against plain reference implementations, and what its conditions promise."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from conditions import CONFIG, awake, conditions, latents
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.model.dit import (
    SIZES,
    Attention,
    ModelConfig,
    VideoDiT,
    cut_words,
    modulate,
    patchify,
    positions,
    rope,
    rotate,
    unpatchify,
)

T = torch.tensor([0.3, 0.8])


def count(name: str, **widths: int) -> int:
    with torch.device("meta"):
        model = VideoDiT(ModelConfig(**SIZES[name], **widths))
    return sum(parameter.numel() for parameter in model.parameters())


def test_paper_size_has_the_parameters_that_its_docstring_derives() -> None:
    assert count("paper", text_width=4096, image_width=1024) == pytest.approx(9.26e9, rel=0.005)


def test_tiny_size_has_about_five_million_parameters() -> None:
    assert 4e6 < count("tiny", text_width=384, image_width=1280) < 6e6


def test_attention_equals_softmax_of_normalised_queries_and_keys_head_by_head() -> None:
    torch.manual_seed(0)
    layer = Attention(width=24, heads=3, context_width=10)
    torch.nn.init.uniform_(layer.query_norm.weight)
    x, context = torch.randn(2, 5, 24), torch.randn(2, 7, 10)
    mask = torch.rand(2, 7) > 0.4
    mask[:, 0] = True
    expected = torch.zeros(2, 5, 24)
    for b in range(2):
        query = layer.query.weight @ x[b].T  # (24, 5)
        key, value = (layer.key_value.weight @ context[b].T).split(24)  # (24, 7) each
        for h in range(3):
            rows = slice(8 * h, 8 * h + 8)
            q = query[rows] / (query[rows].square().mean(0) + torch.finfo(torch.float32).eps).sqrt()
            k = key[rows] / (key[rows].square().mean(0) + torch.finfo(torch.float32).eps).sqrt()
            scores = (q * layer.query_norm.weight[:, None]).T @ k / math.sqrt(8)  # (5, 7)
            weights = torch.softmax(scores.masked_fill(~mask[b], -torch.inf), dim=1)
            expected[b, :, rows] = weights @ value[rows].T
    assert torch.allclose(layer(x, context, mask), expected @ layer.out.weight.T, atol=1e-5)


def test_rope_turns_each_pair_by_its_position_times_its_frequency() -> None:
    grid, width = (2, 3, 4), 16  # 8 pairs: 4 for time, 2 for height, 2 for width
    x = np.random.default_rng(0).standard_normal((1, 1, 24, width)).astype(np.float32)
    turned = rotate(torch.from_numpy(x), rope(grid, width)).numpy()
    for token, (t, h, w) in enumerate(np.ndindex(grid)):
        angles = [t * 10_000 ** (-i / 4) for i in range(4)] + [p * 10_000 ** (-i / 2) for p in (h, w) for i in range(2)]
        for pair, angle in enumerate(angles):
            a, b = x[0, 0, token, 2 * pair : 2 * pair + 2]
            expected = (a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle))
            assert turned[0, 0, token, 2 * pair : 2 * pair + 2] == pytest.approx(expected, abs=1e-5)


def test_rope_scores_depend_on_distances_only() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(16), torch.randn(16)
    turns = rope((5, 5, 5), 16).reshape(2, 5, 5, 5, 16)

    def score(at: tuple[int, int, int], to: tuple[int, int, int]) -> float:
        q, k = (
            rotate(v.reshape(1, 1, 1, 16), turns[:, *place].reshape(2, 1, 16)).flatten()
            for v, place in ((query, at), (key, to))
        )
        return float(q @ k)

    assert score((0, 1, 2), (1, 1, 0)) == pytest.approx(score((2, 3, 4), (3, 3, 2)), abs=1e-4)
    assert score((0, 1, 2), (1, 1, 0)) != pytest.approx(score((0, 1, 2), (0, 1, 2)), abs=1e-3)


def test_positions_are_sines_and_cosines_of_each_axis_and_zeros_for_the_rest() -> None:
    grid, width = (2, 3, 4), 14  # for each axis 2 pairs; 2 channels are left
    found = positions(grid, width).numpy()
    for token, place in enumerate(np.ndindex(grid)):
        expected = [turn(p * 100 ** (-i / 2)) for p in place for turn in (math.sin, math.cos) for i in range(2)]
        assert found[token] == pytest.approx([*expected, 0, 0], abs=1e-5)


def test_in_a_clip_of_one_value_every_token_knows_where_it_is() -> None:
    flat = torch.full((2, CONFIG.latent_channels, 3, 4, 6), 0.5)
    tokens, _ = patchify(awake()(flat, T, conditions()), CONFIG.patch)
    apart = torch.cdist(tokens[0], tokens[0]) + torch.eye(tokens.shape[1])
    assert apart.min() > 1e-3


def test_modulation_is_scale_plus_one_times_x_plus_shift() -> None:
    x, shift, scale = torch.randn(2, 3, 4), torch.randn(2, 4), torch.randn(2, 4)
    expected = torch.stack([torch.stack([x[b, n] * (1 + scale[b]) + shift[b] for n in range(3)]) for b in range(2)])
    assert torch.equal(modulate(x, shift, scale), expected)


@settings(max_examples=30)
@given(st.tuples(*[st.integers(1, 3)] * 3), st.tuples(*[st.integers(1, 3)] * 3), st.integers(1, 3))
def test_patches_go_back_to_where_they_were(grid: tuple[int, int, int], patch: tuple[int, int, int], channels: int) -> None:
    video = torch.randn(2, channels, *(g * p for g, p in zip(grid, patch, strict=True)))
    tokens, found = patchify(video, patch)
    assert found == grid
    assert tokens.shape == (2, math.prod(grid), channels * math.prod(patch))
    assert torch.equal(unpatchify(tokens, found, patch), video)


def test_latents_that_do_not_divide_are_refused_with_their_size() -> None:
    with pytest.raises(ValueError, match=r"\(3, 5, 6\)"):
        patchify(torch.zeros(1, 4, 3, 5, 6), (1, 2, 2))


def test_a_new_model_says_nothing_and_ignores_images() -> None:
    torch.manual_seed(0)
    model = VideoDiT(CONFIG)
    assert not model(latents(), T, conditions()).any()
    for block in model.blocks:
        assert not block.personal_attention.out.weight.any()


def test_the_velocity_has_the_latents_shape_and_depends_on_every_condition() -> None:
    model = awake()
    before = model(latents(), T, conditions())
    assert before.shape == latents().shape
    for field in ("text", "images", "words"):
        other = dataclasses.replace(conditions(), **{field: getattr(conditions(seed=5), field)})
        assert not torch.allclose(model(latents(), T, other), before, atol=1e-4), field
    assert not torch.allclose(model(latents(), T.flip(0), conditions()), before, atol=1e-4)


def test_swapping_two_images_with_their_words_still_matters_by_their_index() -> None:
    model = awake()
    given = conditions()
    swapped = dataclasses.replace(given, images=given.images.flip(1), words=given.words.flip(1))
    assert not torch.allclose(model(latents(), T, swapped), model(latents(), T, given), atol=1e-5)


def test_no_images_equals_dropped_images_equals_masked_images() -> None:
    model = awake()
    none = model(latents(), T, conditions(images=0))
    with_images = dataclasses.replace(conditions(images=2), text=conditions(images=0).text)
    assert torch.allclose(model(latents(), T, with_images.without(images=True)), none, atol=1e-5)
    masked = dataclasses.replace(with_images, image_mask=torch.zeros(2, 2, dtype=torch.bool))
    assert torch.allclose(model(latents(), T, masked), none, atol=1e-5)


def test_padding_a_clip_with_images_that_are_not_there_changes_nothing() -> None:
    model = awake()
    two, three = conditions(images=2), conditions(images=3)
    padded = dataclasses.replace(
        three,
        text=two.text,
        images=torch.cat([two.images, three.images[:, :1]], dim=1),
        words=torch.cat([two.words, three.words[:, :1]], dim=1),
        image_mask=torch.tensor([[True, True, False]] * 2),
    )
    assert torch.allclose(model(latents(), T, padded), model(latents(), T, two), atol=1e-5)


def test_dropping_one_clips_conditions_leaves_the_others_alone() -> None:
    model = awake()
    full, dropped = conditions(), conditions().without(text=torch.tensor([True, False]), images=torch.tensor([True, False]))
    before, after = model(latents(), T, full), model(latents(), T, dropped)
    assert torch.allclose(before[1], after[1], atol=1e-5)
    assert not torch.allclose(before[0], after[0], atol=1e-4)


def test_half_precision_gives_finite_velocities_without_any_image() -> None:
    model = awake().bfloat16()
    given = conditions(images=0)
    half = dataclasses.replace(given, text=given.text.bfloat16(), images=given.images.bfloat16(), words=given.words.bfloat16())
    assert torch.isfinite(model(latents().bfloat16(), T, half.without(text=True))).all()


def test_self_conditioning_reads_the_estimate_and_starts_from_zeros() -> None:
    model = awake(config=dataclasses.replace(CONFIG, self_conditioning=True))
    without = model(latents(), T, conditions())
    assert torch.equal(without, model(latents(), T, conditions(), torch.zeros_like(latents())))
    assert not torch.allclose(without, model(latents(), T, conditions(), latents(seed=4)), atol=1e-4)


def test_new_attention_is_what_only_images_reach() -> None:
    model = awake()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    new = {names[id(parameter)] for parameter in model.new_attention()}
    model(latents(), T, conditions(images=0)).sum().backward()
    untouched = {name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    assert new == untouched


def test_word_tokens_are_those_that_overlap_the_span_padded_or_cut() -> None:
    #         [CLS]   "a"     " hot"  " dog"  " runs"  [SEP]
    offsets = torch.tensor([[(0, 0), (0, 1), (2, 5), (6, 9), (10, 14), (0, 0)]])
    text = torch.arange(1.0, 7.0).reshape(1, 6, 1)
    spans = torch.tensor([[(6, 9), (2, 9), (0, 14), (0, 0)]])  # dog | hot dog | all | no word
    assert cut_words(text, offsets, spans, 3).squeeze(-1).tolist() == [[[4, 0, 0], [3, 4, 0], [2, 3, 4], [0, 0, 0]]]


def test_a_head_too_narrow_for_three_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="heads"):
        ModelConfig(depth=1, width=16, heads=4, condition_width=8, text_width=8, image_width=8)
