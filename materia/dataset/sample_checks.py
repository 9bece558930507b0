"""Whether one sample keeps the contract: its KEY.json, its pictures, and that they agree with each other.

In: a sample's members as bytes, from anyone (a damaged or hostile shard too), and the recipe of the background's mask. Out:
sentences about what is wrong, none if all is well. Sizes are compared before anything is decoded, so that a picture or a mask
that claims to be enormous costs nothing; masks are decoded here in numpy with bounds checked rather than by native code.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from jsonschema import Draft202012Validator
from PIL import Image

from materia.dataset.documents import BackgroundDocument, Document, InstanceDocument, decode_document
from materia.dataset.json_schema import json_schema
from materia.dataset.masks import decode_rle

MAX_PIXELS = 64_000_000
"""Of one frame (8K is 33 million); a larger one is not decoded."""
_MAX_SCHEMA_ERRORS = 5
_SHARE_TOLERANCE = 1e-5
_SAMPLE_VALIDATOR = Draft202012Validator(json_schema("sample"))


class Recipe(NamedTuple):
    """How the background's mask grows from the masks of frame 1 (method: Background): a square of ones, so often; drawn again
    at most `retry_dilate` times, each with a mask dilated so often (at least once) further."""

    dilate_px: int
    dilate_times: int
    retry_dilate: int = 0

    def again(self, times: int) -> Recipe:
        """The recipe of a drawing that was made after `times` others."""
        return self._replace(dilate_times=self.dilate_times + times * max(1, self.dilate_times))


def parse_document(data: bytes) -> tuple[Document | None, list[str]]:
    """KEY.json, and what is wrong with it; None when it cannot be relied on for further checks."""
    try:
        content = json.loads(data)
        errors = [_schema_error(error) for error in islice(_SAMPLE_VALIDATOR.iter_errors(content), _MAX_SCHEMA_ERRORS)]
        return (None if errors else decode_document(data)), errors
    except (ValueError, RecursionError) as error:
        return None, [f"KEY.json cannot be read: {error}"]


def check_sample(document: Document, members: dict[str, bytes], recipe: Recipe | None) -> Iterator[str]:
    """Everything that can be wrong with a sample whose KEY.json satisfies its schema and whose members are all there."""
    yield from _check_words(document)
    frames = [_picture(members[frame.member], "JPEG") for frame in document.frames]
    for index, frame in enumerate(frames):
        if isinstance(frame, str):
            yield f"frame{index}.jpg {frame}"
    pictures = [frame for frame in frames if not isinstance(frame, str)]
    if len(pictures) < 3:
        return
    if len({picture.size for picture in pictures}) > 1:
        yield f"the frames differ in size: {', '.join(str(picture.size) for picture in pictures)}"
        return
    pixels = [np.asarray(picture.convert("RGB")) for picture in pictures]
    hidden = np.zeros(pixels[1].shape[:2], bool)
    for index, instance in enumerate(document.instances):
        problems, mask = _check_instance(document, index, members[instance.member], pixels[instance.frame])
        for problem in problems:
            yield f"instance {index} ({instance.word!r}): {problem}"
        if mask is not None and instance.frame == 1:
            hidden |= mask
    if recipe is not None:
        background = document.background
        again = redrawn(background.method)
        if again > recipe.retry_dilate:
            yield f"background.method is {background.method!r}, background.retry_dilate was {recipe.retry_dilate}"
        hidden = grow(hidden, recipe.again(again))
        if background.mask_rle is not None:
            hidden, instances = _own_mask(background, hidden), hidden
            if (instances & ~hidden).any():
                yield f"background.mask_rle lacks {(instances & ~hidden).sum()} pixels of the masks of frame 1"
        yield from _check_background(background, members["background.png"], pixels[1], hidden)


def _own_mask(background: BackgroundDocument, like: np.ndarray) -> np.ndarray:
    """The mask that the background says it has, (H, W) bool; empty if it is none of a picture `like` (H, W)."""
    rle = background.mask_rle
    mask = decode_rle(rle.counts, rle.size) if rle is not None and rle.size == like.shape else None
    return np.zeros_like(like) if mask is None else mask


def grow(mask: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Dilate a mask (H, W) bool by the recipe and fill its holes: background pixels not connected with the picture's edge.

    Worked out apart from stages/background, so that a mistake there is found here.
    """
    import cv2

    kernel = np.ones((recipe.dilate_px, recipe.dilate_px), np.uint8)
    dilated = cv2.dilate(mask.astype(np.uint8), kernel, iterations=recipe.dilate_times) if recipe.dilate_times else mask
    outside = np.pad(1 - np.asarray(dilated, np.uint8), 1, constant_values=1)
    cv2.floodFill(outside, None, (0, 0), 2)  # type: ignore[call-overload,unused-ignore]  # None: no mask of its own
    return np.asarray(outside[1:-1, 1:-1] != 2)


def redrawn(method: str) -> int:
    """How many drawings came before the one that stayed: 2 for "lama+dilate2", 0 for "lama"."""
    _, marked, times = method.rpartition("+dilate")
    return int(times) if marked and times in ("1", "2") else 0


def _check_words(document: Document) -> Iterator[str]:
    """What KEY.json says about words, instances and frames, without looking at pictures."""
    caption, n_frames = document.caption, document.video.n_frames
    if len(set(document.flags)) < len(document.flags):
        yield f"a flag is there twice: {', '.join(document.flags)}"
    if len({entity.word.casefold() for entity in document.entities}) < len(document.entities):
        yield "two entities have the same word"
    for entity in document.entities:
        for start, end in entity.spans:
            if caption[start:end].casefold() != entity.word.casefold() or not 0 <= start < end:
                yield f"span [{start}, {end}] of {entity.word!r} is {caption[start:end]!r} in the caption"
    yield from _check_instances(document)
    times = [frame.time_s for frame in document.frames]
    indices = [frame.index for frame in document.frames]
    if times != sorted(times) or indices != sorted(set(indices)) or indices[-1] >= n_frames:
        yield f"frames {indices} of {n_frames} at {times} s are not in order"


def _check_instances(document: Document) -> Iterator[str]:
    instances = document.instances
    categories = {entity.word: entity.category for entity in document.entities}
    if not any(instance.category == "subject" for instance in instances):
        yield "no instance is a subject"
    seen: set[tuple[str, int]] = set()
    for index, instance in enumerate(instances):
        about, place = f"instance {index} ({instance.word!r})", (instance.word, instance.frame)
        if categories.get(instance.word) != instance.category:
            yield f"{about} is no {instance.category} word of the entities"
        if instance.member != f"ref{index:02d}.png":
            yield f"{about} has member {instance.member}, not ref{index:02d}.png"
        if instance.is_face:
            yield from _check_parent(about, instance, instances)
            continue
        if instance.parent is not None:
            yield f"{about} has a parent but is no face"
        if place in seen:
            yield f"{about} is a second instance of its word in frame {instance.frame}"
        seen.add(place)


def _check_parent(about: str, face: InstanceDocument, instances: list[InstanceDocument]) -> Iterator[str]:
    parent = instances[face.parent] if face.parent is not None and face.parent < len(instances) else None
    if parent is None or parent.is_face or parent.frame != face.frame or parent.word != face.word:
        yield f"{about} is a face whose parent {face.parent} is not its word's instance in frame {face.frame}"


def _check_instance(document: Document, number: int, png: bytes, frame: np.ndarray) -> tuple[list[str], np.ndarray | None]:
    """What is wrong with an instance, and its mask (H, W) bool if it has one. `frame` is (H, W, 3) uint8."""
    instance = document.instances[number]
    height, width = frame.shape[:2]
    if not _inside(instance.box_xyxy_px, width, height):
        return [f"box {list(instance.box_xyxy_px)} is not inside the {width} x {height} frame"], None
    if instance.mask_rle.size != (height, width):
        return [f"mask of size {list(instance.mask_rle.size)} for a frame of {[height, width]}"], None
    mask = decode_rle(instance.mask_rle.counts, (height, width))
    if mask is None or not mask.any():
        return ["the mask is empty or its run-length code is broken"], None
    problems = []
    if abs(mask.mean() - instance.area_share) > _SHARE_TOLERANCE:
        problems.append(f"area_share is {instance.area_share}, the mask has {mask.mean():.6f}")
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    extent = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
    if list(instance.crop_xyxy_px) != extent:
        return [*problems, f"crop {list(instance.crop_xyxy_px)} is not the mask's bounding box {extent}"], mask
    x0, y0, x1, y1 = extent
    return problems + _check_crop(png, frame[y0:y1, x0:x1], mask[y0:y1, x0:x1]), mask


def _check_crop(png: bytes, frame: np.ndarray, mask: np.ndarray) -> list[str]:
    """Against the same part of the frame, (h, w, 3) uint8, and of the mask, (h, w) bool."""
    picture = _picture(png, "PNG", (frame.shape[1], frame.shape[0]))
    if isinstance(picture, str):
        return [f"the crop {picture}"]
    if picture.mode != "RGBA":
        return [f"the crop is {picture.mode}, not RGBA"]
    rgba = np.asarray(picture)
    alpha = rgba[..., 3]
    if not np.isin(alpha, (0, 255)).all():
        return ["the crop's alpha has values other than 0 and 255"]
    if not np.array_equal(alpha == 255, mask):
        return ["the crop's alpha is not the mask"]
    if not np.array_equal(rgba[mask][:, :3], frame[mask]):
        return ["the crop's pixels are not those of the frame"]
    return []


def _check_background(background: BackgroundDocument, png: bytes, frame: np.ndarray, hidden: np.ndarray) -> Iterator[str]:
    """The picture against frame 1, (H, W, 3) uint8; within `hidden` (H, W) bool it may differ."""
    picture = _picture(png, "PNG", (frame.shape[1], frame.shape[0]))
    if isinstance(picture, str):
        yield f"background.png {picture}"
        return
    if picture.mode != "RGB":
        yield f"background.png is {picture.mode}, not RGB"
        return
    changed = (np.asarray(picture) != frame).any(axis=2) & ~hidden
    if changed.any():
        y, x = np.argwhere(changed)[0]
        yield f"background.png differs from frame1.jpg outside the mask in {changed.sum()} pixels, first at x {x}, y {y}"
    if abs(hidden.mean() - background.masked_share) > _SHARE_TOLERANCE:
        yield f"masked_share is {background.masked_share}, the masks of frame 1 give {hidden.mean():.6f}"
    yield from _check_borrowed(background, hidden)


def _check_borrowed(background: BackgroundDocument, hidden: np.ndarray) -> Iterator[str]:
    """What is said to be borrowed lies in the mask `hidden` (H, W) bool, and is the share of it that is told."""
    rle, share = background.borrowed_rle, background.borrowed_share
    mask = None if rle is None else decode_rle(rle.counts, rle.size) if rle.size == hidden.shape else np.ones_like(hidden)
    borrowed = np.zeros_like(hidden) if rle is None else mask
    if borrowed is None or (borrowed & ~hidden).any():
        yield "background.borrowed_rle is no mask within what was replaced"
    elif abs(borrowed.sum() / max(1, hidden.sum()) - (share or 0.0)) > _SHARE_TOLERANCE:
        yield f"borrowed_share is {share}, borrowed_rle gives {borrowed.sum() / max(1, hidden.sum()):.6f}"


def _picture(data: bytes, kind: str, size: tuple[int, int] | None = None) -> Image.Image | str:
    """A decoded picture, or why it is none. Nothing is decoded that is not of the `size` (width, height) expected."""
    try:
        picture = Image.open(io.BytesIO(data), formats=[kind])
        if size is not None and picture.size != size:
            return f"is {picture.size[0]} x {picture.size[1]}, not {size[0]} x {size[1]}"
        if picture.size[0] * picture.size[1] > MAX_PIXELS:
            return f"claims {picture.size[0]} x {picture.size[1]} pixels"
        picture.load()
        return picture
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: Pillow on broken PNG
        return f"is not a readable {kind}: {error}"


def _inside(box: tuple[float, float, float, float], width: int, height: int) -> bool:
    x0, y0, x1, y1 = box
    return 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height


def _schema_error(error: Any) -> str:
    text = error.message if len(error.message) <= 200 else f"{error.message[:200]}..."
    return f"KEY.json {error.json_path}: {text}"
