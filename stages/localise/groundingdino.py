"""GroundingDINO (Liu et al., arXiv 2303.05499) through the package groundingdino-py: boxes for any words.

In: images and their words. Out: the boxes of all 900 queries with their word scores. The checkpoint is the published .pth (or
one of its shape), and holds the text encoder's weights too: of the BERT folder only configuration and tokenizer are read.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from materia.base.weights.checkpoints import CheckpointError, load_state_dict, mismatch
from materia.base.weights.files import (
    Missing,
    Weights,
    check_address,
    identity_of,
    local_path,
    packages_missing,
    sha256_of,
    weights_missing,
)
from stages.backends import Detections, Detector
from stages.localise.grounding import Grounding
from stages.localise.groundingdino_model import ARCHITECTURES
from stages.localise.pictures import normalise
from stages.localise.prompt import DetectorPrompt, load_tokenizer
from stages.precision import autocast
from stages.records import EntityWord

PACKAGES = ("torch", "torchvision", "transformers", "groundingdino")
UNUSED = {"label_enc.weight", "bert.embeddings.position_ids"}
"""Tensors of the published files that only training, or an older BERT, had a use for."""


class GroundingDino(Detector):
    """GroundingDINO Swin-T or Swin-B.

    `checkpoint` and `text_encoder` (see materia.base.weights): the .pth file, and a folder of BERT in the Hugging Face layout
    that fits it (published: bert-base-uncased). `architecture`: swin_t or swin_b. `dtype`: see stages.precision. `batch_size`:
    pictures of a forward pass. `compile`: backbone and encoder layers through torch.compile. `max_words_per_prompt`: long
    prompts find fewer boxes and merge labels (method), so more words are asked for in further passes. `short_side_px`,
    `long_side_px`: size of the pictures in the network (method: 800, at most 1333).
    """

    option_examples: ClassVar[dict[str, str]] = {
        "checkpoint": "hf://ShilongLiu/GroundingDINO/groundingdino_swint_ogc.pth",
        "text_encoder": "hf://google-bert/bert-base-uncased",
    }

    def __init__(
        self,
        checkpoint: str,
        text_encoder: str,
        sha256: str | None = None,
        architecture: str = "swin_t",
        dtype: str = "auto",
        batch_size: int = 6,
        compile: bool = False,
        max_words_per_prompt: int = 20,
        short_side_px: int = 800,
        long_side_px: int = 1333,
    ) -> None:
        check_address(checkpoint)
        check_address(text_encoder)
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, not {architecture!r}")
        self.grounding = Grounding(batch_size, max_words_per_prompt, short_side_px, long_side_px, dtype)
        self.architecture = architecture
        self.checkpoint = Weights("localise.options.checkpoint", checkpoint, sha256)
        self.text_encoder = Weights("localise.options.text_encoder", text_encoder)
        self.dtype = dtype
        self.compile = compile
        self.model: Any = None

    def weights(self) -> list[Weights]:
        """The checkpoint and the folder of its text encoder."""
        return [self.checkpoint, self.text_encoder]

    def missing(self) -> list[Missing]:
        """Packages, the checkpoint, the text encoder's folder, or what keeps them from being one network."""
        absent = packages_missing(*PACKAGES, fix="make gpu")
        for weights in self.weights():
            absent += weights_missing(weights)
        if absent:
            return absent
        path, folder = local_path(self.checkpoint.address), local_path(self.text_encoder.address)
        try:
            _check(self.architecture, path, sha256_of(path), folder)
        except CheckpointError as error:
            what = f"{self.checkpoint.option}: {error} (wanted: a checkpoint of GroundingDINO {self.architecture})"
            return [Missing(what, "correct localise.options checkpoint, text_encoder and architecture: they belong together")]
        return []

    def identity(self) -> dict[str, str]:
        """Hashes of checkpoint and text encoder."""
        return {"weights": identity_of(self.checkpoint.address), "text_encoder": identity_of(self.text_encoder.address)}

    def setup(self, device: str, threads: int) -> None:
        """Build the network on `device`. Raises CheckpointError if its parts do not fit."""
        import torch

        torch.set_num_threads(threads)
        self.device = device
        self.model, state = _network(
            self.architecture, local_path(self.checkpoint.address), local_path(self.text_encoder.address)
        )
        self.model.load_state_dict({name: tensor for name, tensor in state.items() if name not in UNUSED})
        self.model.requires_grad_(False).to(device)
        if self.compile:
            for part in (self.model.backbone[0], *self.model.transformer.encoder.layers):
                part.compile()

    def close(self) -> None:
        """Give the memory back."""
        self.model = None

    def detect(self, images: list[np.ndarray], words: list[list[EntityWord]]) -> list[Detections]:
        """Find the words of each image (H, W, 3) uint8 RGB: 900 boxes a prompt, scores (N, W)."""
        if self.model is None:
            raise RuntimeError("GroundingDino.detect before setup")
        return self.grounding.detect(
            images, [[word.word for word in wanted] for wanted in words], self.model.tokenizer, self._run
        )

    def _run(self, pictures: list[np.ndarray], prompts: list[DetectorPrompt]) -> tuple[np.ndarray, np.ndarray]:
        """Pictures (h, w, 3) uint8 of one size -> boxes (B, 900, 4), probabilities (B, 900, T), float32."""
        import torch

        from stages.localise.groundingdino_model import forward

        with torch.inference_mode(), autocast(self.dtype, self.device):
            boxes, logits = forward(self.model, normalise(pictures, self.device), prompts)
            outputs = torch.cat([boxes.float(), logits.float().sigmoid()], dim=2).cpu().numpy()  # one way back from the device
        return outputs[..., :4], outputs[..., 4:]


@functools.lru_cache(maxsize=4)
def _check(architecture: str, checkpoint: Path, _sha256: str, text_encoder: Path) -> None:
    """Raises CheckpointError unless the checkpoint is one of this network; looked at once a process."""
    _network(architecture, checkpoint, text_encoder)


def _network(architecture: str, checkpoint: Path, text_encoder: Path) -> tuple[Any, dict[str, Any]]:
    """The network with random weights, and the checkpoint's tensors, which fit it. Raises CheckpointError if they do not."""
    from stages.localise.groundingdino_model import build

    state = load_state_dict(checkpoint)
    model = build(architecture, text_encoder, load_tokenizer(text_encoder))
    expected = model.state_dict()
    what = f"GroundingDINO {architecture} with the text encoder {text_encoder}"
    if fault := mismatch(checkpoint, state, expected, what):
        raise CheckpointError(fault)
    if unknown := sorted(state.keys() - expected.keys() - UNUSED):
        raise CheckpointError(f"{checkpoint} is no {what}: {len(unknown)} tensors have no place in it, e.g. {unknown[0]}")
    return model, state
