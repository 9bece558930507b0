"""A picture of what a model makes: a row for each clip, its references with their words | generated frames | true frames.

In: captions, reference images and frames as arrays. Out: a Pillow image, for TensorBoard, RUN/samples and the contact sheet of
`materia sample`. Of a clip a few frames are shown, spread evenly from the first to the last; a word has one colour in its row.
"""

from __future__ import annotations

import bisect
import functools
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FRAMES = 5
"""Most frames of a clip that are shown."""
_FRAME_HEIGHT, _MAX_FRAME_WIDTH = 144, 256
_TILE = 63  # side of a reference; two lines of tiles with their words are as high as a frame with its time
_MARGIN, _PADDING, _GAP, _LINE = 16, 14, 6, 18
_TEXT, _SMALL = 15, 11
_PAPER, _CARD, _INK, _GREY = (243, 242, 238), (255, 255, 255), (34, 34, 38), (125, 124, 122)
_PALETTE = ((226, 72, 61), (36, 123, 211), (22, 150, 98), (222, 133, 16), (137, 87, 199), (205, 66, 140))


class GridRow(NamedTuple):
    """A clip. `references`: word ("" if it has none) and (S, S, 3) uint8 RGB; `generated`, `truth` (T, H, W, 3) uint8 RGB."""

    caption: str
    references: list[tuple[str, np.ndarray]]
    generated: np.ndarray
    truth: np.ndarray | None = None


def grid(rows: list[GridRow]) -> Image.Image:
    """Draw at least one row, each a card with its caption above."""
    parts = [_row(row) for row in rows]
    columns = [max(row[place].width for row in parts) for place in range(3)]  # wide as the widest, so that rows line up
    width = sum(columns) + 2 * _GAP * sum(column > 0 for column in columns[1:]) + 2 * (_PADDING + _MARGIN)
    heights = [max(part.height for part in row) + _LINE + 10 + 2 * _PADDING for row in parts]
    picture = Image.new("RGB", (max(width, 480), sum(heights) + _MARGIN * (len(rows) + 1)), _PAPER)
    draw, top = ImageDraw.Draw(picture), _MARGIN
    for row, row_parts, height in zip(rows, parts, heights, strict=True):
        draw.rounded_rectangle((_MARGIN, top, picture.width - _MARGIN, top + height), 8, _CARD)
        left = _MARGIN + _PADDING
        caption = _fitting(row.caption, _TEXT, picture.width - 2 * left)
        draw.text((left, top + _PADDING + _LINE / 2), caption, _INK, _font(_TEXT), "lm")
        for part, column in zip(row_parts, columns, strict=True):
            picture.paste(part, (left, top + _PADDING + _LINE + 10))
            left += column + 2 * _GAP * (column > 0)
        top += height + _MARGIN
    return picture


def _row(row: GridRow) -> tuple[Image.Image, Image.Image, Image.Image]:
    """References, generated frames and true frames; a part that is not there has no width."""
    nothing = Image.new("RGB", (0, 0))
    truth = nothing if row.truth is None else _frames(row.truth, "truth")
    return (_tiles(row.references) if row.references else nothing), _frames(row.generated, "generated"), truth


def _frames(video: np.ndarray, title: str) -> Image.Image:
    """Some frames of a clip (T, H, W, 3) side by side, each with its number; the first has the title too."""
    count, height, width = video.shape[:3]
    scale = min(_FRAME_HEIGHT / height, _MAX_FRAME_WIDTH / width)
    size = (max(24, round(width * scale)), max(24, round(height * scale)))
    shown = np.linspace(0, count - 1, min(FRAMES, count)).round().astype(int)
    image = Image.new("RGB", (len(shown) * (size[0] + _GAP) - _GAP, size[1] + _LINE), _CARD)
    for index, number in enumerate(shown):
        left = index * (size[0] + _GAP)
        image.paste(Image.fromarray(video[number]).resize(size, Image.Resampling.BICUBIC), (left, 0))
        label = f"{title}  ·  {number + 1}" if index == 0 else f"{number + 1}"
        _write(image, left, size[1], label, size[0])
    return image


def _tiles(references: list[tuple[str, np.ndarray]]) -> Image.Image:
    """References in two lines, each over a bar of its word's colour and the word."""
    words = list(dict.fromkeys(word for word, _ in references))
    columns = -(-len(references) // 2)
    step = _TILE + _LINE
    image = Image.new("RGB", (columns * (_TILE + _GAP) - _GAP, (2 if len(references) > 1 else 1) * step), _CARD)
    draw = ImageDraw.Draw(image)
    for index, (word, pixels) in enumerate(references):
        left, top = index % columns * (_TILE + _GAP), index // columns * step
        image.paste(Image.fromarray(pixels).resize((_TILE, _TILE), Image.Resampling.BICUBIC), (left, top))
        colour = _PALETTE[words.index(word) % len(_PALETTE)]
        draw.rectangle((left, top + _TILE - 3, left + _TILE - 1, top + _TILE - 1), colour)
        _write(image, left, top + _TILE, word or "background", _TILE)
    return image


def _write(image: Image.Image, left: int, top: int, text: str, width: int) -> None:
    ImageDraw.Draw(image).text((left, top + _LINE / 2), _fitting(text, _SMALL, width), _GREY, _font(_SMALL), "lm")


def _fitting(text: str, size: int, width: int) -> str:
    """One line of the text, cut to `width` px; what cannot be drawn is replaced, for captions are strangers' words."""
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text[:500].split()))
    if _font(size).getlength(text) <= width:
        return text
    letters = bisect.bisect_right(range(len(text)), width, key=lambda n: _font(size).getlength(text[:n] + "…")) - 1
    return text[: max(0, letters)] + "…"


@functools.cache
def _font(size: int) -> Any:
    """Pillow's own font, so that nothing need be installed; scripts that it lacks show as boxes."""
    return ImageFont.load_default(size)
