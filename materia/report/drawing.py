"""What the cards of a contact sheet are drawn with: sizes, colours, type, captions, boxes and their labels.

Everything is drawn at `SCALE` times its size and halved at the end, for smooth edges, or left as it is for print. Text comes
from captions, shards and tables of strangers: it is made printable and cut to its room here.
"""

from __future__ import annotations

import bisect
import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from materia.base.terminal import printable
from materia.report.labels import place_labels

Colour = tuple[int, int, int]

SCALE = 2
WIDTH = 1800 * SCALE
MARGIN, PADDING, GAP = 28 * SCALE, 26 * SCALE, 12 * SCALE
INNER = WIDTH - 2 * MARGIN - 2 * PADDING
"""Width of what stands on a card."""
MAX_HEIGHT = 300 * SCALE
"""Of a frame; a portrait one would tower over the sheet."""
TEXT, SMALL, TINY = 23 * SCALE, 15 * SCALE, 14 * SCALE
PAPER, CARD, LINE, INK, GREY = (243, 242, 238), (255, 255, 255), (226, 224, 218), (34, 34, 38), (125, 124, 122)
PALETTE: tuple[Colour, ...] = (
    (226, 72, 61), (36, 123, 211), (22, 150, 98), (222, 133, 16), (137, 87, 199), (205, 66, 140), (16, 149, 166),
    (120, 128, 30),
)  # fmt: skip
_UNMASKED_WORD = (120, 120, 124)
_CAPTION_LINES = 4
"""A caption of a page is cut, its card is not the place to read it."""


class Marked(NamedTuple):
    """A word of a caption: where it stands, [start, end) in code points, and its colour; None: it is underlined."""

    start: int
    end: int
    colour: Colour | None


class Box(NamedTuple):
    """A box (x0, y0, x1, y1), px of the picture that it is drawn on (see `scaled`), and its label."""

    xyxy: tuple[int, int, int, int]
    colour: Colour
    label: str


def scaled(box_xyxy_px: Sequence[float], scale: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A frame's box on its picture of `size` px, `scale` times as large; what a stranger puts far outside stays near it."""
    most = 2 * max(size)
    x0, y0, x1, y1 = (round(min(max(side * scale, -most), most)) for side in box_xyxy_px)
    return x0, y0, max(x0, x1), max(y0, y1)


def colours_of(cards: Iterable[Sequence[str]]) -> dict[str, Colour]:
    """A colour for each word (case-folded): one all over the sheet, and, while there are enough, another one than those that
    stand on a card with it. `cards`: the words of each card.
    """
    together: dict[str, set[str]] = {}
    for words in cards:
        folded = dict.fromkeys(word.casefold() for word in words)
        for word in folded:
            together.setdefault(word, set()).update(folded)
    colours: dict[str, Colour] = {}
    for word, others in together.items():
        near = Counter(colours[other] for other in others if other in colours)
        used = Counter(colours.values())
        colours[word] = min(PALETTE, key=lambda colour: (near[colour], used[colour]))
    return colours


def card(
    caption: Image.Image, pictures: Sequence[Image.Image], beside: Image.Image | None, below: Image.Image | None
) -> Image.Image:
    """A card: the caption above, the pictures in a line, one thing beside and one below them."""
    line = [*pictures, *([beside] if beside else [])]
    tall = max(picture.height for picture in line)
    height = caption.height + GAP + tall + (GAP + below.height if below else 0) + 2 * PADDING
    image = Image.new("RGB", (INNER + 2 * PADDING, height), PAPER)
    ImageDraw.Draw(image).rounded_rectangle((0, 0, image.width - 1, height - 1), 14 * SCALE, CARD, LINE, SCALE)
    image.paste(caption, (PADDING, PADDING))
    x, y = PADDING, PADDING + caption.height + GAP
    for picture in line:
        image.paste(picture, (x, y))
        x += picture.width + GAP
    if below:
        image.paste(below, (PADDING, y + tall + GAP))
    return image


def caption_image(caption: str, marked: Iterable[Marked], facts: Iterable[str], alarm: str = "") -> Image.Image:
    """The caption, wrapped, entity words on their colour; below it what else is known of the clip, and in red an alarm."""
    font, line_height = font_of(TEXT), int(1.5 * TEXT)
    image = Image.new("RGB", (INNER, 12 * line_height), CARD)
    draw = ImageDraw.Draw(image)
    x = y = 0
    for text, word in pieces(caption, marked):
        for token in _tokens(text):
            length = int(draw.textlength(token, font))
            if x and x + length > INNER:
                x, y = 0, y + line_height
            if y >= _CAPTION_LINES * line_height:
                break
            if word and token.strip():
                _mark(draw, (x, y, x + length, y + line_height), word.colour)
            draw.text((x, y + line_height / 2), token, word.colour if word and word.colour else INK, font, "lm")
            x += length
    y = min(y, (_CAPTION_LINES - 1) * line_height) + int(1.45 * line_height)
    about = "  ·  ".join(printable(fact, 60) for fact in facts)
    draw.text((0, y), fitting(about, SMALL, INNER), GREY, font_of(SMALL), "lm")
    for number, line in enumerate(wrapped(alarm, SMALL, INNER, 4)):
        y += int((1.5 if number == 0 else 1.3) * SMALL)
        draw.text((0, y), line, PALETTE[0], font_of(SMALL), "lm")
    return image.crop((0, 0, INNER, y + int(0.45 * line_height)))


def _mark(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colour: Colour | None) -> None:
    """A word that has masks stands on a tint of its colour; one that has none is underlined."""
    x0, y0, x1, y1 = box
    if colour is not None:
        tint = (230 + colour[0] // 10, 230 + colour[1] // 10, 230 + colour[2] // 10)
        draw.rectangle((x0 - 3 * SCALE, y0 + 2 * SCALE, x1 + 3 * SCALE, y1 - 3 * SCALE), tint)
    else:
        draw.line((x0, y1 - 5 * SCALE, x1, y1 - 5 * SCALE), _UNMASKED_WORD, SCALE)


def pieces(caption: str, marked: Iterable[Marked]) -> list[tuple[str, Marked | None]]:
    """The caption in pieces: what is marked, how, and what is not; of words that overlap the first counts."""
    found: list[tuple[str, Marked | None]] = []
    at = 0
    for word in sorted(marked, key=lambda word: (word.start, word.end)):
        if at <= word.start < word.end:
            found += [(caption[at : word.start], None), (caption[word.start : word.end], word)]
            at = word.end
    return [*found, (caption[at:], None)]


def _tokens(text: str) -> list[str]:
    """Printable words with the blanks after them; what is longer than a line is cut."""
    words = printable(text, 2000).split(" ")
    return [fitting(token, TEXT, INNER) for token in [*(word + " " for word in words[:-1]), words[-1]]]


def annotated(image: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """Draw boxes and their labels, white on the colour of the word, on the picture; no label covers another."""
    draw, font = ImageDraw.Draw(image), font_of(TINY)
    inset, height = 5 * SCALE, int(1.45 * TINY)
    for box in boxes:
        draw.rounded_rectangle(box.xyxy, 4 * SCALE, outline=box.colour, width=2 * SCALE)
    labels = [fitting(box.label, TINY, image.width - 2 * inset) for box in boxes]
    sizes = [(int(draw.textlength(label, font)) + 2 * inset, height) for label in labels]
    gap = SCALE  # between labels, so that two of them are not read as one
    places = place_labels(
        [box.xyxy for box in boxes],
        [(width + gap, height + gap) for width, height in sizes],
        (image.width + gap, image.height + gap),
    )
    for box, label, size, place in zip(boxes, labels, sizes, places, strict=True):
        if place is not None:
            x, y = place
            draw.rounded_rectangle((x, y, x + size[0] - 1, y + size[1] - 1), 4 * SCALE, box.colour)
            draw.text((x + inset, y + height / 2), label, (255, 255, 255), font, "lm")
    return image


def titled(picture: Image.Image, title: str) -> Image.Image:
    """A picture with a small grey line below, its name ("name  ·  rest") shortened to the picture's width."""
    height = int(1.7 * SMALL)
    image = Image.new("RGB", (picture.width, picture.height + height), CARD)
    image.paste(picture, (0, 0))
    name, dot, rest = title.rpartition("  ·  ")
    room = picture.width - font_of(SMALL).getlength(dot + rest)
    shown = fitting(name, SMALL, room) + dot + rest if name and room > 0 else fitting(title, SMALL, picture.width)
    ImageDraw.Draw(image).text((0, picture.height + height * 0.58), shown, GREY, font_of(SMALL), "lm")
    return image


def blank(size: tuple[int, int], text: str) -> Image.Image:
    """A grey picture that says why there is none."""
    image = Image.new("RGB", size, (226, 225, 221))
    draw, room = ImageDraw.Draw(image), size[0] - 4 * GAP
    lines = wrapped(text, SMALL, room, 8)
    y = size[1] / 2 - 0.7 * SMALL * (len(lines) - 1)
    for line in lines:
        draw.text((size[0] / 2, y), line, (95, 94, 92), font_of(SMALL), "mm")
        y += 1.4 * SMALL
    return image


def size_beside(aspect: float, columns: int = 4) -> tuple[int, int]:
    """(width, height) of a frame of which `columns` stand in a line; `aspect`: width / height."""
    column = (INNER - (columns - 1) * GAP) // columns
    height = max(1, min(MAX_HEIGHT, int(column / aspect)))
    return max(1, min(column, int(height * aspect))), height


def wrapped(text: str, size: int, width: float, most: int) -> list[str]:
    """The text in at most `most` lines of `width` px; what is left is cut."""
    lines = [""] if text else []
    for word in printable(text, 2000).split():
        longer = f"{lines[-1]} {word}".strip()
        if len(lines) == most or font_of(size).getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return [fitting(line, size, width) for line in lines]


def fitting(text: str, size: int, width: float) -> str:
    """The text, printable and cut to `width` px."""
    text = printable(text, 2000)
    font = font_of(size)
    if font.getlength(text) <= width:
        return text
    letters = bisect.bisect_right(range(len(text)), width, key=lambda n: font.getlength(text[:n] + "…")) - 1
    return text[: max(0, letters)] + "…"


def checkerboard(side: int) -> Image.Image:
    """What transparent pixels are shown on."""
    squares = np.add.outer(np.arange(side) // (8 * SCALE), np.arange(side) // (8 * SCALE)) % 2
    return Image.fromarray(np.where(squares[..., None], 236, 250).astype(np.uint8).repeat(3, axis=2))


@functools.cache
def font_of(size: int) -> Any:
    """Pillow's own font, so that the sheet needs nothing installed; scripts that it lacks show as boxes."""
    return ImageFont.load_default(size)
