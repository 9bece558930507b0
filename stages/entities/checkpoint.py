"""Whether a language model's checkpoint folder in the Hugging Face layout can be used.

In: an address. Out: what is wrong with it, in one line, without loading it. Looked at are the hash beside the weights if there
is one, the header of every safetensors file, and names and shapes against the model that config.json describes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from materia.base.weights.files import PULL, SHA256_FILE, Missing, Weights, local_path, sha256_of, weights_missing

PACKAGED_MODEL = "packaged://smollm2-135m-instruct"
"""The language model of a configuration that names none."""


def checkpoint_missing(weights: Weights) -> list[Missing]:
    """Nothing if the folder is a causal language model that can be loaded; otherwise the first thing that is wrong."""
    if missing := weights_missing(weights):
        return missing
    folder = local_path(weights.address)
    problem = _problem(folder)
    return [Missing(f"{weights.option}: {folder} {problem}", f"correct the path, or fetch it again: {PULL}")] if problem else []


def _problem(folder: Path) -> str:
    """Empty, or what to say after the folder's name."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architecture = config["architectures"][0]
    except (OSError, ValueError, LookupError, TypeError):
        return "is no model folder: a config.json with `architectures` is expected"
    if not (folder / "tokenizer_config.json").is_file():
        return "has no tokenizer: tokenizer_config.json is expected"
    try:
        names = _weight_files(folder)
        if wrong := _wrong_hash(folder, names):
            return wrong
        return _other_shapes(folder, architecture, _shapes(folder, names))
    except (OSError, ValueError, LookupError, TypeError) as error:
        return f"cannot be read as {architecture}: {error}"


def _weight_files(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def _wrong_hash(folder: Path, names: list[str]) -> str:
    """The packaged models have their hash beside them in a file SHA256."""
    if not (folder / SHA256_FILE).is_file() or len(names) != 1:
        return ""
    expected, found = (folder / SHA256_FILE).read_text().strip(), sha256_of(folder / names[0])
    return f"is damaged: {names[0]} has SHA-256 {found}, its file {SHA256_FILE} says {expected}" if found != expected else ""


def _shapes(folder: Path, names: list[str]) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape, from the files' headers; raises ValueError for a file that is truncated or something else."""
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        try:
            with safe_open(folder / name, framework="numpy") as file:
                shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
        except SafetensorError as error:
            raise ValueError(f"{name} is truncated or no safetensors file ({error})") from None
    return shapes


def _other_shapes(folder: Path, architecture: str, found: dict[str, tuple[int, ...]]) -> str:
    """Compare with the model built on the meta device, where the transformers library knows it as a text model.

    Some architectures rename or fuse tensors when they are loaded, so half of the names must be there, and their shapes agree.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    if architecture not in CAUSAL.values():
        return (
            ""
            if architecture.endswith(("ForCausalLM", "ForConditionalGeneration"))
            else f"is no language model but {architecture}"
        )
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    common = [name for name in expected if name in found]
    if 2 * len(common) < len(expected):
        return f"is no {architecture}: {len(expected) - len(common)} of {len(expected)} tensors are missing"
    wrong = [name for name in common if expected[name] != found[name]]
    return (
        f"is no {architecture} of its config.json: {wrong[0]} has shape {found[wrong[0]]}, expected {expected[wrong[0]]}"
        if wrong
        else ""
    )
