"""Models without weights, for a job that runs the real stages somewhere else; a test copies them to where it wants them."""

import json
import os
import time
from pathlib import Path

import numpy as np

from stages.backends import Detections, Detector, LanguageModel, Masks, Segmenter


class Words(LanguageModel):
    """Whatever a caption names is an animal. A caption with "[gate]" waits for the file of the variable GATE."""

    def generate(self, requests):
        for request in requests:
            if "[gate]" in request.messages[-1]["content"]:
                Path(os.environ["GATE"]).with_suffix(".here").touch()
                while not Path(os.environ["GATE"]).exists():
                    time.sleep(0.05)
        return [json.dumps(dict.fromkeys(request.json_schema["required"], "animal")) for request in requests]


class Left(Detector):
    """The left half of a picture, for every word."""

    def detect(self, images, words):
        return [
            Detections(
                np.array([[0, 0, image.shape[1] // 2, image.shape[0]]], np.float32), np.full((1, len(wanted)), 0.9, np.float32)
            )
            for image, wanted in zip(images, words, strict=True)
        ]


class Box(Segmenter):
    """Everything in a box."""

    def segment(self, images, boxes):
        return [self._one(image, wanted) for image, wanted in zip(images, boxes, strict=True)]

    def _one(self, image, boxes):
        masks = np.zeros((len(boxes), *image.shape[:2]), bool)
        for mask, box in zip(masks, boxes, strict=True):
            x0, y0, x1, y1 = (round(value) for value in box.box_xyxy_px)
            mask[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2] = True
        return Masks(masks, np.full(len(boxes), 0.95, np.float32))
