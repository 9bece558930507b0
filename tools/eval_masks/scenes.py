"""Pictures with known masks, made of an output's cut-outs and backgrounds.

In: an output of `materia run`. Out: scenes, the same for the same output and seed. A cut-out keeps the share of the picture's
height that it had, and its place; its edge is antialiased, and it is blurred where it is sharper than the background.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import cv2
import numpy as np

import materia
from materia.base.errors import UserError
from materia.dataset.documents import InstanceDocument
from materia.dataset.reader import StoredSample
from stages.images import mask_extent
from stages.localise.vocabulary import class_names, classes_of, is_human
from stages.records import Category

Kind = Literal["person", "animal", "thing"]
Role = Literal["alone", "behind", "in front"]

MIN_MASK_SCORE = 0.7
"""Lower scores of GrabCut are often of masks with a piece of ground."""
MAX_MASKED = 0.35
"""Of a background, the share that was filled in: a smear is no place where things stand."""
MIN_PX = 80
"""Longer side of a cut-out in its own frame, at least."""
MIN_SHARE, MAX_SHARE = 0.01, 0.5
"""Of the frame, a cut-out's area."""
ONE_PART = 0.98
"""Of a cut-out's pixels, in its largest part."""
AWAY = 0.01
"""From every edge of the frame, as a share of its longer side: what the edge cuts off is no whole thing."""
MIN_OVERLAP, MAX_OVERLAP = 0.1, 0.6
"""Of the one behind, the share that the one in front covers."""
GROWN = (-0.05, 0.15)
"""How much wider and higher than what is seen a detector's box is, as shares of it."""
MAX_HEIGHT_PX = 480
"""Backgrounds that are higher are made smaller: the work on a mask should depend on the mask."""
SHARPER = 1.3
"""Of a cut-out, its mean gradient over the background's, above which it is blurred."""
_TRIES = 200


class Cutout(NamedTuple):
    """Something to paste: `rgba` (h, w, 4) uint8; `centre` (x, y) and `height`, shares of its frame's sides."""

    key: str
    word: str
    category: Category
    kind: Kind
    rgba: np.ndarray
    centre: tuple[float, float]
    height: float


class Part(NamedTuple):
    """What is seen of a cut-out: `mask` (H, W) bool, and its box (x1, y1, x2, y2) in px as a detector would give it."""

    cutout: Cutout
    role: Role
    mask: np.ndarray
    box_xyxy_px: tuple[float, float, float, float]


class Scene(NamedTuple):
    """`picture` (H, W, 3) uint8 RGB, and the one or two things in it; of two, the first is behind the second."""

    picture: np.ndarray
    parts: list[Part]


class Material(NamedTuple):
    """Cut-outs, and backgrounds (H, W, 3) uint8 RGB by their samples' keys."""

    cutouts: list[Cutout]
    backgrounds: dict[str, np.ndarray]


def material_of(out: str) -> Material:
    """The good cut-outs of an output, and its backgrounds of which little was filled in.

    Raises OutputError, UserError for an output that has no two samples with good cut-outs of different words.
    """
    cutouts: list[Cutout] = []
    backgrounds: dict[str, np.ndarray] = {}
    for sample in materia.open_dataset(out):
        cutouts += _cutouts(sample)
        if sample.document.background.masked_share > MAX_MASKED:
            continue
        background = sample.background
        scale = min(1.0, MAX_HEIGHT_PX / len(background))
        size = round(background.shape[1] * scale), round(background.shape[0] * scale)
        backgrounds[sample.key] = cv2.resize(background, size, interpolation=cv2.INTER_AREA) if scale < 1 else background
    if len({cutout.key for cutout in cutouts}) < 2 or len({cutout.word for cutout in cutouts}) < 2:
        raise UserError(f"{out} has no two samples with good cut-outs of different words; give an output of more clips")
    return Material(cutouts, backgrounds)


def _cutouts(sample: StoredSample) -> Iterator[Cutout]:
    document = sample.document
    width, height = document.video.width, document.video.height
    for instance, rgba in zip(document.instances, sample.references, strict=True):
        if instance.is_face or not _is_good(instance, rgba, width, height):
            continue
        x1, y1, x2, y2 = instance.crop_xyxy_px
        yield Cutout(
            key=sample.key,
            word=instance.word,
            category=instance.category,
            kind=kind_of(instance.word, instance.category),
            rgba=rgba,
            centre=((x1 + x2) / 2 / width, (y1 + y2) / 2 / height),
            height=(y2 - y1) / height,
        )


def _is_good(instance: InstanceDocument, rgba: np.ndarray, width: int, height: int) -> bool:
    x1, y1, x2, y2 = instance.crop_xyxy_px
    away = AWAY * max(width, height)
    _, _, stats, _ = cv2.connectedComponentsWithStats(rgba[..., 3], connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return (
        instance.mask_score >= MIN_MASK_SCORE
        and max(x2 - x1, y2 - y1) >= MIN_PX
        and MIN_SHARE <= instance.area_share <= MAX_SHARE
        and min(x1, y1, width - x2, height - y2) >= away
        and bool(areas.max() >= ONE_PART * areas.sum())
    )


def kind_of(word: str, category: Category) -> Kind:
    """What a word names, by the detector's classes."""
    if is_human(word, category):
        return "person"
    names = class_names()
    animals = range(names.index("bird"), names.index("giraffe") + 1)  # COCO's classes stand in groups
    classes = classes_of(word, category)
    return "animal" if classes and all(number in animals for number in classes) else "thing"


def make_scene(material: Material, seed: int, number: int) -> Scene:
    """The scene of a seed and number: every second one has two things.

    Raises UserError where no two things of the output can stand so.
    """
    rng = np.random.default_rng((seed, number))
    for _ in range(_TRIES):
        first = _draw(material.cutouts, rng)
        others = [cutout for cutout in material.cutouts if cutout.key != first.key and cutout.word != first.word]
        second = _draw(others, rng) if number % 2 and others else None
        keys = sorted(material.backgrounds.keys() - {first.key, *([second.key] if second else [])})
        if not keys or (number % 2 and second is None):
            continue
        picture = material.backgrounds[keys[rng.integers(len(keys))]].copy()
        scene = _alone(picture, first, rng) if second is None else _two(picture, first, second, rng)
        if scene is not None:
            return scene
    raise UserError(f"scene {number} cannot be made: no cut-outs fit; give an output of more clips")


def _draw(cutouts: list[Cutout], rng: np.random.Generator) -> Cutout:
    """A cut-out of a word of a clip: each of these is as likely, however many cut-outs it has."""
    words = sorted({(cutout.key, cutout.word) for cutout in cutouts})
    word = words[rng.integers(len(words))]
    of_word = [cutout for cutout in cutouts if (cutout.key, cutout.word) == word]
    return of_word[rng.integers(len(of_word))]


def _alone(picture: np.ndarray, cutout: Cutout, rng: np.random.Generator) -> Scene | None:
    sprite = _fitted(cutout, picture)
    if sprite is None:
        return None
    mask = _paste(picture, sprite, _place(cutout, sprite, picture))
    return Scene(picture, [Part(cutout, "alone", mask, _box(mask, rng))])


def _two(picture: np.ndarray, first: Cutout, second: Cutout, rng: np.random.Generator) -> Scene | None:
    """The second is moved sideways until it covers about a drawn share of the first; None if it cannot."""
    behind, in_front = _fitted(first, picture), _fitted(second, picture)
    if behind is None or in_front is None:
        return None
    mask = _paste(picture, behind, _place(first, behind, picture))
    _, top = _place(second, in_front, picture)
    wanted = rng.uniform(MIN_OVERLAP, MAX_OVERLAP)
    places = [(x, top) for x in range(0, picture.shape[1] - in_front.shape[1] + 1, 4)]
    shares = np.array([(mask & _at(in_front, place, picture)).sum() / mask.sum() for place in places])
    fitting = np.flatnonzero((shares >= MIN_OVERLAP) & (shares <= MAX_OVERLAP))
    if not len(fitting):
        return None
    order = rng.permutation(fitting)  # else the left of two equal sides would always be taken
    covering = _paste(picture, in_front, places[order[np.abs(shares[order] - wanted).argmin()]])
    seen = mask & ~covering
    return Scene(
        picture, [Part(first, "behind", seen, _box(seen, rng)), Part(second, "in front", covering, _box(covering, rng))]
    )


def _fitted(cutout: Cutout, picture: np.ndarray) -> np.ndarray | None:
    """A cut-out in the size that it has in the picture, (h, w, 4) float32, colours times alpha; None if it does not fit in."""
    scale = cutout.height * len(picture) / len(cutout.rgba)
    size = tuple(round(side * scale) for side in cutout.rgba.shape[1::-1])
    if size[0] > picture.shape[1] or max(size) < MIN_PX / 2:
        return None
    alpha = cutout.rgba[..., 3:].astype(np.float32) / 255
    whole = np.pad(np.dstack([cutout.rgba[..., :3] * alpha, alpha]), ((2, 2), (2, 2), (0, 0)))  # room for the soft edge
    sprite = cv2.resize(whole, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    sprite = sprite[: len(picture), : picture.shape[1]]
    for sigma in (0.4, 0.7, 1.0, 1.3):
        blurred: np.ndarray = cv2.GaussianBlur(sprite, (0, 0), sigma)
        if _gradient(blurred[..., :3], blurred[..., 3] > 0.99) <= SHARPER * _gradient(
            picture, np.ones(picture.shape[:2], bool)
        ):
            break
    return blurred


def _gradient(pixels: np.ndarray, where: np.ndarray) -> float:
    grey = cv2.cvtColor(pixels.astype(np.float32), cv2.COLOR_RGB2GRAY)
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F))[where].mean()) if where.any() else 0.0


def _place(cutout: Cutout, sprite: np.ndarray, picture: np.ndarray) -> tuple[int, int]:
    """Left and top where its middle is where it was, as far as the picture has room."""
    middle = np.array(cutout.centre) * picture.shape[1::-1]
    room = np.array(picture.shape[1::-1]) - sprite.shape[1::-1]
    x, y = np.clip(np.round(middle - np.array(sprite.shape[1::-1]) / 2), 0, room).astype(int).tolist()
    return x, y


def _at(sprite: np.ndarray, place: tuple[int, int], picture: np.ndarray) -> np.ndarray:
    """Where a sprite covers the picture, (H, W) bool."""
    mask = np.zeros(picture.shape[:2], bool)
    x, y = place
    mask[y : y + sprite.shape[0], x : x + sprite.shape[1]] = sprite[..., 3] >= 0.5
    return mask


def _paste(picture: np.ndarray, sprite: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    """Draw a sprite into the picture; gives its mask (H, W) bool."""
    x, y = place
    under = picture[y : y + sprite.shape[0], x : x + sprite.shape[1]]
    under[:] = (under * (1 - sprite[..., 3:]) + sprite[..., :3]).round().clip(0, 255).astype(np.uint8)
    return _at(sprite, place, picture)


def _box(mask: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A detector's box of what is seen: each side off by its own share, inside the picture."""
    x1, y1, x2, y2 = (float(side) for side in mask_extent(mask))
    left, top, right, bottom = rng.uniform(GROWN[0] / 2, GROWN[1] / 2, 4) * np.array([x2 - x1, y2 - y1] * 2)
    height, width = mask.shape
    box = np.clip([x1 - left, y1 - top, x2 + right, y2 + bottom], 0, [width, height, width, height]).round(2).tolist()
    return box[0], box[1], box[2], box[3]
