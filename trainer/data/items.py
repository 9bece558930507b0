"""A training item out of a sample: a window of its clip, and references that are drawn and augmented [paper §3.3, A.3].

In: KEY.json and members of a sample. Out: an `Item`. What is drawn (`draw`) depends on the step; what it looks like does not:
windows and augmentations are numbered and follow from (seed, key, number), so a cache can hold every one that may be drawn.
Only the pictures of the window are decoded, each cut to the bucket's size as it comes out of the decoder. PyAV does it: for
such windows decord takes 1.04 to 5 times its CPU time.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import msgspec
import numpy as np
from PIL import Image

from materia.dataset.documents import Document, InstanceDocument
from materia.dataset.layout import OutputError
from materia.dataset.reader import Dataset, parse_document
from stages.video import VideoError, frames_at, in_memory
from trainer.config import BucketSettings, DataSettings
from trainer.data import augment, references
from trainer.data.batch import EncodedItem, Item, ReferenceImage, numpy_rng
from trainer.data.references import Reference
from trainer.errors import TrainError

BACKGROUND = "background.png"


class DrawnReference(NamedTuple):
    """A reference of an item: `span` of its word in the caption, (0, 0) without a word; `variant` numbers its augmentation."""

    word: str
    span: tuple[int, int]
    member: str
    variant: int


class DrawableWord(msgspec.Struct):
    """Of an entity, see `Drawable`."""

    word: str
    spans: list[tuple[int, int]]


class DrawableInstance(msgspec.Struct):
    """Of an instance, see `Drawable`."""

    word: str
    parent: int | None
    member: str


class DrawableBackground(msgspec.Struct):
    """Of the background, see `Drawable`."""

    word: str | None


class Drawable(msgspec.Struct):
    """What `draw` reads of KEY.json, for a cache to keep; the masks, which are most of it, are left out."""

    key: str
    entities: list[DrawableWord]
    instances: list[DrawableInstance]
    background: DrawableBackground


class Draw(NamedTuple):
    """What chance decides about an item: the number of its window, and its references in order."""

    window: int
    references: list[DrawnReference]


class Source(Protocol):
    """Where a step's items come from: from pixels here, from a cache in trainer/data/cache.py."""

    def read(self, step: int, slot: int, number: int, bucket: int) -> Item | EncodedItem:
        """Item of sample `number` for place `slot` of a step, at the size of `data.buckets[bucket]`."""
        ...


class PixelSource:
    """Items decoded from the clips. `images` False: without references (stage I). Can be sent to a loader's workers."""

    def __init__(self, samples: Dataset, data: DataSettings, seed: int, images: bool = True) -> None:
        self.samples = samples
        self.data = data
        self.seed = seed
        self.images = images

    def read(self, step: int, slot: int, number: int, bucket: int) -> Item:
        """As `Source`. Raises OutputError for a shard, TrainError for a clip that cannot be read."""
        document = self.samples.document(number)
        drawn = draw(numpy_rng(self.seed, step, slot), document, self.data, self.images)
        return read_item(self.samples, number, document, slot, drawn, self.data.buckets[bucket], self.data, self.seed)

    def item(self, step: int, slot: int, members: Mapping[str, bytes], shard: str, bucket: int) -> Item:
        """The same from all `members` of a sample that was read from the tar `shard`."""
        document = parse_document(members["json"], shard)
        drawn = draw(numpy_rng(self.seed, step, slot), document, self.data, self.images)
        return make_item(document, members, shard, slot, drawn, self.data.buckets[bucket], self.data, self.seed)


def draw(rng: np.random.Generator, document: Document | Drawable, data: DataSettings, images: bool) -> Draw:
    """Window, references and their augmentations of one item. Faces are crops of the word whose instance they belong to."""
    window = int(rng.integers(data.windows))
    if not images:
        return Draw(window, [])
    spans = {entity.word: entity.spans[0] for entity in document.entities}
    background = Reference(document.background.word or "", BACKGROUND)
    chosen = references.choose(rng, crops_of(document), background)
    variants = rng.integers(data.variants if data.augment else 1, size=len(chosen))
    return Draw(
        window,
        [
            DrawnReference(word, spans.get(word, (0, 0)), member, int(variant))
            for (word, member), variant in zip(chosen, variants, strict=True)
        ],
    )


def crops_of(document: Document | Drawable) -> dict[str, list[str]]:
    """Members that show each subject or object word, in the order of the document, faces under their parent's word."""
    crops: dict[str, list[str]] = {}
    instances: Sequence[InstanceDocument | DrawableInstance] = document.instances
    for instance in instances:
        shown = instance if instance.parent is None else instances[instance.parent]
        crops.setdefault(shown.word, []).append(instance.member)
    return crops


def latest_start_s(duration_s: Any, fps: Any, frames: int, data_fps: float) -> Any:
    """Where a window of `frames` at `data_fps` may begin at the latest, in seconds; negative: the clip is too short for it.

    `duration_s` and `fps` of a clip, or arrays of many. The window's last picture is at most the clip's last, which begins
    1 / fps before its end.
    """
    return duration_s - 1 / fps - (frames - 1) / data_fps


def window_times(document: Document, bucket: BucketSettings, data: DataSettings, window: int, seed: int) -> list[float]:
    """Times of a window's pictures, seconds from the clip's first: `bucket.frames` of them at `data.fps`."""
    video = document.video
    latest = latest_start_s(video.duration_s, video.fps, bucket.frames, data.fps)
    start = max(0.0, latest) * _rng_of(seed, document.key, "window", window).random()
    return [start + number / data.fps for number in range(bucket.frames)]


def reference_pixels(png: bytes, key: str, member: str, variant: int, data: DataSettings, seed: int) -> np.ndarray:
    """A reference as the encoder gets it, (data.reference_px, data.reference_px, 3) uint8 RGB: augmented, on a white square.

    Raises ValueError for bytes that are no PNG.
    """
    rgba = _read_png(png)
    if data.augment:
        change = augment.draw(_rng_of(seed, key, member, variant), *rgba.shape[:2])
        rgba = augment.apply(rgba, change)
    return augment.on_white_square(rgba, data.reference_px)


def read_item(
    samples: Dataset,
    number: int,
    document: Document,
    slot: int,
    drawn: Draw,
    bucket: BucketSettings,
    data: DataSettings,
    seed: int,
) -> Item:
    """The item that `drawn` describes, of the sample with that `document`: nothing else is read but the members it needs.

    Raises OutputError for a shard, TrainError for a clip that cannot be read.
    """
    wanted = {document.video.member, *(reference.member for reference in drawn.references)}
    members = samples.read(number, wanted)
    return make_item(document, members, samples.address(number), slot, drawn, bucket, data, seed)


def make_item(
    document: Document,
    members: Mapping[str, bytes],
    shard: str,
    slot: int,
    drawn: Draw,
    bucket: BucketSettings,
    data: DataSettings,
    seed: int,
) -> Item:
    """The item that `drawn` describes, from the members it needs. Errors as of `read_item`; they name `shard`."""
    key = document.key
    images = []
    for word, span, member, variant in drawn.references:
        try:
            pixels = reference_pixels(members[member], key, member, variant, data, seed)
        except (KeyError, ValueError) as error:
            raise OutputError(f"{shard}: {key}.{member} is no picture: {error}; run: materia validate") from error
        images.append(ReferenceImage(word, span, pixels))
    times_s = window_times(document, bucket, data, drawn.window, seed)
    try:
        video = decode(members[document.video.member], times_s, bucket.height, bucket.width)
    except VideoError as error:
        advice = f"leave it out: --where \"key != '{key}'\""
        raise TrainError(f"{shard}: the video of {key} cannot be decoded: {error}; {advice}") from error
    return Item(key=key, slot=slot, caption=document.caption, video=video, references=images)


def decode(clip: bytes, times_s: list[float], height: int, width: int) -> np.ndarray:
    """Pictures of a clip at some times, (len(times_s), height, width, 3) uint8 RGB. Raises VideoError."""
    with in_memory(clip) as path:
        decoded = frames_at(path, times_s, fit=lambda picture: cover(picture, height, width))
    return np.stack(decoded.frames)


def cover(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (height, width, 3): the largest part about the middle that has the new shape, resized."""
    h, w = picture.shape[:2]
    cut_h, cut_w = min(h, max(1, round(w * height / width))), min(w, max(1, round(h * width / height)))
    top, left = (h - cut_h) // 2, (w - cut_w) // 2
    middle = picture[top : top + cut_h, left : left + cut_w]
    shrinks = cut_h > height or cut_w > width
    return np.asarray(cv2.resize(middle, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC))


def _read_png(png: bytes) -> np.ndarray:
    """(H, W, 4) uint8 RGBA. Raises ValueError, whatever the bytes are."""
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            return np.asarray(picture.convert("RGBA"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises for a broken PNG
        raise ValueError(str(error)) from error


def _rng_of(seed: int, *what: object) -> np.random.Generator:
    """Random numbers that follow from a seed and names, the same on every machine."""
    digest = hashlib.sha256("\0".join(map(str, (seed, *what))).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
