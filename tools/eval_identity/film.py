"""Two clips as one video, side by side.

In: a pair, and how it is to be shown. Out: pictures for the encoder, left | right, each half square. Variants make it harder:
`moving`: each half's camera pans and zooms slowly, opposite ways; `mirrored`: the right half is mirrored left to right;
`passer`: somebody else walks across both halves, in front of everyone, there between the first and the second frame of record
and back between the second and the third: on none of them, but over everything that is followed from one to the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Literal, NamedTuple

import cv2
import numpy as np

import materia
from materia.base.errors import UserError
from stages.localise.vocabulary import is_human
from stages.video import frames_at, local_copy, open_video
from tools.eval_identity.pairs import Half, Pair

Variant = Literal["plain", "moving", "mirrored", "passer"]
SIDE_PX = 360
"""Of a half."""
FPS = 25
HEADROOM = 0.25
"""Of what is cut away of an upright picture, the share above: heads are in its upper part."""
MIN_ZOOM, MAX_ZOOM = 0.75, 0.9
"""Side of a moving camera's window, as a share of the half that a still camera would see."""
PASSES = ((0.07, 0.48), (0.52, 0.93))
"""When somebody passes, shares of the duration; frames of record are at 0.05, 0.5 and 0.95."""
PASSER_SHARE = 0.85
"""Height of who passes / height of the picture."""
MIN_CUTOUT_PX, UPRIGHT = 100, 1.2
"""Least height of a cut-out of somebody, and height / width."""
_CUTOUT_SAMPLES = 200  # of an output that are looked through for cut-outs
_AT_ONCE = 50  # pictures that are held in memory, a half


class Cutout(NamedTuple):
    """Somebody who can pass: `rgba` (H, W, 4) uint8, and the key of the clip that shows them."""

    key: str
    rgba: np.ndarray


class View(NamedTuple):
    """A camera's window: its side as a share of the picture's, and where in what is left beside it, 0 (left, top) to 1."""

    x: float
    y: float
    zoom: float


class Camera(NamedTuple):
    """It goes straight and evenly from one view to another."""

    start: View
    end: View

    def at(self, share: float) -> View:
        """Where it looks after that share of the duration."""
        return View(*(a + (b - a) * share for a, b in zip(self.start, self.end, strict=True)))


def cutouts_of(out: str) -> list[Cutout]:
    """Of each sample of an output the tallest person who stands upright. Raises OutputError, UserError if there is none."""
    found: list[Cutout] = []
    for sample in islice(materia.open_dataset(out), _CUTOUT_SAMPLES):
        people = [
            rgba
            for instance, rgba in zip(sample.document.instances, sample.references, strict=True)
            if not instance.is_face and is_human(instance.word, instance.category)
        ]
        upright = [rgba for rgba in people if rgba.shape[0] >= max(MIN_CUTOUT_PX, UPRIGHT * rgba.shape[1])]
        if upright:
            found.append(Cutout(sample.key, max(upright, key=len)))
    if not found:
        raise UserError(f"{out} has no reference of an upright person of {MIN_CUTOUT_PX} px or more; give another output")
    return found


def side_by_side(pair: Pair, variant: Variant, rng: np.random.Generator, cutouts: list[Cutout]) -> Iterator[np.ndarray]:
    """Pictures (SIDE_PX, 2 SIDE_PX, 3) uint8 RGB, FPS a second, for as long as the shorter clip lasts.

    `cutouts`: for `passer`, of whom one is chosen that is in neither clip. Raises VideoError, UserError if all are.
    """
    times_s = np.arange(int(min(half.duration_s for half in pair) * FPS)) / FPS
    moving = cameras(rng) if variant == "moving" else None
    passer = _passer(pair, rng, cutouts) if variant == "passer" else None
    side = round(SIDE_PX / MIN_ZOOM) if moving else SIDE_PX
    halves = [_pictures(half, times_s, side) for half in pair]
    for share, left, right in zip(np.linspace(0, 1, len(times_s)), *halves, strict=True):
        if moving:
            whole = np.hstack([_seen(left, moving[0].at(share)), _seen(right, moving[1].at(share))])
        else:
            whole = np.hstack([left, right[:, ::-1] if variant == "mirrored" else right])
        if passer is not None:
            _walk(whole, passer, share)
        yield whole


def _pictures(half: Half, times_s: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """(side, side, 3) uint8 RGB at each time."""
    clip = half.clip
    with local_copy(clip.address) as path, open_video(path, clip.start_s, clip.end_s) as video:
        for first in range(0, len(times_s), _AT_ONCE):
            some = [float(time) for time in times_s[first : first + _AT_ONCE]]
            yield from frames_at(video, some, fit=lambda picture: square(picture, side)).frames


def square(picture: np.ndarray, side: int) -> np.ndarray:
    """The largest square of a picture (H, W, 3): its middle across, near its top if it is upright; scaled to `side` pixels."""
    height, width = picture.shape[:2]
    own = min(height, width)
    top, left = round((height - own) * HEADROOM), (width - own) // 2
    method = cv2.INTER_AREA if own > side else cv2.INTER_CUBIC
    scaled: np.ndarray = cv2.resize(picture[top : top + own, left : left + own], (side, side), interpolation=method)
    return scaled


def cameras(rng: np.random.Generator) -> tuple[Camera, Camera]:
    """From one corner towards the opposite one, the two in opposite directions, each with a zoom of its own."""
    x, y = (float(rng.choice((0.0, 1.0)) * 0.75 + rng.uniform(0, 0.25)) for _ in "xy")
    zooms = rng.uniform(MIN_ZOOM, MAX_ZOOM, (2, 2))
    left = Camera(View(x, y, zooms[0, 0]), View(1 - x, 1 - y, zooms[0, 1]))
    right = Camera(View(1 - x, y, zooms[1, 0]), View(x, 1 - y, zooms[1, 1]))
    return left, right


def _seen(picture: np.ndarray, view: View) -> np.ndarray:
    """What a camera sees of a square picture, (SIDE_PX, SIDE_PX, 3); without a jump from one pixel to the next."""
    side = len(picture)
    scale = SIDE_PX / (view.zoom * side)
    room = side * (1 - view.zoom)
    matrix = np.array([[scale, 0, -scale * view.x * room], [0, scale, -scale * view.y * room]])
    seen: np.ndarray = cv2.warpAffine(
        picture, matrix, (SIDE_PX, SIDE_PX), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return seen


def _passer(pair: Pair, rng: np.random.Generator, cutouts: list[Cutout]) -> np.ndarray:
    """(PASSER_SHARE SIDE_PX, W, 4) uint8 RGBA."""
    others = [cutout for cutout in cutouts if cutout.key not in {half.clip.key for half in pair}]
    if not others:
        raise UserError("the cut-outs show only people of the pair itself; give an output with more samples as --cutouts")
    rgba = others[int(rng.integers(len(others)))].rgba
    height = round(PASSER_SHARE * SIDE_PX)
    width = max(1, round(rgba.shape[1] * height / rgba.shape[0]))
    scaled: np.ndarray = cv2.resize(rgba, (width, height), interpolation=cv2.INTER_AREA)
    return scaled


def _walk(whole: np.ndarray, passer: np.ndarray, share: float) -> None:
    """Draw who passes into the picture, if they are there now: rightwards the first time, mirrored and leftwards the second."""
    for back, (begin, end) in enumerate(PASSES):
        if begin < share < end:
            height, width = passer.shape[:2]
            way = (share - begin) / (end - begin)
            figure = passer[:, ::-1] if back else passer
            left = round(((1 - way) if back else way) * (whole.shape[1] + width)) - width
            x0, x1 = max(0, left), min(whole.shape[1], left + width)
            shown = figure[:, x0 - left : x1 - left]
            alpha = shown[..., 3:] / 255
            there = whole[-height:, x0:x1]
            there[:] = np.rint(alpha * shown[..., :3] + (1 - alpha) * there).astype(np.uint8)
