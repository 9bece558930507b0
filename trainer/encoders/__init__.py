"""The frozen encoders of captions, reference images and videos, found by name.

In: encoders.{text,image,video} of the configuration. Out: objects of the protocols in trainer/encoders/base.py, built (cheap),
asked what is missing, and loaded (materia/base/backends.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from materia.base.backends import build_backend
from materia.base.weights.files import Missing, Weights
from trainer.config import EncoderSettings, EncodersSettings
from trainer.encoders.base import Encoder, ImageEncoder, TextEncoder, VideoAutoencoder
from trainer.encoders.folders import require

BACKENDS: dict[str, dict[str, str]] = {
    "text": {
        "minilm": "trainer.encoders.text:MiniLM",
        "t5": "trainer.encoders.text:T5",
    },
    "image": {
        "efficientnet": "trainer.encoders.efficientnet:EfficientNet",
        "dinov2": "trainer.encoders.vit:Dinov2",
        "clip": "trainer.encoders.vit:Clip",
    },
    "video": {
        "patches": "trainer.encoders.patches:Patches",
        "small": "trainer.encoders.small:Small",
        "cogvideox": "trainer.encoders.cogvideox:CogVideoX",
    },
}
"""kind -> short name -> import path."""


@dataclass(frozen=True)
class Encoders:
    """The three encoders of a run; `max_text_tokens`: longer captions are cut."""

    text: TextEncoder
    image: ImageEncoder
    video: VideoAutoencoder
    max_text_tokens: int

    def setup(self, device: str) -> None:
        """Load all three on a torch device. Raises TrainError naming what is missing or cannot be loaded."""
        require(self.missing())
        for encoder in self._all().values():
            encoder.setup(device)

    def weights(self) -> list[Weights]:
        """Files of all three that `materia models pull` can fetch."""
        return [weights for encoder in self._all().values() for weights in encoder.weights()]

    def missing(self) -> list[Missing]:
        """What this machine lacks for any of the three."""
        return [missing for encoder in self._all().values() for missing in encoder.missing()]

    def identity(self) -> dict[str, Any]:
        """kind -> the encoder's identity, and the cut of captions; equal if and only if outputs are. Needs the weights."""
        identities: dict[str, Any] = {kind: encoder.identity() for kind, encoder in self._all().items()}
        return {**identities, "max_text_tokens": self.max_text_tokens}

    def _all(self) -> dict[str, Encoder]:
        return {"text": self.text, "image": self.image, "video": self.video}


def build_encoders(settings: EncodersSettings) -> Encoders:
    """Construct the three encoders; loads nothing. Raises BackendError for a name or option that none has."""
    return Encoders(
        text=build("text", settings.text),
        image=build("image", settings.image),
        video=build("video", settings.video),
        max_text_tokens=settings.max_text_tokens,
    )


def build(kind: str, settings: EncoderSettings) -> Any:
    """Import and construct the encoder of a kind: "text", "image" or "video". Raises BackendError, naming the nearest name."""
    return build_backend(f"encoders.{kind}", settings.backend, settings.options, BACKENDS[kind])
