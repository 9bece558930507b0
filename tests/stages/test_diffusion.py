"""Inpainting with diffusers: real pipelines of random weights, a few thousand parameters, saved as published ones are."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from materia.base.backends import BackendError
from stages.backends import build_backend
from stages.background.diffusion import NEGATIVE_PROMPT, DiffusionInpainter

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")]


def make_model(folder: Path, unet_channels: int) -> Path:
    """Stable Diffusion in small; its U-Net takes 9 channels where it was trained for inpainting, else 4."""
    import torch
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionInpaintPipeline,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        projection_dim=16, bos_token_id=len(words) - 2, eos_token_id=len(words) - 1, pad_token_id=len(words) - 1,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=unet_channels, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        norm_num_groups=4, cross_attention_dim=16, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    cls = StableDiffusionInpaintPipeline if unet_channels == 9 else StableDiffusionPipeline
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    pipeline = cls(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet, scheduler=DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder / "model", safe_serialization=True)
    return folder / "model"


@pytest.fixture(scope="module", params=[9, 4], ids=["trained for inpainting", "plain"])
def any_model(request, tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("diffusion") / "made", request.param)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("diffusion") / "made", 9)


def ready(model, **options):
    inpainter = DiffusionInpainter(str(model), **({"steps": 2, "dtype": "float32", "max_side_px": 64} | options))
    inpainter.setup("cpu", 1)
    return inpainter


def pictures(*sizes):
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    masks = [np.zeros(size, bool) for size in sizes]
    for image, mask in zip(images, masks, strict=True):
        mask[mask.shape[0] // 4 : mask.shape[0] // 2, mask.shape[1] // 3 :] = True
        image.setflags(write=False)
    return images, masks, ["beach", None, "dimly lit, gray room", "x" * 500][: len(sizes)]


def difference(a, b):
    return np.abs(a.astype(int) - b)


def test_pictures_of_any_size_are_repainted_alike_in_batches_and_one_by_one(any_model):
    images, masks, prompts = pictures((50, 61), (120, 90), (50, 61), (40, 64))
    together = ready(any_model, batch_size=2).inpaint(images, masks, prompts)
    alone = ready(any_model, batch_size=1)
    for place, filled in enumerate(together):
        assert filled.shape == images[place].shape and filled.dtype == np.uint8
        (one,) = alone.inpaint([images[place]], [masks[place]], [prompts[place]])
        assert difference(filled, one).max() <= 1


def test_noise_comes_from_the_picture_and_the_seed_alone(model):
    images, masks, prompts = pictures((64, 64), (64, 64))
    inpainter = ready(model)
    first = inpainter.inpaint(images, masks, prompts)
    assert all(np.array_equal(a, b) for a, b in zip(first, inpainter.inpaint(images, masks, prompts), strict=True))
    (again,) = inpainter.inpaint(images[1:], masks[1:], prompts[1:])
    assert difference(first[1], again).max() <= 1, "whatever its place in the batch"
    (other,) = ready(model, seed=1).inpaint(images[:1], masks[:1], prompts[:1])
    assert difference(first[0], other).mean() > 1


def test_the_background_word_is_the_prompt_and_the_papers_words_the_negative_one(model, monkeypatch):
    inpainter = ready(model)
    asked = []
    encode = inpainter.pipeline.encode_prompt

    def listen(prompt, device, images_per_prompt, guided, negative_prompt, **how):
        asked.append((prompt, guided, negative_prompt))
        return encode(prompt, device, images_per_prompt, guided, negative_prompt, **how)

    monkeypatch.setattr(inpainter.pipeline, "encode_prompt", listen)
    inpainter.inpaint(*pictures((64, 64), (64, 64)))
    assert asked == [(["beach", "empty scene"], True, [NEGATIVE_PROMPT] * 2)]
    assert NEGATIVE_PROMPT == "any human or any object, complex pattern and texture"


@pytest.mark.parametrize(("option", "value"), [("steps", 3), ("guidance_scale", 3.0), ("strength", 0.5), ("dtype", "bfloat16")])
def test_no_option_is_ignored(model, option, value):
    given = pictures((64, 64))
    (usual,), (changed,) = ready(model).inpaint(*given), ready(model, **{option: value}).inpaint(*given)
    assert (usual != changed).any()


def test_a_large_picture_is_repainted_small_and_comes_back_large(model):
    (image,), (mask,), _ = pictures((130, 200))
    large, small = (ready(model, max_side_px=side).inpaint([image], [mask], [None])[0] for side in (208, 64))
    assert large.shape == small.shape == image.shape
    assert difference(large, small).mean() > 1


def test_compile_prepares_the_denoiser_only(model):
    assert ready(model, compile=True).pipeline.unet._compiled_call_impl is not None
    assert ready(model).pipeline.unet._compiled_call_impl is None


def test_a_good_model_is_not_missing_and_has_an_identity(any_model):
    inpainter = DiffusionInpainter(str(any_model))
    assert inpainter.missing() == [] and inpainter.weights() == [("background.options.model", str(any_model), None)]
    assert len(inpainter.identity()["weights"]) == 64


def unet_cut_short(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return str(file)


def vae_that_is_text(folder):
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_text("not a model")
    return str(file)


def pickled_weights_only(folder):
    file = folder / "text_encoder" / "model.safetensors"
    file.rename(file.with_name("pytorch_model.bin"))
    return str(file)


def unet_of_another_size(folder):
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"in_channels": 4}))
    return "conv_in.weight"


def pipeline_for_video(folder):
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": "TextToVideoSDPipeline"}))
    return "TextToVideoSDPipeline"


def no_index(folder):
    (folder / "model_index.json").unlink()
    return str(folder)


def index_that_is_no_json(folder):
    (folder / "model_index.json").write_text("{")
    return "model_index.json"


def no_folder(folder):
    shutil.rmtree(folder)
    return str(folder)


SPOILED = [
    unet_cut_short, vae_that_is_text, pickled_weights_only, unet_of_another_size, pipeline_for_video, no_index,
    index_that_is_no_json, no_folder,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_folder_that_cannot_serve_is_one_clear_line(model, tmp_path, spoil):
    folder = shutil.copytree(model, tmp_path / "model")
    named = spoil(folder)
    [lack] = DiffusionInpainter(str(folder)).missing()
    assert named in lack.what and "background.options.model" in lack.what and "\n" not in lack.what


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dtype", "int8"),
        ("batch_size", 0),
        ("guidance_scale", 1.0),
        ("strength", 0),
        ("steps", 0),
        ("seed", -1),
        ("max_side_px", 8),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(option, value):
    with pytest.raises(BackendError, match=option):
        build_backend("background", "diffusers", {"model": "folder", option: value})
