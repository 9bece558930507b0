"""Pictures that the page asks for beside the members themselves: small ones, and masks to lay over them.

In: bytes of a member, run-length masks. Out: encoded pictures. What is no picture, or a monstrous one, is an OutputError.
"""

from __future__ import annotations

import io
import threading

import numpy as np
from PIL import Image, ImageFilter

from materia.dataset.documents import Document, MaskDocument
from materia.dataset.layout import OutputError
from materia.dataset.masks import decode_rle
from materia.report.drawing import PALETTE, Colour
from materia.view.cards import tracks_of

MOST_PIXELS = 50_000_000
"""Of a picture or mask that is decoded."""
WIDTHS = (96, 192, 384, 768, 1536)
"""Sizes of small pictures, px; what is asked for is rounded up to one of them, so that the browser keeps few."""
_INSIDE, _EDGE = 84, 235
"""Alpha of a mask."""
_BORROWED = PALETTE[6]


_AT_ONCE = threading.BoundedSemaphore(4)
"""Pictures that are in memory."""


def width_for(wanted: int) -> int:
    """The size that is drawn for `wanted` px."""
    return next((width for width in WIDTHS if width >= wanted), WIDTHS[-1])


def small_picture(data: bytes, width: int) -> tuple[bytes, str]:
    """(encoded picture within width x width px, its media type); one with transparency stays so. Raises OutputError."""
    with _AT_ONCE:
        return _made_small(data, width)


def _made_small(data: bytes, width: int) -> tuple[bytes, str]:
    try:
        file = Image.open(io.BytesIO(data))
        _check_size(file.size)
        file.draft("RGB", (width, width))
        has_alpha = "A" in file.getbands() or "transparency" in file.info
        image = file.convert("RGBA" if has_alpha else "RGB")
    except OutputError:
        raise
    except Exception as error:  # Pillow raises anything for what is no picture
        raise OutputError(f"the picture is broken: {error}") from None
    image.thumbnail((width, width), Image.Resampling.BILINEAR)
    encoded = io.BytesIO()
    if has_alpha:
        image.save(encoded, "PNG", compress_level=1)
        return encoded.getvalue(), "image/png"
    image.save(encoded, "JPEG", quality=84)
    return encoded.getvalue(), "image/jpeg"


def frame_masks(document: Document, frame: int, width: int) -> bytes:
    """The masks of a frame of record as a PNG of `width` px, each in the colour of its track. Raises OutputError."""
    tracks = tracks_of(document)
    layers = [
        (one.mask_rle, PALETTE[tracks[one.word.casefold()] % len(PALETTE)])
        for one in document.instances
        if one.frame == frame and not one.is_face
    ]
    size = document.instances[0].mask_rle.size
    return _png(layers, size, width)


def borrowed_mask(document: Document, width: int) -> bytes:
    """What of the background was borrowed from other frames, as a PNG. Raises OutputError."""
    rle = document.background.borrowed_rle
    return _png([] if rle is None else [(rle, _BORROWED)], document.instances[0].mask_rle.size, width)


def _check_size(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise OutputError(f"{size[0]} x {size[1]} px is too large to be shown")


def _mask(rle: MaskDocument, size: tuple[int, int]) -> np.ndarray:
    _check_size(rle.size)
    mask = decode_rle(rle.counts, rle.size) if rle.size == size else None
    if mask is None:
        raise OutputError("a mask is broken")
    return mask


def _png(masks: list[tuple[MaskDocument, Colour]], size: tuple[int, int], width: int) -> bytes:
    """Masks in their colours on transparent ground; `size` is (H, W)."""
    with _AT_ONCE:
        return _drawn(masks, size, width)


def _drawn(masks: list[tuple[MaskDocument, Colour]], size: tuple[int, int], width: int) -> bytes:
    _check_size(size)
    scale = min(1.0, width / max(size))
    small = (max(1, round(size[1] * scale)), max(1, round(size[0] * scale)))
    picture = Image.new("RGBA", small)
    for rle, colour in masks:
        shape = Image.fromarray(_mask(rle, size)).convert("L").resize(small, Image.Resampling.BOX)
        inside = shape.point(lambda value: 255 if value > 127 else 0)
        core = inside.filter(ImageFilter.MinFilter(3))
        alpha = np.where(
            np.asarray(core) > 0, np.uint8(_INSIDE), np.where(np.asarray(inside) > 0, np.uint8(_EDGE), np.uint8(0))
        )
        layer = Image.new("RGBA", small, (*colour, 0))
        layer.putalpha(Image.fromarray(alpha))
        picture.alpha_composite(layer)
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", compress_level=1)
    return encoded.getvalue()
