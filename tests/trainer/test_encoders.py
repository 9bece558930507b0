"""Captions, references and videos through the encoders that need no hub; names, options and identities."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data as photographs

from materia.base.backends import BackendError
from materia.base.weights.efficientnet_lite import MEAN, STD
from trainer.config import EncoderSettings, EncodersSettings
from trainer.encoders import BACKENDS, build, build_encoders
from trainer.encoders.efficientnet import EfficientNet
from trainer.encoders.patches import Patches, cosines
from trainer.encoders.text import MiniLM

HOSTILE = [
    ("A naïve DOG, an Äffchen 🐕‍🦺 and a dog's ﬁsh near İstanbul", ["DOG", "Äffchen", "dog", "ﬁsh", "İstanbul"]),
    ("[CLS] a dog [SEP] red [MASK] hot dog [PAD]", ["dog", "red", "hot dog"]),
    ("  dog\t\tcat\n dog ", ["dog", "cat"]),
    ("狗 and dog, 😀 cat 😀", ["dog", "狗", "cat"]),
    ("e\u0301cole DOG e\u0301cole", ["DOG", "e\u0301cole"]),
    ("\ud800 dog \x00 cat", ["dog", "cat"]),
]
"""Captions, and words in them."""


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    encoder = MiniLM()
    assert encoder.missing() == []
    encoder.setup("cpu")
    return encoder


@pytest.fixture(scope="module")
def efficientnet() -> EfficientNet:
    encoder = EfficientNet()
    assert encoder.missing() == []
    encoder.setup("cpu")
    return encoder


def patches(*options: object) -> Patches:
    encoder = Patches(*options)  # type: ignore[arg-type]
    encoder.setup("cpu")
    return encoder


def photograph(side: int = 224) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(photographs.astronaut()[:side, 100 : 100 + side]))


# --- captions ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("caption", "words"), HOSTILE)
def test_the_tokens_of_a_word_are_its_own_and_all_of_it(minilm: MiniLM, caption: str, words: list[str]) -> None:
    (encoded,) = minilm.encode([caption], 64)
    assert encoded.tokens.shape == (len(encoded.offsets), minilm.width)
    for match in (match for word in words for match in re.finditer(re.escape(word), caption)):
        places = [(a, b) for a, b in encoded.offsets.tolist() if a < match.end() and b > match.start()]
        assert (places[0][0], places[-1][1]) == match.span()


def test_only_the_special_tokens_of_the_model_itself_stand_for_no_characters(minilm: MiniLM) -> None:
    (encoded,) = minilm.encode(["[CLS] a dog [SEP]"], 64)
    nowhere = [number for number, place in enumerate(encoded.offsets.tolist()) if place == [0, 0]]
    assert nowhere == [0, len(encoded.offsets) - 1]


def test_a_caption_is_encoded_the_same_to_the_last_bit_in_any_company(minilm: MiniLM) -> None:
    captions = ["a dog", "a man and a very small dog run along the beach at dawn", ""]
    together = minilm.encode(captions, 64)
    for caption, one in zip(captions, together, strict=True):
        (alone,) = minilm.encode([caption], 64)
        assert torch.equal(one.tokens, alone.tokens) and torch.equal(one.offsets, alone.offsets)


def test_a_long_caption_is_cut_to_the_tokens_that_were_asked_for(minilm: MiniLM) -> None:
    long, longest = "dog " * 100, "dog " * 2000
    assert len(minilm.encode([long], 64)[0].tokens) == 64
    assert len(minilm.encode([longest], 4096)[0].tokens) == 512  # the model has no more positions


def test_the_same_word_is_another_token_in_another_caption(minilm: MiniLM) -> None:
    bat, ball = (minilm.encode([text], 16)[0].tokens[2] for text in ("a bat sleeps in a cave", "a bat hits a baseball"))
    assert torch.cosine_similarity(bat, ball, dim=0) < 0.95


# --- references -------------------------------------------------------------------------------------------------------------


def test_an_image_gives_tokens_of_about_unit_scale_that_need_no_gradient(efficientnet: EfficientNet) -> None:
    tokens = efficientnet.encode(photograph()[None])
    assert tokens.shape == (1, efficientnet.tokens, efficientnet.width) and efficientnet.tokens <= 64
    assert 0.5 < tokens.std() < 1.5 and not tokens.requires_grad and not tokens.is_inference()


def test_no_image_gives_no_tokens(efficientnet: EfficientNet) -> None:
    none = efficientnet.encode(torch.zeros(0, 224, 224, 3, dtype=torch.uint8))
    assert none.shape == (0, efficientnet.tokens, efficientnet.width)


def test_an_image_is_encoded_the_same_in_any_company(efficientnet: EfficientNet) -> None:
    images = torch.stack([photograph(), photograph().flip(1), torch.full((224, 224, 3), 255, dtype=torch.uint8)])
    alone = torch.cat([efficientnet.encode(image[None]) for image in images])
    torch.testing.assert_close(efficientnet.encode(images), alone, rtol=1e-4, atol=1e-4)


def test_images_of_another_size_are_resized(efficientnet: EfficientNet) -> None:
    small = photograph().reshape(112, 2, 112, 2, 3).float().mean((1, 3)).round().byte()
    tokens, wanted = efficientnet.encode(small[None]), efficientnet.encode(photograph()[None])
    assert torch.cosine_similarity(tokens.flatten(), wanted.flatten(), dim=0) > 0.8


def test_tokens_lie_in_the_order_of_their_places(efficientnet: EfficientNet) -> None:
    image = torch.full((224, 224, 3), 255, dtype=torch.uint8)
    blank = efficientnet.encode(image[None])
    image[:32, 192:] = 0  # the last cell of the first row
    changed = (efficientnet.encode(image[None]) - blank).norm(dim=2)[0]
    assert changed.argmax() == efficientnet.grid - 1


def test_its_classes_are_found_so_the_pixels_go_in_as_it_was_trained(efficientnet: EfficientNet) -> None:
    coffee = torch.from_numpy(np.ascontiguousarray(photographs.coffee()[:400, 100:500])).permute(2, 0, 1)[None].float()
    pixels = torch.nn.functional.interpolate(coffee, (224, 224), mode="bicubic", antialias=True)
    assert efficientnet.network.model((pixels - MEAN) / STD).argmax() == 967  # espresso


def test_blocks_and_grid_decide_what_a_token_is() -> None:
    encoder = EfficientNet(blocks=[4, 15], grid=4)
    assert (encoder.tokens, encoder.width) == (16, 360)
    for wrong in ({"blocks": []}, {"blocks": [16]}, {"blocks": [4, 2]}, {"grid": 0}, {"side": 100}):
        with pytest.raises(ValueError, match="must"):
            EfficientNet(**wrong)  # type: ignore[arg-type]


# --- videos -----------------------------------------------------------------------------------------------------------------

SIZES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))


@settings(max_examples=25)
@given(block=SIZES, grid=SIZES, seed=st.integers(0, 2**31))
def test_all_coefficients_give_back_every_pixel(block: tuple[int, ...], grid: tuple[int, ...], seed: int) -> None:
    size = [a * b for a, b in zip(block, grid, strict=True)]
    videos = torch.randint(0, 256, (2, *size, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    encoder = patches(block, None)
    latents = encoder.encode(videos).mean
    assert latents.shape == (2, encoder.channels, *encoder.latent_size(*size))
    assert torch.equal(encoder.decode(latents), videos)


@given(size=st.integers(1, 16))
def test_the_transform_is_orthonormal(size: int) -> None:
    rows = cosines(size)
    torch.testing.assert_close(rows @ rows.T, torch.eye(size, dtype=torch.float64))


def test_each_further_coefficient_brings_the_picture_nearer() -> None:
    video = photograph(64).expand(1, 8, 64, 64, 3)
    errors = []
    for keep in (1, 4, 16, 64, 384):
        encoder = patches((2, 8, 8), keep)
        assert encoder.channels == keep
        errors.append((encoder.decode(encoder.encode(video).mean).float() - video.float()).square().mean().item())
    assert errors == sorted(errors, reverse=True) and errors[-1] == 0 < errors[-2]


def test_what_is_kept_is_the_best_approximation() -> None:
    """Encoding what was decoded changes nothing but by rounding to whole pixel values."""
    encoder = patches((2, 8, 8), 16)
    grey = (photograph(64).float() * 0.5 + 64).byte().expand(1, 4, 64, 64, 3)  # far from black and white: nothing is clipped
    latents = encoder.encode(grey).mean
    torch.testing.assert_close(encoder.encode(encoder.decode(latents)).mean, latents, rtol=0, atol=0.05)


@pytest.mark.parametrize("options", [(), ((2, 8, 8), None), ((1, 4, 4), 16), ((4, 4, 4), 8)])
def test_latents_of_photographs_are_of_about_unit_variance(options: tuple[object, ...]) -> None:
    pictures = [photographs.astronaut(), photographs.coffee(), photographs.chelsea(), photographs.rocket()]
    stills = torch.stack([torch.from_numpy(picture[:296:4, :296:4][:64, :64]).expand(8, -1, -1, -1) for picture in pictures])
    assert 0.6 < patches(*options).encode(stills).mean.std() < 1.6


def test_a_clip_that_is_no_whole_blocks_is_told_what_would_do() -> None:
    with pytest.raises(ValueError, match="8 frames, 64x64 px would do"):
        Patches((2, 8, 8)).latent_size(9, 70, 65)
    for wrong in ((0, 8, 8), (2, 8), (2, 8.5, 8)):
        with pytest.raises(ValueError, match="three whole numbers"):
            Patches(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        Patches(keep=0)


# --- by name ----------------------------------------------------------------------------------------------------------------


def test_the_default_encoders_are_here_and_work_together(minilm: MiniLM, efficientnet: EfficientNet) -> None:
    encoders = build_encoders(EncodersSettings())
    assert encoders.missing() == []
    assert {"text", "image", "video", "max_text_tokens"} == set(encoders.identity())
    assert encoders.identity()["image"] == efficientnet.identity()
    assert encoders.video.channels * 4 < 192  # a token of `tiny` is 1 x 2 x 2 latents, and must hold them and their noise


@pytest.mark.parametrize("kind", BACKENDS)
def test_every_name_is_a_class_that_can_be_built_without_its_weights(kind: str) -> None:
    for name in BACKENDS[kind]:
        options = {} if name in ("minilm", "efficientnet", "patches") else {"checkpoint": "/not/there"}
        encoder = build(kind, EncoderSettings(backend=name, options=options))
        assert bool(encoder.missing()) == bool(options)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (EncoderSettings(backend="patchs"), "did you mean 'patches'"),
        (EncoderSettings(backend="patches", options={"blok": [1, 4, 4]}), "did you mean 'block'"),
        (EncoderSettings(backend="patches", options={"keep": 0}), "encoders.video.options.*keep 0"),
        (EncoderSettings(backend="no.such:Module"), "cannot import"),
        (EncoderSettings(backend="small"), "checkpoint"),
    ],
)
def test_a_wrong_name_or_option_is_one_line_that_tells_the_right_one(settings: EncoderSettings, told: str) -> None:
    with pytest.raises(BackendError, match=told) as raised:
        build("video", settings)
    assert "\n" not in str(raised.value)


def test_other_options_are_another_identity() -> None:
    found = [Patches(), Patches((1, 4, 4), 16), Patches((1, 4, 4), None), EfficientNet(grid=4), EfficientNet(blocks=[4])]
    assert len({str(sorted(encoder.identity().items())) for encoder in found}) == len(found)
