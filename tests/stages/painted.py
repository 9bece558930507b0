"""A world of red figures on green: samples, a detector that measures how much red there is, and inpainters of one colour.

Real backends of the stage's protocols, named by import path as a user's are; they make it plain what a stage does with scores.
"""

import io

import numpy as np
from PIL import Image

from stages.backends import Detections, Detector, Inpainter
from stages.images import encode_mask
from stages.records import Clip, EntityWord, Frame, Instance, Sample

SIZE = (96, 128)
RED, GREEN = (220, 30, 30), (40, 160, 60)
RED_ALL_OVER = 400
"""Pixels of red that are worth a score of 1."""


class RedDetector(Detector):
    """Every subject is as present as red pixels are many. `calls` counts the pictures of each call."""

    def __init__(self):
        self.calls = []

    def detect(self, images, words):
        self.calls.append(len(images))
        return [self._one(image, len(wanted)) for image, wanted in zip(images, words, strict=True)]

    def _one(self, image, n_words):
        red = (image[..., 0] > 150) & (image[..., 1] < 100)
        score = min(1.0, red.sum() / RED_ALL_OVER)
        return Detections(np.array([[0, 0, 9, 9]], np.float32), np.full((1, n_words), score, np.float32))


class Filler(Inpainter):
    """Fills every hole with one colour. `calls` counts the pictures of each call."""

    method = "filler"

    def __init__(self, colour=GREEN):
        self.colour = colour
        self.calls = []

    def inpaint(self, images, masks, prompts):
        self.calls.append(len(images))
        return [np.full_like(image, self.colour) for image in images]


def figure_sample(row=0, place=(30, 40), height=30, width=24, rim=0, size=SIZE):
    """A red figure at `place` (top, left) in the middle frame, whose mask misses a rim of so many pixels all around it."""
    picture = np.full((*size, 3), GREEN, np.uint8)
    top, left = place
    picture[top : top + height, left : left + width] = RED
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=95, subsampling=0)
    mask = np.zeros(size, bool)
    mask[top + rim : top + height - rim, left + rim : left + width - rim] = True
    caption = "figure in a meadow"
    instance = Instance(
        word="figure",
        category="subject",
        frame=1,
        box_xyxy_px=(0.0, 0.0, 1.0, 1.0),
        detector_score=0.7,
        mask_rle=encode_mask(mask),
        mask_score=0.9,
        area_share=float(mask.mean()),
        crop_xyxy_px=(0, 0, 1, 1),
        png=b"",
    )
    return Sample(
        clip=Clip(row=row, key=f"k{row}", source_id="s", uri="a.mp4", caption=caption),
        entities=[
            EntityWord(word="figure", category="subject", spans=[(0, 6)]),
            EntityWord(word="meadow", category="background", spans=[(12, 18)]),
        ],
        frames=[Frame(percent=p, index=i, time_s=float(i), jpeg=out.getvalue()) for i, p in enumerate((5, 50, 95))],
        instances=[instance],
    )
