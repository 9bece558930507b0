"""A contact sheet: some samples of an output on one picture, to see at a glance whether the right things were cut out.

In: an output's address. Out: a PNG with a card a sample: the caption with its entity words marked, the three frames with boxes
and masks, the clean background, and every reference crop on a checkerboard; a word has one colour all over the sheet. Samples
are chosen from the index for a variety of words. All is drawn at twice its size and halved at the end, for smooth edges.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from materia.base import storage
from materia.base.terminal import printable
from materia.dataset.documents import Document, InstanceDocument
from materia.dataset.reader import Dataset, StoredSample

_SCALE = 2
_WIDTH = 1800 * _SCALE
_MARGIN, _PADDING, _GAP = 28 * _SCALE, 26 * _SCALE, 12 * _SCALE
_MAX_HEIGHT = 300 * _SCALE
"""Of a frame; a portrait one would tower over the sheet."""
_TILES = tuple(side * _SCALE for side in (184, 168, 152, 130, 118))
"""Sides of a reference's tile; the largest is taken with which all find room."""
_TEXT, _SMALL, _TINY = 23 * _SCALE, 15 * _SCALE, 14 * _SCALE
_PAPER, _CARD, _LINE, _INK, _GREY = (243, 242, 238), (255, 255, 255), (226, 224, 218), (34, 34, 38), (125, 124, 122)
_PALETTE = (
    (226, 72, 61), (36, 123, 211), (22, 150, 98), (222, 133, 16), (137, 87, 199), (205, 66, 140), (16, 149, 166),
    (120, 128, 30),
)  # fmt: skip
_BACKGROUND_WORD = (120, 120, 124)
_CANDIDATES = 5000
"""Index rows that are looked at: enough for variety, whatever the size of the output."""
_CHOOSE_BY = ["n_instances", "n_subjects", "n_objects", "subject_words", "object_words"]


def contact_sheet(out: str, target_png: str, n: int = 6) -> None:
    """Draw up to `n` samples, in manifest order. Raises OutputError when there is none, or one that cannot be read."""
    dataset = Dataset(out, at_most=_CANDIDATES)
    samples = [dataset[index] for index in _varied(dataset.index.select(_CHOOSE_BY).to_pylist(), n)]
    words = dict.fromkeys(instance.word.casefold() for sample in samples for instance in sample.document.instances)
    colours = {word: _PALETTE[index % len(_PALETTE)] for index, word in enumerate(words)}
    cards = [_card(sample, colours) for sample in samples]
    margin = _MARGIN // _SCALE
    height = sum(card.height + margin for card in cards) + margin
    sheet, y = Image.new("RGB", (_WIDTH // _SCALE, height), _PAPER), margin
    for card in cards:
        sheet.paste(card, (margin, y))
        y += card.height + margin
    storage.atomic_write(target_png, lambda file: sheet.save(file, "PNG"))


def _varied(rows: list[dict[str, Any]], n: int) -> list[int]:
    """Greedily the samples that add most words not seen yet, then those with most instances; ties to the first."""
    seen: set[str] = set()
    chosen: list[int] = []
    left = list(range(len(rows)))
    while left and len(chosen) < n:
        best = max(left, key=lambda number: (len(_masked_words(rows[number]) - seen), rows[number]["n_instances"], -number))
        left.remove(best)
        chosen.append(best)
        seen |= _masked_words(rows[best])
    return sorted(chosen)


def _masked_words(row: dict[str, Any]) -> set[str]:
    words = row["subject_words"][: row["n_subjects"]] + row["object_words"][: row["n_objects"]]
    return {word.casefold() for word in words}


def _card(sample: StoredSample, colours: dict[str, tuple[int, int, int]]) -> Image.Image:
    """One sample: caption above, pictures, and its crops beside them if there is room, else below."""
    document = sample.document
    inner = _WIDTH - 2 * _MARGIN - 2 * _PADDING
    caption = _caption(document, colours, inner)
    pictures = _pictures(sample, colours, inner)
    wide = sum(picture.width + _GAP for picture in pictures)
    beside = inner - wide >= 2 * (_TILES[-1] + _GAP)
    crops = _crops(sample, colours, inner - wide if beside else inner, pictures[0].height if beside else 0)
    tall = max(picture.height for picture in pictures)
    body = max(tall, crops.height) if beside else tall + _GAP + crops.height
    card = Image.new("RGB", (inner + 2 * _PADDING, caption.height + body + _GAP + 2 * _PADDING), _PAPER)
    draw = ImageDraw.Draw(card)
    draw.rounded_rectangle((0, 0, card.width - 1, card.height - 1), 14 * _SCALE, _CARD, _LINE, _SCALE)
    card.paste(caption, (_PADDING, _PADDING))
    x, y = _PADDING, _PADDING + caption.height + _GAP
    for picture in pictures:
        card.paste(picture, (x, y))
        x += picture.width + _GAP
    card.paste(crops, (x, y) if beside else (_PADDING, y + tall + _GAP))
    return card.resize((card.width // _SCALE, card.height // _SCALE), Image.Resampling.LANCZOS)


def _caption(document: Document, colours: dict[str, tuple[int, int, int]], width: int) -> Image.Image:
    """The caption, wrapped, entity words on their colour; below it what else is known of the clip."""
    font, small = _font(_TEXT), _font(_SMALL)
    line_height, y, x = int(1.5 * _TEXT), 0, 0
    image = Image.new("RGB", (width, 6 * line_height), _CARD)
    draw = ImageDraw.Draw(image)
    for text, word, category in _pieces(document):
        colour = _BACKGROUND_WORD if category == "background" else colours.get(word.casefold())
        for token in _tokens(text):
            length = int(draw.textlength(token, font))
            if x and x + length > width:
                x, y = 0, y + line_height
            if y > 3 * line_height:  # a caption of a page is cut, its card is not the place to read it
                break
            if word and token.strip():
                _mark(draw, (x, y, x + length, y + line_height), colour, filled=colour is not None and category != "background")
            draw.text(
                (x, y + line_height / 2), token, _INK if colour is None or category == "background" else colour, font, "lm"
            )
            x += length
    video = document.video
    facts = [document.key, f"{video.duration_s:.1f} s", f"{video.width} x {video.height}", video.codec]
    about = "  ·  ".join(printable(fact, 60) for fact in [*facts, *document.flags])
    draw.text((0, y + 1.45 * line_height), about, _GREY, small, "lm")
    return image.crop((0, 0, width, y + int(1.9 * line_height)))


def _mark(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colour: tuple[int, int, int] | None, filled: bool) -> None:
    """A word that has masks stands on a tint of its colour; one that has none is underlined."""
    x0, y0, x1, y1 = box
    if filled and colour is not None:
        tint = (230 + colour[0] // 10, 230 + colour[1] // 10, 230 + colour[2] // 10)
        draw.rectangle((x0 - 3 * _SCALE, y0 + 2 * _SCALE, x1 + 3 * _SCALE, y1 - 3 * _SCALE), tint)
    else:
        draw.line((x0, y1 - 5 * _SCALE, x1, y1 - 5 * _SCALE), _BACKGROUND_WORD, _SCALE)


def _pieces(document: Document) -> list[tuple[str, str, str]]:
    """The caption in pieces (text, entity word or "", category): what is marked and what is not."""
    caption, pieces, at = document.caption, [], 0
    spans = sorted((*span, entity.word, entity.category) for entity in document.entities for span in entity.spans)
    for start, end, word, category in spans:
        if start >= at:
            pieces += [(caption[at:start], "", ""), (caption[start:end], word, category)]
            at = end
    return [*pieces, (caption[at:], "", "")]


def _tokens(text: str) -> list[str]:
    """Printable words with the blanks after them."""
    return [token + " " for token in printable(text, 2000).split(" ")[:-1]] + [printable(text, 2000).split(" ")[-1]]


def _pictures(sample: StoredSample, colours: dict[str, tuple[int, int, int]], width: int) -> list[Image.Image]:
    """Three frames and the background, equally large, each with a line of text below."""
    document = sample.document
    frames = [Image.fromarray(frame) for frame in sample.frames]
    aspect = frames[0].width / frames[0].height
    column = (width - 3 * _GAP) // 4
    height = min(_MAX_HEIGHT, int(column / aspect))
    size = (int(height * aspect), height)
    pictures = []
    for index, (frame, about) in enumerate(zip(frames, document.frames, strict=True)):
        shown = [pair for pair in zip(document.instances, sample.masks, strict=True) if pair[0].frame == index]
        drawn = _annotated(frame, shown, colours, size)
        pictures.append(_titled(drawn, f"{about.percent} %  ·  {about.time_s:.1f} s"))
    background = Image.fromarray(sample.background)
    share, word = document.background.masked_share, document.background.word or "background"
    title = f"{printable(word, 30)}  ·  {100 * share:.0f} % inpainted"
    return [*pictures, _titled(background.resize(size, Image.Resampling.LANCZOS), title)]


def _annotated(
    frame: Image.Image,
    instances: list[tuple[InstanceDocument, np.ndarray]],
    colours: dict[str, tuple[int, int, int]],
    size: tuple[int, int],
) -> Image.Image:
    """The frame at `size` under its masks, outlines, boxes and labels; faces have a thin box only."""
    image = frame.resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    scale = size[0] / frame.width
    boxes = []
    for instance, mask in instances:
        colour = colours[instance.word.casefold()]
        box = tuple(round(side * scale) for side in instance.box_xyxy_px)
        if instance.is_face:
            draw.rounded_rectangle(box, 4 * _SCALE, outline=(255, 255, 255), width=_SCALE)
            continue
        _tint(image, mask, colour)
        boxes.append((box, colour, f"{printable(instance.word, 28)} {instance.detector_score:.2f}"))
    for box, colour, _ in boxes:
        draw.rounded_rectangle(box, 4 * _SCALE, outline=colour, width=2 * _SCALE)
    for box, colour, label in boxes:
        _label(draw, box, colour, label, size)
    return image


def _tint(image: Image.Image, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Lay a colour over a mask (H, W) bool, strongest at its edge."""
    large = np.asarray(Image.fromarray(mask).convert("L").resize(image.size, Image.Resampling.BILINEAR), np.float32) / 255
    step_y, step_x = np.gradient(large)
    edge = np.clip(3 * np.hypot(step_x, step_y), 0, 1)
    alpha = np.clip(0.24 * large + edge, 0, 0.95)
    image.paste(colour, (0, 0), Image.fromarray((255 * alpha).astype(np.uint8)))


def _label(
    draw: ImageDraw.ImageDraw, box: tuple[int, ...], colour: tuple[int, int, int], label: str, size: tuple[int, int]
) -> None:
    """White on the word's colour, at the box's upper left corner, always inside the picture."""
    font, height = _font(_TINY), int(1.45 * _TINY)
    width = int(draw.textlength(label, font)) + 10 * _SCALE
    x, y = max(0, min(box[0], size[0] - width)), max(0, box[1] - height)
    draw.rounded_rectangle((x, y, x + width, y + height), 4 * _SCALE, colour)
    draw.text((x + 5 * _SCALE, y + height / 2), label, (255, 255, 255), font, "lm")


def _crops(sample: StoredSample, colours: dict[str, tuple[int, int, int]], width: int, height: int) -> Image.Image:
    """Every reference crop, word by word, as tiles in lines: in `height` if they fit, or else as high as need be."""
    order = list(colours)
    pairs = zip(sample.document.instances, sample.references, strict=True)
    instances = sorted(pairs, key=lambda pair: order.index(pair[0].word.casefold()))
    for side in _TILES:
        columns = max(1, (width + _GAP) // (side + _GAP))
        lines = -(-len(instances) // columns)
        step = side + int(1.7 * _SMALL) + _GAP
        if lines == 1 or lines * step - _GAP <= height:
            break
    image = Image.new("RGB", (width, lines * step - _GAP), _CARD)
    for index, (instance, crop) in enumerate(instances):
        tile = _tile(Image.fromarray(crop), instance, colours[instance.word.casefold()], side)
        image.paste(tile, (index % columns * (side + _GAP), index // columns * step))
    return image


def _tile(crop: Image.Image, instance: InstanceDocument, colour: tuple[int, int, int], side: int) -> Image.Image:
    """A reference crop on a checkerboard over a line of its word's colour, titled with word and frame."""
    factor = min((side - 12 * _SCALE) / max(crop.size), 3.0 * _SCALE)
    size = (max(1, round(crop.width * factor)), max(1, round(crop.height * factor)))
    crop = crop.resize(size, Image.Resampling.LANCZOS)
    tile = _checkerboard(side)
    tile.paste(crop, ((side - size[0]) // 2, (side - size[1]) // 2), crop)
    ImageDraw.Draw(tile).rectangle((0, side - 3 * _SCALE, side, side), colour)
    name = "face" if instance.is_face else printable(instance.word, 40)
    return _titled(tile, f"{name}  ·  {instance.frame + 1}")


def _titled(picture: Image.Image, title: str) -> Image.Image:
    """A picture with a small grey line below, shortened to its width."""
    font, height = _font(_SMALL), int(1.7 * _SMALL)
    image = Image.new("RGB", (picture.width, picture.height + height), _CARD)
    image.paste(picture, (0, 0))
    draw = ImageDraw.Draw(image)
    if draw.textlength(title, font) > picture.width:
        name, dot, rest = title.rpartition("  ·  ")
        while name and draw.textlength(f"{name}…{dot}{rest}", font) > picture.width:
            name = name[:-1]
        title = f"{name}…{dot}{rest}"
    draw.text((0, picture.height + height * 0.58), title, _GREY, font, "lm")
    return image


@functools.cache
def _font(size: int) -> Any:
    """Pillow's own font, so that the sheet needs nothing installed; scripts that it lacks show as boxes."""
    return ImageFont.load_default(size)


def _checkerboard(side: int) -> Image.Image:
    squares = np.add.outer(np.arange(side) // (8 * _SCALE), np.arange(side) // (8 * _SCALE)) % 2
    return Image.fromarray(np.where(squares[..., None], 236, 250).astype(np.uint8).repeat(3, axis=2))
