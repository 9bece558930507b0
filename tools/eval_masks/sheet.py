"""The worst masks as a picture: the scene with the box it was asked with, the mask pasted and the mask found.

In: scenes and results. Out: a PNG. Green: in both; red: found, but not there; blue: there, but not found.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tools.eval_masks.scenes import Part, Scene
from tools.eval_masks.score import Result

WORST = 24
COLUMNS = 4
CELL_PX = 320, 200
"""Width and height of one scene on the sheet; below it, a line of text."""
TEXT_PX = 20
RIGHT, WRONG, MISSED = (40, 200, 80), (230, 40, 40), (40, 90, 240)


def draw(path: Path, scenes: list[Scene], results: list[Result]) -> None:
    """Draw those with the least IoU, the worst first."""
    worst = sorted(results, key=lambda result: (result.iou, result.scene))[:WORST]
    cells = [_cell(scenes[result.scene], result) for result in worst]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % COLUMNS)
    rows = [np.hstack(cells[start : start + COLUMNS]) for start in range(0, len(cells), COLUMNS)]
    encoded, data = cv2.imencode(".png", np.vstack(rows)[..., ::-1])
    if encoded:
        path.write_bytes(data.tobytes())


def _cell(scene: Scene, result: Result) -> np.ndarray:
    [part] = [part for part in scene.parts if part.role == result.role]
    picture = _marked(scene.picture, part, result)
    width, height = CELL_PX
    scale = min(width / picture.shape[1], height / picture.shape[0])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:height, :width]
    cell = np.full((height + TEXT_PX, width, 3), 255, np.uint8)
    cell[: small.shape[0], : small.shape[1]] = small
    said = f"{result.scene} {result.role} {result.kind} IoU {result.iou:.2f} score {result.score:.2f}"
    cv2.putText(cell, said, (3, height + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return cell


def _marked(picture: np.ndarray, part: Part, result: Result) -> np.ndarray:
    found = np.zeros_like(part.mask) if result.mask is None else result.mask
    marked = picture.astype(np.float32)
    for colour, where in ((RIGHT, found & part.mask), (WRONG, found & ~part.mask), (MISSED, ~found & part.mask)):
        marked[where] = 0.5 * marked[where] + 0.5 * np.array(colour)
    drawn = np.ascontiguousarray(marked.astype(np.uint8))
    x1, y1, x2, y2 = (round(side) for side in part.box_xyxy_px)
    cv2.rectangle(drawn, (x1, y1), (x2 - 1, y2 - 1), (255, 220, 0), 1)
    return drawn
