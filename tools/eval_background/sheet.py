"""A picture of every walker: the frame of record, the background, the truth.

In: an output, the folder of walkers, their scores. Out: a PNG.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from tools.eval_background.score import MIDDLE, WalkerScore, read_truth, read_walkers, samples_of

CELL = (426, 240)
"""Width and height of a picture."""
TITLE_PX = 14


def draw_sheet(out: str, folder: Path, scores: Sequence[WalkerScore], target: str) -> None:
    """Write the sheet, the worst walkers first, two in a row; the true mask is outlined. Raises OutputError, UserError."""
    walkers = read_walkers(folder)
    samples = samples_of(out, walkers)
    strips = []
    for one in sorted((one for one in scores if one.id in samples), key=lambda one: one.psnr):
        plain, mask = read_truth(folder, walkers[one.id])
        sample = samples[one.id]
        outline = mask & ~(cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
        frame = sample.frames[MIDDLE].copy()
        frame[outline] = (255, 0, 0)
        cells = [cv2.resize(picture, CELL, interpolation=cv2.INTER_AREA) for picture in (frame, sample.background, plain)]
        strip = Image.fromarray(np.pad(np.hstack(cells), ((TITLE_PX, 0), (0, 0), (0, 0))))
        title = f"{one.id} {one.gait}, {one.camera}: {one.psnr:.1f} dB, SSIM {one.ssim:.2f}; frame, background, truth"
        ImageDraw.Draw(strip).text((4, 1), title, fill="white")
        strips.append(np.asarray(strip))
    if len(strips) % 2:
        strips.append(np.zeros_like(strips[0]))
    rows = [np.hstack(strips[number : number + 2]) for number in range(0, len(strips), 2)]
    Image.fromarray(np.vstack(rows)).save(target, "PNG")
