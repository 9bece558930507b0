"""TensorFlow Lite models of a few operators, written as FlatBuffers: what the translation reads, in the other direction."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np


class Numbers(bytes):
    """A vector of numbers; made by `numbers`."""


def numbers(array: np.ndarray) -> Numbers:
    """`array` of any dtype as a vector."""
    return Numbers(struct.pack("<I", array.size) + np.ascontiguousarray(array).tobytes())


class Scalar(bytes):
    """A number inside a table."""


def scalar(kind: str, value: int) -> Scalar:
    """`kind`: of struct."""
    return Scalar(struct.pack(f"<{kind}", value))


def write(root: dict[int, object]) -> bytes:
    """A FlatBuffer of a tree: tables {field: value}, lists of tables, `numbers` and `scalar`s, behind what refers to them."""
    out = bytearray(b"\0\0\0\0TFL3")

    def refer(place: int, value: object) -> None:
        while len(out) % 4:
            out.append(0)
        struct.pack_into("<I", out, place, put(value) - place)

    def put(value: object) -> int:
        if isinstance(value, dict):
            return put_table(value)
        start = len(out)
        if isinstance(value, Numbers):
            out.extend(value)
        else:
            assert isinstance(value, Sequence)
            out.extend(struct.pack("<I", len(value)) + bytes(4 * len(value)))
            for n, part in enumerate(value):
                refer(start + 4 + 4 * n, part)
        return start

    def put_table(fields: dict[int, object]) -> int:
        count = max(fields, default=-1) + 1
        layout = len(out)
        out.extend(struct.pack("<HH", 4 + 2 * count, 4 + 4 * count) + bytes(2 * count))
        while len(out) % 4:
            out.append(0)
        table = len(out)
        out.extend(struct.pack("<i", table - layout) + bytes(4 * count))
        for field, value in fields.items():
            struct.pack_into("<H", out, layout + 4 + 2 * field, 4 + 4 * field)
            place = table + 4 + 4 * field
            if isinstance(value, Scalar):
                out[place : place + len(value)] = value
            else:
                refer(place, value)
        return table

    refer(0, root)
    return bytes(out)


def model(
    operators: list[tuple[int, list[int], int, dict[int, object]]], tensors: list[tuple[list[int], np.ndarray | None]]
) -> bytes:
    """Operators (code, inputs, output, options) over tensors (shape, constant or None): the first is the input, the last the
    output."""
    buffers: list[dict[int, object]] = [
        {},
        *({0: numbers(np.frombuffer(c.tobytes(), np.uint8))} for _, c in tensors if c is not None),
    ]
    held = iter(range(1, len(buffers)))
    kinds = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.int32): 2}
    described = [
        {
            0: numbers(np.array(shape, np.int32)),
            1: scalar("b", 0 if constant is None else kinds[constant.dtype]),
            2: scalar("I", 0 if constant is None else next(held)),
        }
        for shape, constant in tensors
    ]
    used = [
        {
            0: scalar("I", n),
            1: numbers(np.array(inputs, np.int32)),
            2: numbers(np.array([output], np.int32)),
            4: options,
        }
        for n, (_, inputs, output, options) in enumerate(operators)
    ]
    ends = {1: numbers(np.array([0], np.int32)), 2: numbers(np.array([len(tensors) - 1], np.int32))}
    codes = [{0: scalar("b", code), 3: scalar("i", code)} for code, *_ in operators]
    return write({0: scalar("I", 3), 1: codes, 2: [{0: described, **ends, 3: used}], 4: buffers})
