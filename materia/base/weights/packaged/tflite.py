"""Translate a TensorFlow Lite model into ONNX, operator by operator.

In: the bytes of a model (a FlatBuffer of tensorflow/lite/schema/schema.fbs, by whose field and enumeration numbers it is read).
Out: the bytes of an ONNX model, always the same, that takes any number of pictures: a phone's app fixes how many. Only what the
network that we package is made of is known: float32, the operators of OPERATORS, no activation fused; the rest is an error.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto, helper

from materia.base.weights.packaged.tfjs import Translation, UnknownNode

SAME = 0
"""Of `Padding`; VALID is 1."""
FLOAT32, INT32 = 0, 2
"""Of `TensorType`."""


class Table(NamedTuple):
    """A table of a FlatBuffer: `place` in `data`, where its fields are found by number."""

    data: bytes
    place: int

    def number(self, field: int, kind: str = "i", default: int = 0) -> int:
        """A scalar; `kind`: of struct."""
        place = self._field(field)
        return self._at(place, kind) if place else default

    def table(self, field: int) -> Table:
        """Another table; where there is none, one without fields."""
        place = self._field(field)
        return Table(self.data, place + self._at(place, "I")) if place else Table(self.data, 0)

    def tables(self, field: int) -> list[Table]:
        """A vector of tables."""
        start, count = self._vector(field)
        return [Table(self.data, place + self._at(place, "I")) for place in range(start, start + 4 * count, 4)]

    def array(self, field: int, dtype: str = "<i4") -> np.ndarray:
        """A vector of numbers, (N,)."""
        start, count = self._vector(field)
        return np.frombuffer(self.data, dtype, count, start)

    def _vector(self, field: int) -> tuple[int, int]:
        """Where its elements begin, and how many there are."""
        if not (place := self._field(field)):
            return 0, 0
        start = place + self._at(place, "I")
        return start + 4, self._at(start, "I")

    def _field(self, number: int) -> int:
        """Where a field is; 0 if the table has none."""
        if not self.place:
            return 0
        layout = self.place - self._at(self.place, "i")
        entry = 4 + 2 * number
        offset = self._at(layout + entry, "H") if entry < self._at(layout, "H") else 0
        return self.place + offset if offset else 0

    def _at(self, place: int, kind: str) -> int:
        value: int = struct.unpack_from(f"<{kind}", self.data, place)[0]
        return value


class Operator(NamedTuple):
    """`options`: its own table of the schema; names of tensors."""

    options: Table
    inputs: list[str]
    output: str


def convert(data: bytes, name: str) -> bytes:
    """ONNX model of a model's first graph; `name` is the graph's. Its inputs and outputs are called input0, output0, ...

    Raises UnknownNode for what is not known, ValueError for what is no TensorFlow Lite model.
    """
    if data[4:8] != b"TFL3":
        raise ValueError("no TensorFlow Lite model")
    model = Table(data, struct.unpack_from("<I", data)[0])
    graph, codes = model.tables(2)[0], [max(code.number(0, "b"), code.number(3)) for code in model.tables(1)]
    tensors, buffers = graph.tables(0), model.tables(4)
    names = [f"t{n}" for n in range(len(tensors))]
    ends = [(kind, n, int(at)) for kind, field in (("input", 1), ("output", 2)) for n, at in enumerate(graph.array(field))]
    for kind, n, at in ends:
        names[at] = f"{kind}{n}"
    contents = [buffers[tensor.number(2, "I")].array(0, "u1") for tensor in tensors]
    constants = {
        names[n]: _constant(tensor, contents[n]) for n, tensor in enumerate(tensors) if len(contents[n]) and names[n][0] == "t"
    }
    translation = Translation(constants)
    for operator in graph.tables(3):
        code = codes[operator.number(0, "I")]
        if code not in OPERATORS:
            raise UnknownNode(f"no translation for operator {code}")
        [output] = operator.array(2)
        OPERATORS[code](translation, Operator(operator.table(4), [names[n] for n in operator.array(1)], names[output]))
    inputs, outputs = (
        [
            helper.make_tensor_value_info(names[at], TensorProto.FLOAT, [None, *tensors[at].array(0)[1:].tolist()])
            for kind, _, at in ends
            if kind == wanted
        ]
        for wanted in ("input", "output")
    )
    return translation.model(name, inputs, outputs)


def _constant(tensor: Table, content: np.ndarray) -> np.ndarray:
    kinds = {FLOAT32: "<f4", INT32: "<i4"}
    if (kind := tensor.number(1, "b")) not in kinds:
        raise UnknownNode(f"a constant of type {kind}")
    return np.frombuffer(content.tobytes(), kinds[kind]).reshape(tensor.array(0))


def _without_activation(operator: Operator, field: int) -> None:
    """Raises UnknownNode for one that is fused into the operator; `field`: of its options."""
    if activation := operator.options.number(field, "b"):
        raise UnknownNode(f"{operator.output}: fused activation {activation}")


def _convolution(depthwise: bool) -> Callable[[Translation, Operator], None]:
    """A filter is (out, kh, kw, in), or (1, kh, kw, out) of a depthwise one; ONNX's (out, in / groups, kh, kw)."""
    activation, dilations = (4, (5, 6)) if depthwise else (3, (4, 5))

    def translate(t: Translation, operator: Operator) -> None:
        options, data, bias = operator.options, operator.inputs[0], operator.inputs[2]
        kernel = t.constants[operator.inputs[1]]
        _without_activation(operator, activation)
        if depthwise and options.number(3) != 1:
            raise UnknownNode(f"{operator.output}: depthwise convolution with a multiplier")
        if any(options.number(field, default=1) != 1 for field in dilations):
            raise UnknownNode(f"{operator.output}: dilated convolution")
        weight = t.constant(f"{operator.output}/kernel", kernel.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2)))
        window: dict[str, Any] = {"strides": [options.number(2), options.number(1)]}
        if options.number(0, "b") == SAME:
            window["auto_pad"] = "SAME_UPPER"
        t.spatial("Conv", [data, weight, bias], operator.output, group=kernel.shape[3] if depthwise else 1, **window)

    return translate


def _elementwise(kind: str) -> Callable[[Translation, Operator], None]:
    def translate(t: Translation, operator: Operator) -> None:
        _without_activation(operator, 0)
        t.emit(kind, operator.inputs, operator.output)

    return translate


def _reshape(t: Translation, operator: Operator) -> None:
    sizes = operator.options.array(0)
    shape = t.constant(f"{operator.output}/shape", np.array([-1, *sizes[1:]]))
    t.emit("Reshape", [operator.inputs[0], shape], operator.output)


OPERATORS: dict[int, Callable[[Translation, Operator], None]] = {
    0: _elementwise("Add"),
    3: _convolution(depthwise=False),
    4: _convolution(depthwise=True),
    18: _elementwise("Mul"),
    19: _elementwise("Relu"),
    22: _reshape,
    41: _elementwise("Sub"),
    101: _elementwise("Abs"),
}
"""Number in `BuiltinOperator` -> translation. Relu and Abs have no options, so nothing is fused into them."""
