"""A place with a walker in it, and the same without.

In: a scene: a place, a camera, a cut-out that walks or stands. Out: pictures with and without the walker, and where it is.
The camera `real` is that of the clip as it moves; `static`, `pan` and `shake` look at a still of the place, larger than the
picture, and of these it is known what other frames show of the hidden part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Literal, NamedTuple, TypeVar, get_args

import cv2
import numpy as np

from materia.base.errors import UserError
from stages.localise.vocabulary import is_human
from stages.video import frames_at, local_copy, open_video
from tools.eval_background.places import Cutout, Place

Camera = Literal["real", "static", "pan", "shake"]
Gait = Literal["walking", "standing"]
SIZE = (640, 360)
"""Width and height of the pictures."""
FPS = 25
SECONDS = (4.0, 6.0)
"""Least and greatest duration."""
ROOM = 1.3
"""Side of the still that our own cameras look at / side of the picture."""
HEIGHTS, MAX_WIDTH = (0.55, 0.85), 0.4
"""Height of a walker / height of the picture, and at most so much of its width."""
STARTS, ENDS, STANDS = (0.12, 0.22), (0.78, 0.88), (0.42, 0.58)
"""Where a walker's middle is at first and at last, and where one stands: shares of the picture's width."""
BOB_SHARE, STEPS_PER_S = 0.012, 1.8
"""How far an upright walker rises with each step, as a share of its height."""
SHAKE_PX, SHAKE_DEG = 5.0, 0.4
"""A hand's shake: amplitude of the shift, on each axis, and of the roll."""
SHAKE_HZ = ((0.3, 0.9), (0.9, 2.5))
"""It is slow and quick; the quick half has a third of the amplitude."""
_AT_ONCE = 50  # pictures that are decoded together

T = TypeVar("T")
Path = Callable[[float], np.ndarray]
"""Share of the duration -> (2, 3) float64, from the still's pixels to the picture's."""


class Scene(NamedTuple):
    """What is filmed."""

    place: Place
    camera: Camera
    gait: Gait
    cutout: Cutout

    @property
    def caption(self) -> str:
        """One sentence that names the walker, and nothing else."""
        word = self.cutout.word
        article = "An" if word[0].casefold() in "aeiou" else "A"
        return f"{article} {word} {'walks past' if self.gait == 'walking' else 'stands still'}."


class Film(NamedTuple):
    """`plain` (T, H, W, 3) uint8 RGB without the walker, `walker` (T, H, W, 4) uint8 RGBA alone; `path` of our own cameras."""

    plain: np.ndarray
    walker: np.ndarray
    path: Path | None

    def pictures(self) -> Iterator[np.ndarray]:
        """The walker in the place, (H, W, 3) uint8 RGB each."""
        for plain, walker in zip(self.plain, self.walker, strict=True):
            alpha = walker[..., 3:] / np.float32(255)
            yield np.rint(alpha * walker[..., :3] + (1 - alpha) * plain).astype(np.uint8)

    def mask(self, index: int) -> np.ndarray:
        """Where the walker hides the place, (H, W) bool."""
        hidden: np.ndarray = self.walker[index, ..., 3] > 127
        return hidden

    def visible_share(self, index: int) -> float | None:
        """Of what is hidden in a frame, the share that some other frame shows; None where the camera's path is not known."""
        if self.path is None:
            return None
        shares = np.linspace(0, 1, len(self.plain))
        y, x = np.nonzero(self.mask(index))
        back = cv2.invertAffineTransform(self.path(shares[index]))
        seen = np.zeros(len(x), bool)
        for other, share in enumerate(shares):
            at = _applied(self.path(share), _applied(back, np.stack([x, y], 1))).round().astype(int)  # (N, 2)
            inside = ((at >= 0) & (at < SIZE)).all(axis=1)
            seen[inside] |= ~self.mask(other)[at[inside, 1], at[inside, 0]]
        return float(seen.mean())


def choose_scenes(places: Sequence[Place], cutouts: Sequence[Cutout], n: int, seed: int) -> list[Scene]:
    """At most `n` scenes: all cameras, walking twice as often as standing, and all places and cut-outs about equally often.

    Raises UserError if a place's only cut-outs are its own.
    """
    rng = np.random.default_rng(seed)
    gaits: tuple[Gait, ...] = ("walking", "walking", "standing")
    kinds = list(product(gaits, get_args(Camera)))
    turns = {camera: _endless([place for place in places if _can(place, camera)], rng) for camera in get_args(Camera)}
    people = _endless(cutouts, rng)
    scenes = []
    for number in range(n):
        gait, camera = kinds[number % len(kinds)]
        place = next(turns[camera], None) or next(turns["static"])
        others = (next(people) for _ in range(2 * len(cutouts)))  # all of them, wherever it begins
        cutout = next((one for one in others if one.key != place.clip.key), None)
        if cutout is None:
            raise UserError("the cut-outs show only who is at the place; give an output with more samples as --cutouts")
        scenes.append(Scene(place, camera if _can(place, camera) else "static", gait, cutout))
    return scenes


def _can(place: Place, camera: Camera) -> bool:
    return camera != "real" or place.duration_s >= SECONDS[0]


def _endless(things: Sequence[T], rng: np.random.Generator) -> Iterator[T]:
    """All of them in an order by chance, and again in another one."""
    while things:
        yield from (things[int(number)] for number in rng.permutation(len(things)))


def film(scene: Scene, rng: np.random.Generator) -> Film:
    """Make the pictures. Raises VideoError for a clip that cannot be decoded."""
    longest = min(SECONDS[1], scene.place.duration_s) if scene.camera == "real" else SECONDS[1]
    n = int(rng.uniform(SECONDS[0], longest) * FPS)
    shares = np.linspace(0, 1, n)
    path = None if scene.camera == "real" else camera_path(scene.camera, n / FPS, rng)
    if path is None:
        plain = np.stack(list(_real(scene.place, n)))
    else:
        still = fitted(scene.place.still, ROOM)
        plain = np.stack([cv2.warpAffine(still, path(share), SIZE, flags=cv2.INTER_LINEAR) for share in shares])
    return Film(plain, np.stack(list(_walk(scene, path or _unmoved, shares, rng))), path)


def _unmoved(share: float) -> np.ndarray:
    return np.array([[1.0, 0, 0], [0, 1.0, 0]])


def camera_path(camera: Camera, duration_s: float, rng: np.random.Generator) -> Path:
    """How one of our own cameras looks at a still that is ROOM times as large as the picture, and never beyond it."""
    room = np.array(SIZE) * (ROOM - 1)
    start, end = room / 2, room / 2
    if camera == "pan":
        start = room * (float(rng.choice((0.02, 0.98))), 0.5)
        end = room - start
    hz = np.stack([rng.uniform(low, high, 3) for low, high in SHAKE_HZ])  # (2, 3): slow and quick of x, y, roll
    phases = rng.uniform(0, 2 * np.pi, (2, 3))
    amplitude = np.array([[1.0], [1 / 3]]) * (SHAKE_PX, SHAKE_PX, SHAKE_DEG) * (camera == "shake")

    def at(share: float) -> np.ndarray:
        dx, dy, roll = (amplitude * np.sin(2 * np.pi * hz * share * duration_s + phases)).sum(axis=0)
        corner = start + (end - start) * share + (dx, dy)
        matrix = cv2.getRotationMatrix2D((corner + np.array(SIZE) / 2).tolist(), float(roll), 1.0)
        matrix[:, 2] -= corner
        return np.asarray(matrix)

    return at


def _real(place: Place, n: int) -> Iterator[np.ndarray]:
    clip = place.clip
    with local_copy(clip.address) as address, open_video(address, clip.start_s, clip.end_s) as video:
        for first in range(0, n, _AT_ONCE):
            times_s = [number / FPS for number in range(first, min(n, first + _AT_ONCE))]
            yield from frames_at(video, times_s, fit=fitted).frames


def fitted(picture: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """The middle of a picture (H, W, 3) in the shape of SIZE, and `scale` times as large."""
    height, width = picture.shape[:2]
    shape = min(width / SIZE[0], height / SIZE[1])
    own_width, own_height = round(SIZE[0] * shape), round(SIZE[1] * shape)
    left, top = (width - own_width) // 2, (height - own_height) // 2
    method = cv2.INTER_AREA if shape > scale else cv2.INTER_CUBIC
    size = round(SIZE[0] * scale), round(SIZE[1] * scale)
    scaled: np.ndarray = cv2.resize(picture[top : top + own_height, left : left + own_width], size, interpolation=method)
    return scaled


def _walk(scene: Scene, path: Path, shares: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The walker alone, (H, W, 4) uint8 RGBA: it stands on the lower edge, and stays where it is while the camera moves, or
    goes from one side of the picture to the other."""
    rgba = scene.cutout.rgba
    scale = min(rng.uniform(*HEIGHTS) * SIZE[1] / rgba.shape[0], MAX_WIDTH * SIZE[0] / rgba.shape[1])
    size = max(1, round(rgba.shape[1] * scale)), max(1, round(rgba.shape[0] * scale))
    figure = cv2.resize(rgba, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    figure = figure[:, ::-1] if rng.random() < 0.5 else figure
    ends = [rng.uniform(*STARTS), rng.uniform(*ENDS)]
    if rng.random() < 0.5:
        ends.reverse()
    if scene.gait == "standing":
        ends = [rng.uniform(*STANDS)] * 2
    # In the still's pixels, so that a walker's way shakes and passes by as the place does.
    moments = (0.5, 0.5) if scene.gait == "standing" else (0.0, 1.0)
    first, last = (
        _applied(cv2.invertAffineTransform(path(moment)), np.array([[x * SIZE[0], SIZE[1]]]))[0]
        for moment, x in zip(moments, ends, strict=True)
    )
    bob = BOB_SHARE * size[1] * (scene.gait == "walking" and is_human(scene.cutout.word, "subject"))
    for share in shares:
        x, y = _applied(path(share), (first + (last - first) * share)[None])[0]
        rise = bob * abs(np.sin(np.pi * STEPS_PER_S * share * len(shares) / FPS))
        yield _placed(figure, round(x - size[0] / 2), max(SIZE[1], round(y)) - size[1] + round(bob - rise))


def _placed(figure: np.ndarray, left: int, top: int) -> np.ndarray:
    """A figure (h, w, 4) in an empty picture of SIZE; what does not fit is cut off."""
    picture = np.zeros((SIZE[1], SIZE[0], 4), np.uint8)
    x0, x1 = max(0, left), max(0, min(SIZE[0], left + figure.shape[1]))
    y0, y1 = max(0, top), max(0, min(SIZE[1], top + figure.shape[0]))
    picture[y0:y1, x0:x1] = figure[y0 - top : y1 - top, x0 - left : x1 - left]
    return picture


def _applied(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """An affine transform (2, 3) of points (N, 2) float."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])
