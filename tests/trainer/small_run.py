"""Training that takes a second: a few real clips, the tiny model, encoders without weights. As a program, it trains."""

import re
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import TrainConfig
from trainer.encoders.base import EncodedText
from trainer.errors import TrainError
from trainer.run.loop import TrainResult, train

SECONDS = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 0.5, 0.6]
"""Lengths of the clips that tests train on (real_clips.make_real_output)."""


class Encoder:
    def setup(self, device: str) -> None: ...

    def weights(self) -> list[Any]:
        return []

    def missing(self) -> list[Any]:
        return []

    def identity(self) -> dict[str, str]:
        return {"name": type(self).__name__}


class Words(Encoder):
    """A random but fixed vector for each word."""

    width = 24

    def encode(self, captions: Sequence[str], max_tokens: int) -> list[EncodedText]:
        encoded = []
        for caption in captions:
            words = list(re.finditer(r"\S+", caption))[:max_tokens]
            tokens = [torch.randn(self.width, generator=_seeded(zlib.crc32(word[0].encode()))) for word in words]
            encoded.append(EncodedText(torch.stack(tokens), torch.tensor([word.span() for word in words])))
        return encoded


class Colours(Encoder):
    """Each quarter of a picture, shrunk to 2 x 2 pixels."""

    width, tokens = 12, 4

    def encode(self, images: Tensor) -> Tensor:
        small = F.adaptive_avg_pool2d(images.permute(0, 3, 1, 2).float() / 127.5 - 1, 4)  # (B, 3, 4, 4)
        return F.unfold(small, 2, stride=2).transpose(1, 2)  # (B, 4, 12)


def config(**sections: dict[str, Any]) -> TrainConfig:
    """Four clips of 4 frames a step; fields of sections replace these."""
    base: dict[str, dict[str, Any]] = {
        "encoders": {"text": {"backend": "small_run:Words"}, "image": {"backend": "small_run:Colours"}},
        "data": {
            "fps": 12,
            "validation": 2,
            "reference_px": 32,
            "workers": 0,
            "buckets": [{"frames": 4, "height": 32, "width": 32, "batch": 4}],
        },
        "optimiser": {"lr": 0.002, "clip": 1.0, "warmup_steps": 2},
        "stage": {"steps": 4},
        "run": {"threads": 1, "device": "cpu"},
        "log": {"every": 1},
        "checkpoint": {"every": 100},
    }
    for name, values in sections.items():
        base[name] = base.get(name, {}) | values
    return TrainConfig.model_validate(base)


def run(out: str, folder: Path, **sections: dict[str, Any]) -> TrainResult:
    return train(config(**sections), shards=out, output=str(folder), say=lambda text: None)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


if __name__ == "__main__":
    shards, output, given = sys.argv[1:]
    try:
        sys.exit(train(TrainConfig.model_validate_json(given), shards=shards, output=output).exit_code)
    except TrainError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
