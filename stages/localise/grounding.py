"""What both GroundingDINO backends share: from images and words to batches for the model, and from its outputs to detections.

In: images, words, and a function that runs the model on pictures of one size. Out: all queries' boxes and their word scores.
A batch holds pictures of one size whatever clips they come from; nothing in it depends on which pictures share it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from stages.backends import Detections
from stages.batching import Batches
from stages.localise.pictures import has_enough_cells, network_size, resize, to_pixels
from stages.localise.prompt import DetectorPrompt, make_prompts, word_scores
from stages.precision import check_dtype

SMALLEST_SIDE_PX = 224
"""A square of this side has a feature cell for each of the model's 900 queries; a smaller one has not."""

Item = tuple[int, DetectorPrompt]
"""Index of an image and one of its prompts."""
Run = Callable[[list[np.ndarray], list[DetectorPrompt]], tuple[np.ndarray, np.ndarray]]
"""Pictures (h, w, 3) uint8 of one size and a prompt each -> boxes (B, 900, 4) float32, centre and size as shares of the picture
of width and height, and probabilities (B, 900, T) float32 of the longest prompt's T tokens."""


class Grounding:
    """The settings of a detection and the words' way into the model and back. Raises ValueError for settings that cannot be.

    `pad_texts`: the model takes prompts of different lengths in one batch.
    """

    def __init__(
        self,
        batch_size: int,
        max_words_per_prompt: int,
        short_side_px: int,
        long_side_px: int,
        dtype: str,
        pad_texts: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size}: at least 1 picture")
        if max_words_per_prompt < 1:
            raise ValueError(f"max_words_per_prompt = {max_words_per_prompt}: at least 1 word")
        if not SMALLEST_SIDE_PX <= short_side_px <= long_side_px:
            sides = f"short_side_px = {short_side_px}, long_side_px = {long_side_px}"
            raise ValueError(f"{sides}: at least {SMALLEST_SIDE_PX}, and the short side not longer than the long one")
        check_dtype(dtype)
        self.batches = Batches("localise.options.batch_size", batch_size)
        self.max_words = max_words_per_prompt
        self.sides = short_side_px, long_side_px
        self.pad_texts = pad_texts

    def detect(self, images: list[np.ndarray], words: list[list[str]], tokenizer: Any, run: Run) -> list[Detections]:
        """Boxes (900 times the prompts, 4) and scores (same, W) of each image (H, W, 3) uint8 RGB and its W words.

        Without boxes for an image without words, or so narrow that the network has fewer cells than queries.
        """
        known: dict[tuple[str, ...], list[DetectorPrompt]] = {}  # the frames of a clip ask for the same words
        groups: dict[tuple[tuple[int, int], int], list[Item]] = {}  # of one picture size, and one prompt length if need be
        for index, (image, wanted) in enumerate(zip(images, words, strict=True)):
            key = tuple(wanted)
            if key not in known:
                known[key] = make_prompts(wanted, tokenizer, self.max_words)
            size = network_size((image.shape[0], image.shape[1]), *self.sides)
            for prompt in known[key] if has_enough_cells(size) else []:
                groups.setdefault((size, 0 if self.pad_texts else len(prompt.ids)), []).append((index, prompt))
        boxes: list[list[np.ndarray]] = [[np.zeros((0, 4), np.float32)] for _ in images]
        scores: list[list[np.ndarray]] = [[np.zeros((0, len(wanted)), np.float32)] for wanted in words]
        for (size, _), items in groups.items():
            found = self.batches.run(items, functools.partial(_run, images=images, size=size, run=run))
            for (index, prompt), (shares, probabilities) in zip(items, found, strict=True):
                boxes[index].append(to_pixels(shares, images[index].shape[:2]))
                scores[index].append(word_scores(probabilities, prompt, len(words[index])))
        return [Detections(np.concatenate(own), np.concatenate(of)) for own, of in zip(boxes, scores, strict=True)]


def _run(
    batch: Sequence[Item], images: list[np.ndarray], size: tuple[int, int], run: Run
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Boxes (900, 4) and probabilities (900, T) of each item."""
    pictures = {index: resize(images[index], size) for index, _ in batch}
    boxes, probabilities = run([pictures[index] for index, _ in batch], [prompt for _, prompt in batch])
    return list(zip(boxes, probabilities, strict=True))


@contextlib.contextmanager
def replaced(module: ModuleType, **names: Any) -> Iterator[None]:
    """Other values for names of a module, for as long as the context lasts: where a package cannot be told otherwise."""
    old = {name: getattr(module, name) for name in names}
    try:
        for name, value in names.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in old.items():
            setattr(module, name, value)
