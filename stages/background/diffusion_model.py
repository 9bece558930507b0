"""Loading an inpainting model of diffusers, and seeing beforehand that a folder holds one. Imports torch and diffusers.

In: a folder in diffusers' format. Out: a pipeline, or a `CheckpointError` naming folder and file. Safetensors only; no code is
taken from the folder; nothing is fetched. The safety checker stays out: it blackens what it dislikes.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoPipelineForInpainting
from diffusers.pipelines.auto_pipeline import (
    AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
    AUTO_INPAINT_PIPELINES_MAPPING,
    AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
)

from materia.base.weights.checkpoints import WEIGHT_STEMS, CheckpointError, folder_shapes, mismatch

ASKED = ("prompt", "negative_prompt", "image", "mask_image", "height", "width", "generator", "strength", "guidance_scale")
"""What a pipeline must take when it is called."""
DENOISERS = ("unet", "transformer")
NOT_USED = ("safety_checker", "feature_extractor", "image_encoder")


def load_pipeline(folder: Path, dtype: str, device: str, compile: bool) -> Any:
    """The folder's pipeline for inpainting, all parts in `dtype` on `device`, silent."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()  # long captions are cut, which it says for each
        library.utils.logging.disable_progress_bar()
    known = inspect.signature(inpainting_class(folder).__init__).parameters
    unused: dict[str, Any] = {name: None for name in NOT_USED if name in known}
    if "requires_safety_checker" in known:
        unused["requires_safety_checker"] = False
    pipeline = AutoPipelineForInpainting.from_pretrained(
        str(folder), dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True, **unused
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    if compile:
        pipeline.components[_denoiser(pipeline.components)].compile()
    return pipeline


def check_pipeline(folder: Path) -> None:
    """Raises CheckpointError unless the folder holds an inpainting model whose weights are whole.

    Every file of weights is opened, which finds truncated ones; names and shapes are compared for the denoiser.
    """
    inpainting_class(folder)
    parts = {
        name: (part[0], part[1])
        for name, part in _index(folder).items()
        if isinstance(part, list)
        and part[0] in WEIGHT_STEMS
        and name not in NOT_USED
        and (folder / name / "config.json").is_file()
    }
    shapes = {name: folder_shapes(folder / name, WEIGHT_STEMS[library]) for name, (library, _) in parts.items()}
    name = _denoiser(parts)
    if not name:
        raise CheckpointError(f"{folder} has no {' or '.join(DENOISERS)} with a config.json: it is no inpainting model")
    architecture = getattr(diffusers, parts[name][1])
    try:
        with torch.device("meta"):
            expected = architecture.from_config(architecture.load_config(folder / name)).state_dict()
    except Exception as error:  # a configuration can be wrong in any way
        raise CheckpointError(f"{folder / name / 'config.json'} does not describe a {parts[name][1]}: {error}") from error
    if fault := mismatch(folder / name, shapes[name], expected, parts[name][1]):
        raise CheckpointError(fault)


def inpainting_class(folder: Path) -> Any:
    """The pipeline class for inpainting of the folder's family of models. Raises CheckpointError if there is none for us."""
    found = _index(folder).get("_class_name")
    mappings = AUTO_INPAINT_PIPELINES_MAPPING, AUTO_TEXT2IMAGE_PIPELINES_MAPPING, AUTO_IMAGE2IMAGE_PIPELINES_MAPPING
    families = [family for mapping in mappings for family, cls in mapping.items() if cls.__name__ == found]
    for family in families:
        cls = AUTO_INPAINT_PIPELINES_MAPPING.get(family)
        if cls is not None and set(ASKED) <= set(inspect.signature(cls.__call__).parameters):
            return cls
    raise CheckpointError(f"{folder} holds {found!r}, for which diffusers has no inpainting with prompt and negative prompt")


def _index(folder: Path) -> dict[str, Any]:
    path = folder / "model_index.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read, so {folder} is no model in diffusers' format: {error}") from error
    if not isinstance(index, dict):
        raise CheckpointError(f"{path} is no JSON object, so {folder} is no model in diffusers' format")
    return index


def _denoiser(parts: dict[str, Any]) -> str:
    """Name of the part that is asked in every step; empty if there is none."""
    return next((name for name in DENOISERS if name in parts), "")
