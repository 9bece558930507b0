"""A face recogniser with the interface of ArcFace's, small and random."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def arcface_file(path, size=112, kind=TensorProto.FLOAT, outputs=8):
    """A network of the true interface: means of the picture's parts, through random weights."""
    weight = np.random.default_rng(0).standard_normal((3 * (size // 8) ** 2, outputs)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["data"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("AveragePool", ["float"], ["parts"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["parts"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["fc1"]),
    ]
    graph = helper.make_graph(
        nodes,
        "arcface",
        [helper.make_tensor_value_info("data", kind, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, ["batch", outputs])],
        [numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return str(path)
