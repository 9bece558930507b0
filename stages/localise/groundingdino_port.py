"""GroundingDINO through transformers' own port of it: a second backend, for checkpoints in the Hugging Face layout.

In: images and their words. Out: the boxes of all 900 queries with their word scores, those of `groundingdino` for the same
weights (tools/convert_groundingdino.py turns a published .pth into this layout). Pictures share a batch if their prompts have
equally many tokens, so that no text is padded, and are fused with their texts one by one: then batches change nothing.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from materia.base.weights.checkpoints import CheckpointError
from materia.base.weights.files import (
    Missing,
    Weights,
    check_address,
    identity_of,
    local_path,
    packages_missing,
    weights_missing,
)
from stages.backends import Detections, Detector
from stages.localise.grounding import Grounding, replaced
from stages.localise.pictures import normalise
from stages.localise.prompt import DetectorPrompt, load_tokenizer, phrase_mask, separator_ids
from stages.precision import autocast
from stages.records import EntityWord

PACKAGES = ("torch", "transformers")


class GroundingDinoPort(Detector):
    """GroundingDINO as transformers has it.

    `model` (see materia.base.weights): a folder with weights, configuration and tokenizer, such as that of
    IDEA-Research/grounding-dino-tiny. The other options are those of stages.localise.groundingdino.GroundingDino.
    """

    option_examples: ClassVar[dict[str, str]] = {"model": "hf://IDEA-Research/grounding-dino-tiny"}

    def __init__(
        self,
        model: str,
        dtype: str = "auto",
        batch_size: int = 6,
        compile: bool = False,
        max_words_per_prompt: int = 20,
        short_side_px: int = 800,
        long_side_px: int = 1333,
    ) -> None:
        check_address(model)
        self.grounding = Grounding(batch_size, max_words_per_prompt, short_side_px, long_side_px, dtype, pad_texts=False)
        self.folder = Weights("localise.options.model", model)
        self.dtype = dtype
        self.compile = compile
        self.model: Any = None
        self.tokenizer: Any = None

    def weights(self) -> list[Weights]:
        """The model's folder."""
        return [self.folder]

    def missing(self) -> list[Missing]:
        """Packages, the folder, or what keeps it from being a GroundingDINO."""
        absent = packages_missing(*PACKAGES, fix="make gpu")
        if absent := absent + weights_missing(self.folder):
            return absent
        try:
            _check(local_path(self.folder.address), identity_of(self.folder.address))
        except CheckpointError as error:
            return [Missing(f"localise.options.model: {error}", "give a folder like IDEA-Research/grounding-dino-tiny")]
        return []

    def identity(self) -> dict[str, str]:
        """Hash of the folder."""
        return {"weights": identity_of(self.folder.address)}

    def setup(self, device: str, threads: int) -> None:
        """Load the folder on `device`. Raises CheckpointError if it is no GroundingDINO."""
        import torch

        torch.set_num_threads(threads)
        self.device = device
        self.model, self.tokenizer = _load(local_path(self.folder.address))
        self.model.to(device)
        layers = self.model.model.encoder.layers
        if self.compile:
            for part in (self.model.model.backbone, *(layer.deformable_layer for layer in layers)):
                part.compile()
        for layer in layers:
            layer.fusion_layer.forward = functools.partial(_one_by_one, layer.fusion_layer.forward)

    def close(self) -> None:
        """Give the memory back."""
        self.model = self.tokenizer = None

    def detect(self, images: list[np.ndarray], words: list[list[EntityWord]]) -> list[Detections]:
        """Find the words of each image (H, W, 3) uint8 RGB: 900 boxes a prompt, scores (N, W)."""
        if self.model is None:
            raise RuntimeError("GroundingDinoPort.detect before setup")
        return self.grounding.detect(images, [[word.word for word in wanted] for wanted in words], self.tokenizer, self._run)

    def _run(self, pictures: list[np.ndarray], prompts: list[DetectorPrompt]) -> tuple[np.ndarray, np.ndarray]:
        """Pictures (h, w, 3) uint8 of one size, prompts of T tokens -> boxes (B, 900, 4), probabilities (B, 900, T)."""
        import torch
        from transformers.models.grounding_dino import modeling_grounding_dino as package

        repaired = {
            "generate_masks_with_special_tokens_and_transfer_map": functools.partial(
                _phrase_masks, prompts, separator_ids(self.tokenizer)
            ),
            "encode_sinusoidal_position_embedding": functools.partial(_sinusoids, package.encode_sinusoidal_position_embedding),
        }
        with (
            replaced(package, **repaired),
            torch.inference_mode(),
            autocast(self.dtype, self.device),
        ):
            ids = torch.tensor([prompt.ids for prompt in prompts]).to(self.device)  # (B, T)
            found = self.model(pixel_values=normalise(pictures, self.device), input_ids=ids)
            probabilities = found.logits[..., : ids.shape[1]].float().sigmoid()
            outputs = torch.cat([found.pred_boxes.float(), probabilities], dim=2).cpu().numpy()  # one way back from the device
        return outputs[..., :4], outputs[..., 4:]


def _phrase_masks(prompts: list[DetectorPrompt], separators: frozenset[int], input_ids: Any) -> tuple[Any, Any]:
    """Which tokens attend to which (B, T, T) bool, and places in the phrase (B, T) int64, as the network was trained.

    The port's own (transformers 5) gives the full stop behind each phrase the place 0, and knows separators by the ids of one
    vocabulary only.
    """
    import torch

    masks, places = zip(*(phrase_mask(prompt.ids, separators) for prompt in prompts), strict=True)
    return torch.from_numpy(np.stack(masks)).to(input_ids.device), torch.from_numpy(np.stack(places)).to(input_ids.device)


def _sinusoids(encode: Any, positions: Any, **settings: Any) -> Any:
    """Position embeddings of whole numbers too: the port (transformers 5) would cut them to whole numbers again."""
    return encode(positions.float(), **settings)


def _one_by_one(fuse: Any, vision_features: Any, text_features: Any, **masks: Any) -> Any:
    """The fusion layer for each picture alone: it shifts its logits by the maximum of all that it is given, and the last bit
    decides between nearly equal cells. Nothing is padded, so the masks are not needed; attention maps are not kept."""
    import torch

    fused = [fuse(vision_features[i : i + 1], text_features[i : i + 1]) for i in range(len(vision_features))]
    vision, text = (torch.cat([pair[side][0] for pair in fused]) for side in (0, 1))
    return (vision, None), (text, None)


@functools.lru_cache(maxsize=4)
def _check(folder: Path, _identity: str) -> None:
    """Raises CheckpointError unless the folder holds a GroundingDINO; looked at once a process."""
    _load(folder)


def _load(folder: Path) -> tuple[Any, Any]:
    """Network and tokenizer of a folder. Raises CheckpointError if they are not GroundingDINO's, or not all there."""
    from transformers import AutoConfig, GroundingDinoForObjectDetection

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type != "grounding-dino":
            raise CheckpointError(f"{folder} holds a {config.model_type}; expected a grounding-dino")
        model, info = GroundingDinoForObjectDetection.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except CheckpointError:
        raise
    except Exception as error:  # a broken folder shows itself in many ways: OSError, ValueError, SafetensorError
        raise CheckpointError(
            f"{folder} holds no GroundingDINO that can be loaded: {str(error).partition(chr(10))[0]}"
        ) from error
    unused = ("swin.layernorm.weight", "swin.layernorm.bias")
    faults = [*info["missing_keys"], *(fault[0] for fault in info["mismatched_keys"])]
    if faults := sorted(name for name in faults if not name.endswith(unused)):
        what = f"{folder} is no GroundingDINO of its configuration"
        raise CheckpointError(f"{what}: {len(faults)} tensors are missing or of another shape, e.g. {faults[0]}")
    return model.eval(), load_tokenizer(folder)
