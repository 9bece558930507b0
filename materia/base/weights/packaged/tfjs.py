"""Translate a TensorFlow.js graph model into ONNX, node by node.

In: MODEL.json (topology and weights manifest) with its weight shards beside it. Out: the bytes of an ONNX model, always the
same. Only the node kinds of the detectors that we package are known; any other is an error that names it. Layouts are kept as
TensorFlow has them: each NHWC convolution or pooling is wrapped in transposes, which ONNX Runtime cancels against each other
when it loads the graph. That is simpler than rewriting the graph's layout here, and costs nothing when it runs.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18  # the first in which Resize takes axes
IR_VERSION = 9
NHWC_TO_NCHW = [0, 3, 1, 2]
NCHW_TO_NHWC = [0, 2, 3, 1]


class UnknownNode(ValueError):
    """A node kind, or a use of one, that this translation does not cover."""


class Part(NamedTuple):
    """The part of a graph between two of its nodes, by name, with the shapes of what the first gives and the last."""

    first: str
    first_shape: tuple[int, ...]
    last: str
    last_shape: tuple[int, ...]


def read_weights(model: dict[str, Any], folder: Path) -> dict[str, np.ndarray]:
    """Constants by name, float32 or int32. Quantised ones (float16, or uint8/uint16 with scale and min) are widened."""
    weights = {}
    for group in model["weightsManifest"]:
        data = b"".join((folder / path).read_bytes() for path in group["paths"])
        offset = 0
        for entry in group["weights"]:
            stored = np.dtype(entry.get("quantization", entry)["dtype"])
            count = int(np.prod(entry["shape"], dtype=np.int64))
            value = np.frombuffer(data, stored.newbyteorder("<"), count, offset).reshape(entry["shape"])
            offset += value.nbytes
            if "scale" in entry.get("quantization", {}):
                value = value * np.float32(entry["quantization"]["scale"]) + np.float32(entry["quantization"]["min"])
            weights[entry["name"]] = value.astype(entry["dtype"])
        if offset != len(data):
            raise ValueError(f"weights of {group['paths']}: manifest describes {offset} bytes, files hold {len(data)}")
    return weights


class Translation:
    """The ONNX graph as it grows: nodes in order, initializers, and the constants known so far."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.constants = dict(weights)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def emit(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node; constants among its inputs become initializers."""
        for name in inputs:
            if name in self.constants and name not in self.initializers:
                self.constant(name, self.constants[name])
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add an initializer; integers become int64, as ONNX wants shapes and axes."""
        value = value.astype(np.int64) if np.issubdtype(value.dtype, np.integer) else value.astype(np.float32)
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def spatial(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A convolution, pooling or resize of an NHWC tensor: to NCHW, the ONNX node, and back."""
        nchw = self.emit("Transpose", inputs[:1], f"{output}/nchw", perm=NHWC_TO_NCHW)
        result = self.emit(kind, [nchw, *inputs[1:]], f"{output}/result", **attributes)
        return self.emit("Transpose", [result], output, perm=NCHW_TO_NHWC)

    def model(self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> bytes:
        """The finished model, checked; the same bytes for the same nodes."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, list(self.initializers.values()))
        onnx_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(onnx_model, full_check=True)
        serialized: bytes = onnx_model.SerializeToString(deterministic=True)
        return serialized


Node = dict[str, Any]


def _attribute(node: Node, name: str, kind: str) -> Any:
    return node["attr"][name][kind]


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode()


def _window(node: Node) -> dict[str, Any]:
    """Strides and padding of a convolution or pooling, checked to be what ONNX expresses in the same way."""
    if _text(_attribute(node, "data_format", "s")) != "NHWC":
        raise UnknownNode(f"{node['name']}: data format other than NHWC")
    if "dilations" in node["attr"] and any(int(i) != 1 for i in _attribute(node, "dilations", "list")["i"]):
        raise UnknownNode(f"{node['name']}: dilated convolution")
    window: dict[str, Any] = {"strides": [int(i) for i in _attribute(node, "strides", "list")["i"][1:3]]}
    if _text(_attribute(node, "padding", "s")) == "SAME":
        window["auto_pad"] = "SAME_UPPER"
    return window  # VALID is ONNX's default; saying it by name would keep ONNX Runtime from fusing a Pad before it


def _convolution(t: Translation, node: Node, bias: list[str], output: str) -> None:
    """TensorFlow's filter is (kh, kw, in / groups, out), or (kh, kw, in, multiplier); ONNX's (out, in / groups, kh, kw)."""
    kernel = t.constants[node["input"][1]]
    height, width, fan_in, fan_out = kernel.shape
    if node["op"].endswith("DepthwiseConv2dNative"):
        kernel, groups = kernel.reshape(height, width, 1, fan_in * fan_out), fan_in
    else:  # exporters write depthwise convolution also as grouped Conv2D; no image or feature here has a single channel
        groups = fan_out if fan_in == 1 else 1
    weight = t.constant(f"{output}/kernel", kernel.transpose(3, 2, 0, 1))
    t.spatial("Conv", [node["input"][0], weight, *bias], output, group=groups, **_window(node))


def _conv2d(t: Translation, node: Node) -> None:
    _convolution(t, node, [], node["name"])


def _fused_conv2d(t: Translation, node: Node) -> None:
    """A convolution, plain or depthwise, with its bias and what follows that."""
    fused = [_text(s) for s in _attribute(node, "fused_ops", "list")["s"]]
    if fused not in (["BiasAdd"], ["BiasAdd", "Relu"], ["BiasAdd", "Relu6"]):
        raise UnknownNode(f"{node['name']}: {node['op']} with {fused}")
    if fused == ["BiasAdd"]:
        _convolution(t, node, node["input"][2:3], node["name"])
        return
    linear = f"{node['name']}/linear"
    _convolution(t, node, node["input"][2:3], linear)
    TRANSLATORS[fused[-1]](t, {**node, "input": [linear]})


def _pool(kind: str) -> Callable[[Translation, Node], None]:
    def translate(t: Translation, node: Node) -> None:
        kernel = [int(i) for i in _attribute(node, "ksize", "list")["i"][1:3]]
        t.spatial(kind, node["input"], node["name"], kernel_shape=kernel, **_window(node))

    return translate


def _transposed_convolution(t: Translation, node: Node) -> None:
    """Inputs are output shape, filter (kh, kw, out, in), data; only the kind that tiles its output, kernel = stride."""
    kernel = t.constants[node["input"][1]]
    strides = _window(node)["strides"]
    if list(kernel.shape[:2]) != strides:
        raise UnknownNode(f"{node['name']}: transposed convolution with kernel {kernel.shape[:2]} and stride {strides}")
    weight = t.constant(f"{node['name']}/kernel", kernel.transpose(3, 2, 0, 1))
    t.spatial("ConvTranspose", [node["input"][2], weight], node["name"], strides=strides)


def _relu6(t: Translation, node: Node) -> None:
    bounds = [t.constant(f"{node['name']}/{bound}", np.array(float(bound))) for bound in (0, 6)]
    t.emit("Clip", [*node["input"], *bounds], node["name"])


def _add(t: Translation, node: Node) -> None:
    if all(name in t.constants for name in node["input"]):
        t.constants[node["name"]] = t.constants[node["input"][0]] + t.constants[node["input"][1]]
    else:
        t.emit("Add", node["input"], node["name"])


def _sparse_to_dense(t: Translation, node: Node) -> None:
    """Shape arithmetic left over by an exporter: always constant, always empty."""
    indices, shape, values, default = (t.constants[name] for name in node["input"])
    if len(indices) or len(values):
        raise UnknownNode(f"{node['name']}: SparseToDense with values")
    t.constants[node["name"]] = np.full(shape, default)


def _pad(t: Translation, node: Node) -> None:
    """TensorFlow pads by rows (before, after); ONNX by all befores, then all afters."""
    pads = t.constant(f"{node['name']}/pads", t.constants[node["input"][1]].T.reshape(-1))
    t.emit("Pad", [node["input"][0], pads, *node["input"][2:]], node["name"])


def _resize_bilinear(t: Translation, node: Node) -> None:
    if _attribute(node, "align_corners", "b") or not _attribute(node, "half_pixel_centers", "b"):
        raise UnknownNode(f"{node['name']}: ResizeBilinear without half-pixel centres")
    size = t.constant(f"{node['name']}/size", t.constants[node["input"][1]])
    options = {"mode": "linear", "coordinate_transformation_mode": "half_pixel", "axes": [2, 3]}
    t.spatial("Resize", [node["input"][0], "", "", size], node["name"], **options)


def _split(t: Translation, node: Node) -> None:
    """TensorFlow names a node's outputs name, name:1, name:2, ..."""
    data, sizes, axis = node["input"]
    outputs = [node["name"] + (f":{i}" if i else "") for i in range(len(t.constants[sizes]))]
    lengths = t.constant(f"{node['name']}/lengths", t.constants[sizes])
    t.nodes.append(helper.make_node("Split", [data, lengths], outputs, name=node["name"], axis=int(t.constants[axis])))


def _transpose(t: Translation, node: Node) -> None:
    t.emit("Transpose", node["input"][:1], node["name"], perm=t.constants[node["input"][1]].tolist())


def _concat(t: Translation, node: Node) -> None:
    t.emit("Concat", node["input"][:-1], node["name"], axis=int(t.constants[node["input"][-1]]))


def _leaky_relu(t: Translation, node: Node) -> None:
    t.emit("LeakyRelu", node["input"], node["name"], alpha=float(_attribute(node, "alpha", "f")))


def _same(kind: str) -> Callable[[Translation, Node], None]:
    def translate(t: Translation, node: Node) -> None:
        t.emit(kind, node["input"], node["name"])

    return translate


TRANSLATORS: dict[str, Callable[[Translation, Node], None]] = {
    "Add": _add,
    "AddN": _same("Sum"),
    "AddV2": _add,
    "AvgPool": _pool("AveragePool"),
    "ConcatV2": _concat,
    "Conv2D": _conv2d,
    "Conv2DBackpropInput": _transposed_convolution,
    "DepthwiseConv2dNative": _conv2d,
    "FusedDepthwiseConv2dNative": _fused_conv2d,
    "_FusedConv2D": _fused_conv2d,
    "Identity": _same("Identity"),
    "LeakyRelu": _leaky_relu,
    "MaxPool": _pool("MaxPool"),
    "Mul": _same("Mul"),
    "Pad": _pad,
    "PadV2": _pad,
    "Relu": _same("Relu"),
    "Relu6": _relu6,
    "Reshape": _same("Reshape"),
    "ResizeBilinear": _resize_bilinear,
    "Sigmoid": _same("Sigmoid"),
    "SparseToDense": _sparse_to_dense,
    "SplitV": _split,
    "Transpose": _transpose,
}


def _in_order(nodes: dict[str, Node], outputs: list[str]) -> list[Node]:
    """Nodes that the outputs need, each after its inputs (depth first, in the order of the graph: deterministic)."""
    ordered: dict[str, Node] = {}
    stack = [(name, False) for name in reversed(outputs)]
    while stack:
        name, ready = stack.pop()
        if name in ordered:
            continue
        if ready:
            ordered[name] = nodes[name]
            continue
        stack.append((name, True))
        stack.extend((source.split(":")[0], False) for source in reversed(nodes[name].get("input", [])))
    return list(ordered.values())


def convert(model_json: Path, part: Part | None = None) -> bytes:
    """ONNX model of a graph model; inputs and outputs keep their names (":0" cut off) and shapes. `part`: of so much of it.

    Raises UnknownNode for a node kind outside TRANSLATORS, ValueError for weights that do not fit the manifest.
    """
    model = json.loads(model_json.read_bytes())
    signature = _signature(part) if part else model.get("signature") or model["userDefinedMetadata"]["signature"]
    translation = Translation(read_weights(model, model_json.parent))
    outputs = sorted(signature["outputs"])
    nodes = {node["name"]: node for node in model["modelTopology"]["node"]}
    if part:
        nodes[part.first] = {"name": part.first, "op": "Placeholder"}
    for node in _in_order(nodes, [name.split(":")[0] for name in outputs]):
        if node["op"] in ("Const", "Placeholder"):
            continue
        if node["op"] not in TRANSLATORS:
            raise UnknownNode(f"{node['name']}: no translation for node kind {node['op']}")
        TRANSLATORS[node["op"]](translation, node)
    return translation.model(
        model_json.stem,
        [_value_info(name, signature["inputs"][name]) for name in sorted(signature["inputs"])],
        [_value_info(name, signature["outputs"][name]) for name in outputs],
    )


def _signature(part: Part) -> dict[str, Any]:
    def described(shape: tuple[int, ...]) -> dict[str, Any]:
        return {"tensorShape": {"dim": [{"size": side} for side in shape]}}

    return {"inputs": {part.first: described(part.first_shape)}, "outputs": {part.last: described(part.last_shape)}}


def _value_info(name: str, description: dict[str, Any]) -> onnx.ValueInfoProto:
    shape = [int(dim["size"]) for dim in description["tensorShape"]["dim"]]
    return helper.make_tensor_value_info(name.removesuffix(":0"), TensorProto.FLOAT, shape)
