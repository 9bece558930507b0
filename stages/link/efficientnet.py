"""The look of a box by a small network and by its colours: EfficientNet-Lite0 out of a package, on the CPU.

In: pictures and boxes. Out: a description of each. Colours alone take a change of light for another person; the network knows
shapes and patterns and does not mind, but forgets what a thing's colours are. Measured in docs/data-quality.md.
"""

from __future__ import annotations

import numpy as np

from materia.base.weights.efficientnet_lite import CHANNELS, EfficientNetLite0, network_missing, network_sha256
from materia.base.weights.files import Missing
from stages.backends import Recogniser
from stages.link.colours import colours
from stages.link.crops import crop

OPTION = "link.backend"
BLOCKS = (7, 10, 14)
"""Whose outputs, averaged over the box, describe it: what it is made of and what it is."""
SIDE_PX = 96
"""Of the square that a box is stretched to; at 160 px it tells no more, at three times the cost."""
COLOURS_SHARE = 0.25
"""Of the dot product; more is less right where the light changes."""


class EfficientNet(Recogniser):
    """The packaged network beside colours; it runs on the CPU whatever the device."""

    alike = (0.4, 0.75)

    def __init__(self) -> None:
        self.network: EfficientNetLite0 | None = None

    def missing(self) -> list[Missing]:
        """The packages, or what is wrong with the weights in them."""
        return network_missing(OPTION)

    def identity(self) -> dict[str, str]:
        """SHA-256 of the weights."""
        return {"weights": network_sha256()}

    def setup(self, device: str, threads: int) -> None:
        """Load the network."""
        import torch

        torch.set_num_threads(threads)
        self.network = EfficientNetLite0("cpu")

    def close(self) -> None:
        """Drop the network."""
        self.network = None

    def describe(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[np.ndarray]:
        """See stages.backends.Recogniser; D = that of colours + channels of BLOCKS."""
        of_colours, of_network = COLOURS_SHARE**0.5, (1 - COLOURS_SHARE) ** 0.5
        return [
            np.concatenate([of_colours * colours(image, own), of_network * self._features(image, own)], axis=1)
            for image, own in zip(images, boxes, strict=True)
        ]

    def _features(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """(N, channels) float32 of length 1."""
        import torch

        if self.network is None:
            raise RuntimeError("EfficientNet.describe before setup")
        if not len(boxes):
            return np.zeros((0, sum(CHANNELS[block] for block in BLOCKS)), np.float32)
        crops = np.stack([crop(image, box, (SIDE_PX, SIDE_PX)) for box in boxes])
        with torch.inference_mode():
            pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float()  # (N, 3, SIDE_PX, SIDE_PX)
            levels = self.network.levels(pixels, BLOCKS)
            found = torch.cat([level.mean(dim=(2, 3)) for level in levels], dim=1)
            features: np.ndarray = torch.nn.functional.normalize(found, dim=1).numpy()
        return features
