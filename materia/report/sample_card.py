"""The card of a sample: its caption, the three frames with boxes and masks, the clean background, every reference crop.

In: a `StoredSample` and the colours of the words. Out: a picture. A word has one colour in all frames, its references say how
surely they are linked; candidates that were not chosen have a thin grey box, those that were and gave no reference a label that
says why, faces a thin white box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from materia.base.terminal import printable
from materia.dataset.documents import BackgroundDocument, Document, InstanceDocument
from materia.dataset.masks import decode_rle
from materia.dataset.reader import StoredSample
from materia.report.drawing import (
    CARD,
    GAP,
    INNER,
    SCALE,
    SMALL,
    Box,
    Colour,
    Marked,
    annotated,
    caption_image,
    card,
    checkerboard,
    scaled,
    size_beside,
    titled,
)

_CANDIDATE: Colour = (150, 150, 150)
_BORROWED: Colour = (255, 255, 255)
_EDGE = ImageFilter.FIND_EDGES
_TILES = tuple(side * SCALE for side in (184, 168, 152, 130, 118))
"""Sides of a reference's tile; the largest is taken with which all find room."""


def sample_card(sample: StoredSample, colours: Mapping[str, Colour], facts: Sequence[str] = ()) -> Image.Image:
    """One sample: caption above, pictures, and its crops beside them if there is room, else below.

    `colours`: of each word with masks, case-folded; `facts`: said of it besides what is always said. Raises OutputError.
    """
    document = sample.document
    pictures = _pictures(sample, colours)
    wide = sum(picture.width + GAP for picture in pictures)
    beside = INNER - wide >= 2 * (_TILES[-1] + GAP)
    crops = _crops(sample, colours, INNER - wide if beside else INNER, pictures[0].height if beside else 0)
    return card(_caption(document, colours, facts), pictures, *((crops, None) if beside else (None, crops)))


def _caption(document: Document, colours: Mapping[str, Colour], facts: Sequence[str]) -> Image.Image:
    return caption_image(document.caption, marked_words(document, colours), [*facts_of(document), *facts])


def marked_words(document: Document, colours: Mapping[str, Colour]) -> list[Marked]:
    """Where the entity words stand in the caption; those of the background, and those without a mask, have no colour."""
    return [
        Marked(*span, None if entity.category == "background" else colours.get(entity.word.casefold()))
        for entity in document.entities
        for span in entity.spans
    ]


def facts_of(document: Document) -> list[str]:
    """What is always said of a sample, below its caption."""
    video = document.video
    flags = [str(flag) for flag in document.flags if flag != "ambiguous_identity"]
    unsure = ", ".join(printable(link.word, 40) for link in document.links if link.ambiguous)
    flags += [f"ambiguous: {unsure}"] if unsure else []
    return [document.key, f"{video.duration_s:.1f} s", f"{video.width} x {video.height}", video.codec, *flags]


def _pictures(sample: StoredSample, colours: Mapping[str, Colour]) -> list[Image.Image]:
    """Three frames and the background, equally large, each with a line of text below."""
    about = sample.document.background
    height, width = sample.frames.shape[1:3]
    size = size_beside(width / height)
    frames = [
        titled(drawn_frame(sample, index, size, colours), f"{frame.percent} %  ·  {frame.time_s:.1f} s")
        for index, frame in enumerate(sample.document.frames)
    ]
    title = f"{printable(about.word or 'background', 30)}  ·  {replaced(about)}"
    return [*frames, titled(drawn_background(sample, size), title)]


def drawn_frame(sample: StoredSample, index: int, size: tuple[int, int], colours: Mapping[str, Colour]) -> Image.Image:
    """Frame `index` (0 to 2) at `size` (width, height), px, under its masks, boxes and labels. Raises OutputError."""
    document, frame = sample.document, Image.fromarray(sample.frames[index])
    shown = [pair for pair in zip(document.instances, sample.masks, strict=True) if pair[0].frame == index]
    dropped = _dropped(document, index, size[0] / frame.width, size)
    return _with_masks(_with_candidates(frame, document, index, size), frame.width, shown, colours, dropped)


def drawn_background(sample: StoredSample, size: tuple[int, int]) -> Image.Image:
    """The clean background at `size` (width, height), px; what was borrowed from other frames has a thin outline, what was
    invented none. Raises OutputError.
    """
    image = Image.fromarray(sample.background).resize(size, Image.Resampling.LANCZOS)
    rle = sample.document.background.borrowed_rle
    borrowed = decode_rle(rle.counts, rle.size) if rle is not None and rle.size == sample.background.shape[:2] else None
    if borrowed is not None:
        edge = np.asarray(Image.fromarray(borrowed).convert("L").resize(size, Image.Resampling.BILINEAR).filter(_EDGE))
        image.paste(_BORROWED, (0, 0), Image.fromarray(np.where(edge > 64, np.uint8(200), np.uint8(0))))
    return image


def replaced(about: BackgroundDocument) -> str:
    """How much of a background was replaced, and how much of that borrowed, in words."""
    borrowed = f", {100 * about.borrowed_share:.0f} % of it borrowed" if about.borrowed_share else ""
    return f"{100 * about.masked_share:.0f} % replaced{borrowed}"


def _with_candidates(frame: Image.Image, document: Document, index: int, size: tuple[int, int]) -> Image.Image:
    """The frame at `size` with the boxes that were not chosen, thin and grey."""
    image = frame.resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    for box in document.boxes:
        if box.frame == index and not box.chosen and not box.dropped:
            draw.rectangle(scaled(box.box_xyxy_px, size[0] / frame.width, size), outline=_CANDIDATE, width=SCALE // 2)
    return image


def _dropped(document: Document, index: int, scale: float, size: tuple[int, int]) -> list[Box]:
    """The boxes of the frame that were chosen and gave no reference, with the reason."""
    return [
        Box(scaled(box.box_xyxy_px, scale, size), _CANDIDATE, f"{printable(box.word, 28)}: {box.dropped.replace('_', ' ')}")
        for box in document.boxes
        if box.frame == index and box.dropped
    ]


def _with_masks(
    image: Image.Image,
    width: int,
    instances: list[tuple[InstanceDocument, np.ndarray]],
    colours: Mapping[str, Colour],
    dropped: list[Box],
) -> Image.Image:
    """The picture, of a frame of `width` px, under its masks, outlines, boxes and labels."""
    draw, size = ImageDraw.Draw(image), image.size
    boxes = dropped
    for instance, mask in instances:
        box = scaled(instance.box_xyxy_px, size[0] / width, size)
        if instance.is_face:
            draw.rounded_rectangle(box, 4 * SCALE, outline=(255, 255, 255), width=SCALE)
            continue
        colour = colours[instance.word.casefold()]
        _tint(image, mask, colour)
        boxes = [*boxes, Box(box, colour, f"{printable(instance.word, 28)} {instance.detector_score:.2f}")]
    return annotated(image, boxes)


def _tint(image: Image.Image, mask: np.ndarray, colour: Colour) -> None:
    """Lay a colour over a mask (H, W) bool, strongest at its edge."""
    large = np.asarray(Image.fromarray(mask).convert("L").resize(image.size, Image.Resampling.BILINEAR), np.float32) / 255
    step_y, step_x = np.gradient(large)
    edge = np.clip(3 * np.hypot(step_x, step_y), 0, 1)
    alpha = np.clip(0.24 * large + edge, 0, 0.95)
    image.paste(colour, (0, 0), Image.fromarray((255 * alpha).astype(np.uint8)))


def _crops(sample: StoredSample, colours: Mapping[str, Colour], width: int, height: int) -> Image.Image:
    """Every reference crop, word by word, as tiles in lines: in `height` if they fit, or else as high as need be."""
    order = list(colours)
    pairs = zip(sample.document.instances, sample.references, strict=True)
    instances = sorted(pairs, key=lambda pair: order.index(pair[0].word.casefold()))
    for side in _TILES:
        columns = max(1, (width + GAP) // (side + GAP))
        lines = -(-len(instances) // columns)
        step = side + int(1.7 * SMALL) + GAP
        if lines == 1 or lines * step - GAP <= height:
            break
    image = Image.new("RGB", (width, lines * step - GAP), CARD)
    for index, (instance, crop) in enumerate(instances):
        tile = _tile(Image.fromarray(crop), instance, colours[instance.word.casefold()], side)
        image.paste(tile, (index % columns * (side + GAP), index // columns * step))
    return image


def _tile(crop: Image.Image, instance: InstanceDocument, colour: Colour, side: int) -> Image.Image:
    """A reference crop on a checkerboard over a line of its word's colour, titled with word and frame."""
    factor = min((side - 12 * SCALE) / max(crop.size), 3.0 * SCALE)
    size = (max(1, round(crop.width * factor)), max(1, round(crop.height * factor)))
    crop = crop.resize(size, Image.Resampling.LANCZOS)
    tile = checkerboard(side)
    tile.paste(crop, ((side - size[0]) // 2, (side - size[1]) // 2), crop)
    ImageDraw.Draw(tile).rectangle((0, side - 3 * SCALE, side, side), colour)
    name = "face" if instance.is_face else printable(instance.word, 40)
    linked = "" if instance.link_score is None else f"  ·  {instance.link_score:.2f}"
    return titled(tile, f"{name}  ·  {instance.frame + 1}{linked}")
