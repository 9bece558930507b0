"""What a frozen encoder must be: captions, reference images and videos in, tensors out.

Constructors are cheap and check their options (ValueError); `setup` loads. `missing()` says before a run what is not on this
machine, each with the command that helps; `identity()` goes into caches and runs, so that nothing is mixed up. All outputs are
on the encoder's device, without gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from materia.base.weights.files import Missing, Weights


class EncodedText(NamedTuple):
    """A caption: `tokens` (L, width) and `offsets` (L, 2) int64, each token's characters (code points), (0, 0) if special."""

    tokens: Tensor
    offsets: Tensor


class Moments(NamedTuple):
    """Latents (B, C, T, H, W) of about unit variance, as a normal distribution; `std` None: the encoder is deterministic."""

    mean: Tensor
    std: Tensor | None


class Encoder(Protocol):
    """Common to the three kinds."""

    def setup(self, device: str) -> None:
        """Load the weights on a torch device, frozen."""
        ...

    def weights(self) -> list[Weights]:
        """Files that `materia models pull` can fetch; none for encoders whose weights come with a package."""
        ...

    def missing(self) -> list[Missing]:
        """What this machine lacks; loads nothing heavy."""
        ...

    def identity(self) -> dict[str, str]:
        """Name, options that matter, and hash of the weights: equal if and only if outputs are."""
        ...


class TextEncoder(Encoder, Protocol):
    """Captions to tokens."""

    width: int  # channels of a token; known before setup

    def encode(self, captions: Sequence[str], max_tokens: int) -> list[EncodedText]:
        """Each caption cut to at most `max_tokens` tokens, unpadded; its result does not depend on the others."""
        ...


class ImageEncoder(Encoder, Protocol):
    """Reference images to tokens."""

    width: int
    tokens: int  # of an image

    def encode(self, images: Tensor) -> Tensor:
        """(B, side, side, 3) uint8 RGB -> (B, tokens, width); resizes to its own input size; B may be 0."""
        ...


class VideoAutoencoder(Encoder, Protocol):
    """Videos to latents and back."""

    channels: int  # of the latents

    def latent_size(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a clip. Raises ValueError, naming what would do, for sizes that do not divide."""
        ...

    def encode(self, videos: Tensor) -> Moments:
        """(B, T, H, W, 3) uint8 RGB -> latents."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, T', H', W') float -> (B, T, H, W, 3) uint8 RGB."""
        ...
