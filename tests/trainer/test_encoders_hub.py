"""Encoders of a hub's folders, with tiny random weights in the true format, and folders that are not what they should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from materia.base.backends import BackendError
from trainer.config import EncoderSettings
from trainer.encoders import build
from trainer.encoders.vit import OPENAI
from trainer.errors import TrainError

VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}


def make_t5(folder: Path) -> None:
    """A whole T5, decoder included, as hubs have it."""
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    words = ["▁", "▁a", "▁dog", "▁red", "'s", *"abcdefghijklmnopqrstuvwxyzé,."]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *((word, -float(8 - len(word))) for word in words)]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0)
    tokenizer.save_pretrained(folder)
    config = T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=len(tokenizer))
    T5ForConditionalGeneration(config).save_pretrained(folder)


def make_dinov2(folder: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    Dinov2Model(Dinov2Config(**VIT, image_size=56)).save_pretrained(folder)


def make_clip(folder: Path) -> None:
    """A whole CLIP, text tower included."""
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
    special = {"bos_token_id": 0, "eos_token_id": 1}
    vision = {**VIT, "image_size": 56, "intermediate_size": 64}
    CLIPModel(CLIPConfig(text_config=text | special, vision_config=vision)).save_pretrained(folder)


def make_cogvideox(folder: Path) -> None:
    from diffusers import AutoencoderKLCogVideoX

    sizes = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4}
    AutoencoderKLCogVideoX(**sizes, scaling_factor=0.7).save_pretrained(folder)


MAKERS: dict[tuple[str, str], Callable[[Path], None]] = {
    ("text", "t5"): make_t5,
    ("image", "dinov2"): make_dinov2,
    ("image", "clip"): make_clip,
    ("video", "cogvideox"): make_cogvideox,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    made = {}
    for (_, name), make in MAKERS.items():
        made[name] = tmp_path_factory.mktemp(name)
        make(made[name])
    return made


def ready(kind: str, name: str, folder: Path, **options: Any) -> Any:
    encoder = build(kind, EncoderSettings(backend=name, options={"checkpoint": str(folder), **options}))
    assert encoder.missing() == []
    encoder.setup("cpu")
    return encoder


def noise(*size: int) -> torch.Tensor:
    return torch.randint(0, 256, (*size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_t5_gives_the_last_state_of_its_encoder_and_the_places_of_words(folders: dict[str, Path]) -> None:
    from transformers import T5ForConditionalGeneration

    encoder = ready("text", "t5", folders["t5"])
    caption = "a red dog's 😀 Dog, a  dög"
    (encoded,) = encoder.encode([caption], 64)
    pieces = [caption[start:end] for start, end in encoded.offsets.tolist()]
    assert pieces[:4] == ["a", "red", "dog", "'s"] and pieces[-1] == ""
    for word in ("red", "dog", "dög", "Dog"):
        start = caption.index(word)
        places = [(a, b) for a, b in encoded.offsets.tolist() if a < start + len(word) and b > start]
        assert (places[0][0], places[-1][1]) == (start, start + len(word))
    whole = T5ForConditionalGeneration.from_pretrained(folders["t5"]).eval()
    ids = encoder.tokenizer([caption], return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(encoded.tokens, whole.encoder(input_ids=ids).last_hidden_state[0])
    assert encoder.width == encoded.tokens.shape[1] == 32


def test_t5_cuts_long_captions_and_is_alone_with_each(folders: dict[str, Path]) -> None:
    encoder = ready("text", "t5", folders["t5"])
    together = encoder.encode(["a dog", "a red dog " * 50], 16)
    assert len(together[1].tokens) == 16
    assert torch.equal(together[0].tokens, encoder.encode(["a dog"], 16)[0].tokens)


def test_dinov2_gives_the_patches_of_its_last_block_without_the_class(folders: dict[str, Path]) -> None:
    from transformers import Dinov2Model

    encoder = ready("image", "dinov2", folders["dinov2"])
    images = noise(2, 224, 224)
    tokens = encoder.encode(images)
    assert tokens.shape == (2, encoder.tokens, encoder.width) == (2, 256, 32)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((images / 255 - mean) / deviation).permute(0, 3, 1, 2)
    with torch.no_grad():
        wanted = Dinov2Model.from_pretrained(folders["dinov2"]).eval()(pixel_values=pixels).last_hidden_state[:, 1:]
    torch.testing.assert_close(tokens, wanted, rtol=1e-4, atol=1e-4)


def test_clip_gives_the_patches_of_its_vision_tower_at_unit_scale(folders: dict[str, Path]) -> None:
    from transformers import CLIPModel

    encoder = ready("image", "clip", folders["clip"])
    images = noise(2, 56, 56)
    tokens = encoder.encode(images)
    assert tokens.shape == (2, encoder.tokens, encoder.width) == (2, 16, 32)
    mean, deviation = torch.tensor(OPENAI)
    pixels = ((images / 255 - mean) / deviation).permute(0, 3, 1, 2)
    with torch.no_grad():
        wanted = CLIPModel.from_pretrained(folders["clip"]).eval().vision_model(pixel_values=pixels).last_hidden_state[:, 1:]
    wanted = (wanted - wanted.mean(2, keepdim=True)) / wanted.std(2, keepdim=True, unbiased=False)
    torch.testing.assert_close(tokens, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_images_may_be_none_and_of_another_size(folders: dict[str, Path], name: str) -> None:
    encoder = ready("image", name, folders[name])
    assert encoder.encode(noise(0, 100, 100)).shape == (0, encoder.tokens, encoder.width)
    assert encoder.encode(noise(1, 100, 100)).shape == (1, encoder.tokens, encoder.width)


def test_cogvideox_gives_scaled_moments_and_decodes_them(folders: dict[str, Path]) -> None:
    from diffusers import AutoencoderKLCogVideoX

    encoder = ready("video", "cogvideox", folders["cogvideox"])
    videos = noise(2, 9, 32, 40)
    mean, std = encoder.encode(videos)
    assert mean.shape == std.shape == (2, encoder.channels, *encoder.latent_size(9, 32, 40)) == (2, 4, 3, 4, 5)
    model = AutoencoderKLCogVideoX.from_pretrained(folders["cogvideox"])
    with torch.no_grad():
        posterior = model.encode(videos.permute(0, 4, 1, 2, 3) / 127.5 - 1).latent_dist
        decoded = model.decode(posterior.mean).sample
    torch.testing.assert_close(mean, posterior.mean * 0.7, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(std, posterior.std * 0.7, rtol=1e-3, atol=1e-4)
    wanted = ((decoded + 1) * 127.5).clamp(0, 255).permute(0, 2, 3, 4, 1)
    assert (encoder.decode(mean).float() - wanted).abs().max() <= 1


def test_cogvideox_tells_which_clips_would_do(folders: dict[str, Path]) -> None:
    encoder = build("video", EncoderSettings(backend="cogvideox", options={"checkpoint": str(folders["cogvideox"])}))
    with pytest.raises(ValueError, match="5 frames, 64x64 px would do"):
        encoder.latent_size(8, 64, 70)


def test_a_part_of_a_pipeline_is_found_in_it(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    make_cogvideox(tmp_path / "vae")
    encoder = ready("video", "cogvideox", tmp_path)
    assert encoder.encode(noise(1, 1, 8, 8)).mean.shape == (1, 4, 1, 1, 1)


def test_half_precision_is_near_and_another_identity(folders: dict[str, Path]) -> None:
    full, half = ready("image", "dinov2", folders["dinov2"]), ready("image", "dinov2", folders["dinov2"], dtype="bfloat16")
    images = noise(1, 224, 224)
    assert half.encode(images).dtype == torch.float32
    torch.testing.assert_close(half.encode(images), full.encode(images), rtol=0, atol=0.2)
    assert half.identity() != full.identity()


def test_the_identity_is_that_of_the_weights_not_of_the_place(folders: dict[str, Path], tmp_path: Path) -> None:
    names = ("config.json", "model.safetensors")
    for name in names:
        (tmp_path / name).write_bytes((folders["dinov2"] / name).read_bytes())
    first, moved = (ready("image", "dinov2", folder) for folder in (folders["dinov2"], tmp_path))
    assert first.identity() == moved.identity()
    make_dinov2(tmp_path / "other")
    assert ready("image", "dinov2", tmp_path / "other").identity() != first.identity()


@pytest.mark.parametrize(("kind", "name"), MAKERS)
@pytest.mark.parametrize("damage", ["truncated", "absent", "another model", "no config", "no weights"])
def test_a_folder_that_will_not_do_is_one_line(
    kind: str, name: str, damage: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    source = folders["t5" if name == "cogvideox" else "cogvideox"] if damage == "another model" else folders[name]
    folder = tmp_path / "folder"
    if damage != "absent":
        folder.mkdir()
        for file in source.iterdir():
            whole = file.read_bytes()
            cut = damage == "truncated" and file.suffix == ".safetensors"
            (folder / file.name).write_bytes(whole[: len(whole) // 2] if cut else whole)
    if damage == "no config":
        (folder / "config.json").unlink()
    if damage == "no weights":
        next(folder.glob("*.safetensors")).unlink()
    encoder = build(kind, EncoderSettings(backend=name, options={"checkpoint": str(folder)}))
    (lacking,) = encoder.missing()
    assert f"encoders.{kind}.options.checkpoint" in lacking.what and str(folder) in lacking.what and "\n" not in lacking.what
    with pytest.raises(TrainError) as raised:
        encoder.setup("cpu")
    assert str(raised.value) == f"{lacking.what}: {lacking.fix}"


def test_a_dtype_that_none_has_is_refused() -> None:
    with pytest.raises(BackendError, match=r"encoders.image.options.*dtype must be one of"):
        build("image", EncoderSettings(backend="clip", options={"checkpoint": "/not/there", "dtype": "int8"}))
