"""Where the labels of boxes stand on a picture: near their boxes, inside the picture, none on another.

In: boxes and the sizes of their labels, in pixels. Out: a corner for each label. Boxes are taken from the top down; each label
takes the nearest free place to the upper left corner of its box. A label can always be pushed left and up until it touches the
border or another label, so the places where it would touch both are all that need be tried: if none of these is free, the
picture has no room for it, and it is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

MOST_LABELS = 48
"""On a picture: each is compared with all others, and a stranger's shard may hold any number of boxes."""

Corner = tuple[int, int]
Rectangle = tuple[int, int, int, int]


def place_labels(boxes: Sequence[Rectangle], sizes: Sequence[Corner], picture: Corner) -> list[Corner | None]:
    """The upper left corner (x, y) of each label, in the order of the boxes; None where there is no room left.

    `boxes`: (x0, y0, x1, y1), inside the picture or not; `sizes`, `picture`: (width, height); all px, integers. The same input
    gives the same places. Of more than `MOST_LABELS` boxes the lower ones get none.
    """
    places: list[Corner | None] = [None] * len(boxes)
    taken: list[Rectangle] = []
    for number in sorted(range(len(boxes)), key=lambda number: (boxes[number][1], boxes[number][0], number))[:MOST_LABELS]:
        width, height = sizes[number]
        corner = _nearest_free(boxes[number], sizes[number], picture, taken)
        if corner is not None:
            places[number] = corner
            taken.append((*corner, corner[0] + width, corner[1] + height))
    return places


def _nearest_free(box: Rectangle, size: Corner, picture: Corner, taken: list[Rectangle]) -> Corner | None:
    """Above the box's upper left corner if that is free; else the free place nearest to that."""
    (x0, y0, x1, y1), (width, height) = box, size
    wanted = (x0, y0 - height)
    columns = {x0, x1 - width, 0, picture[0] - width, *(side for other in taken for side in (other[2], other[0] - width))}
    rows = {y0 - height, y0, y1 - height, y1, 0, picture[1] - height}
    rows |= {side for other in taken for side in (other[3], other[1] - height)}
    inside = (_within(columns, picture[0] - width), _within(rows, picture[1] - height))
    places = np.array(sorted(product(*inside)), np.int64).reshape(-1, 2)  # (N, 2) x y
    order = np.argsort(np.abs(places - wanted).sum(axis=1), kind="stable")
    others = np.array(taken, np.int64).reshape(-1, 4)
    for x, y in places[order].tolist():
        crossing = (x < others[:, 2]) & (others[:, 0] < x + width) & (y < others[:, 3]) & (others[:, 1] < y + height)
        if not crossing.any():
            return x, y
    return None


def _within(values: set[int], largest: int) -> set[int]:
    """The values drawn to the nearest of 0 .. largest; none if a label is larger than the picture."""
    return {max(0, min(value, largest)) for value in values} if largest >= 0 else set()
