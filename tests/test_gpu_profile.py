"""`materia run --config configs/gpu.yaml` on a CPU: real packages, real Ray, small random checkpoints in the true formats."""

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from tiny_arcface import arcface_file
from tiny_groundingdino import bert_folder

from tools import demo_clips

pytestmark = [pytest.mark.gpu, pytest.mark.ray]

ROOT = Path(__file__).parents[1]
MATERIA = Path(sys.executable).parent / "materia"
ENV = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def groundingdino(path: Path, bert: Path) -> Path:
    import torch

    from stages.localise.groundingdino_model import build
    from stages.localise.prompt import load_tokenizer

    torch.manual_seed(0)
    torch.save({"model": build("swin_t", bert, load_tokenizer(bert)).state_dict()}, path)
    return path


def sam(path: Path) -> Path:
    import torch
    from segment_anything.build_sam import _build_sam

    torch.manual_seed(0)
    model = _build_sam(encoder_embed_dim=48, encoder_depth=2, encoder_num_heads=3, encoder_global_attn_indexes=[1])
    torch.save(model.state_dict(), path)
    return path


def lama(path: Path) -> Path:
    import torch

    def fill(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return image * (1 - mask) + mask * 0.5

    example = torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64)
    torch.jit.trace(fill, example).save(str(path))
    return path


def dinov2(folder: Path) -> Path:
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The checkpoints, pictures of a size that a test can wait for, and gates that let random networks through."""
    folder = tmp_path_factory.mktemp("weights")
    bert = bert_folder(folder / "bert")
    settings = {
        "device": "cpu",
        "entities.backend": "transformers",
        "localise.min_score": 0,
        "localise.options.checkpoint": groundingdino(folder / "swin_t.pth", bert),
        "localise.options.text_encoder": bert,
        "localise.options.short_side_px": 224,
        "localise.options.long_side_px": 300,
        "link.options.checkpoint": dinov2(folder / "dinov2"),
        "link.faces.backend": "arcface",
        "link.faces.options.checkpoint": arcface_file(folder / "arcface.onnx"),
        "segment.min_score": 0,
        "segment.options.checkpoint": sam(folder / "sam.pth"),
        "background.max_masked_share": 1,
        "background.options.checkpoint": lama(folder / "lama.pt"),
    }
    return [f"--set={field}={value}" for field, value in settings.items()]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    lines = []
    for name in ("photo_astronaut", "photo_cat"):
        photo = demo_clips.PHOTOS[name]
        demo_clips.film(photo, Path(str(files("skimage") / "data" / photo.file)), folder / f"{name}.mp4")
        lines.append(json.dumps({"video": f"{name}.mp4", "caption": photo.caption}))
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    return folder / "manifest.jsonl"


def materia(*arguments: object, code: int = 0) -> str:
    command = [str(MATERIA), *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True, check=False, timeout=280)
    assert result.returncode == code, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


def run(manifest: Path, output: Path, overrides: list[str], code: int = 0) -> str:
    return materia("run", "--config", "configs/gpu.yaml", "--input", manifest, "--output", output, *overrides, code=code)


def test_clips_pass_through_the_real_packages_and_the_output_validates(
    manifest: Path, overrides: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    run(manifest, output, overrides)
    materia("validate", output)
    workers = [json.loads(line) for line in (output / "_run" / "workers.jsonl").read_text().splitlines()]
    vision = next(worker for worker in workers if "localise" in worker["stages"])
    assert vision["packages"].keys() >= {"groundingdino", "segment_anything", "lama_cleaner", "torch"}
    stats = json.loads(materia("stats", output, "--json"))
    assert stats["input"] == 2
    assert stats["samples"] >= 1


@pytest.mark.parametrize(
    "field",
    [
        "localise.options.checkpoint",
        "link.faces.options.checkpoint",
        "segment.options.checkpoint",
        "background.options.checkpoint",
    ],
)
def test_a_job_with_a_truncated_checkpoint_does_not_start(
    field: str, manifest: Path, overrides: list[str], tmp_path: Path
) -> None:
    good = next(Path(item.partition(f"{field}=")[2]) for item in overrides if f"{field}=" in item)
    bad = tmp_path / good.name
    bad.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    said = run(manifest, tmp_path / "out", [*overrides, f"--set={field}={bad}"], code=2)
    assert str(bad) in said
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "dataset.json").exists()
