"""TensorFlow Lite models become ONNX models that compute the same, for any number of pictures, or an error."""

import numpy as np
import onnxruntime
import pytest
from tflite_models import model, numbers, scalar

from materia.base.weights.packaged.tfjs import UnknownNode
from materia.base.weights.packaged.tflite import convert

ADD, CONV, DEPTHWISE, MUL, RELU, RESHAPE, SUB, ABS, SOFTMAX = 0, 3, 4, 18, 19, 22, 41, 101, 25
RNG = np.random.default_rng(0)
KERNEL = RNG.standard_normal((3, 2, 2, 3)).astype(np.float32)
"""Out, height, width, in."""
DEEP = RNG.standard_normal((1, 2, 2, 3)).astype(np.float32)
BIAS = np.array([1, 2, 3], np.float32)
VALID, SAME = {0: scalar("b", 1)}, {0: scalar("b", 0)}
STRIDES = {1: scalar("i", 2), 2: scalar("i", 2)}
ONE = {3: scalar("i", 1)}
"""The multiplier of a depthwise convolution."""


def run(data, x):
    return onnxruntime.InferenceSession(convert(data, "tiny")).run(["output0"], {"input0": x})[0]


def layer(code, kernel, options, shape):
    tensors = [([2, 4, 4, 3], None), (list(kernel.shape), kernel), ([3], BIAS), (shape, None)]
    return model([(code, [0, 1, 2], 3, options)], tensors)


def windows(x):
    """(B, 4, 4, 3) -> the four 2x2 windows at stride 2, (B, 2, 2, 2, 2, 3)."""
    return x.reshape(-1, 2, 2, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_convolutions_compute_what_tensorflow_defines(count):
    x = RNG.standard_normal((count, 4, 4, 3)).astype(np.float32)
    parts = windows(x)
    dense = run(layer(CONV, KERNEL, {**VALID, **STRIDES}, [2, 2, 2, 3]), x)
    np.testing.assert_allclose(dense, np.einsum("bijhwc,ohwc->bijo", parts, KERNEL) + BIAS, atol=1e-5)
    deep = run(layer(DEPTHWISE, DEEP, {**VALID, **STRIDES, **ONE}, [2, 2, 2, 3]), x)
    np.testing.assert_allclose(deep, np.einsum("bijhwc,hwc->bijc", parts, DEEP[0]) + BIAS, atol=1e-5)


def test_padding_to_the_same_size_is_behind():
    x = RNG.standard_normal((1, 4, 4, 3)).astype(np.float32)
    unit = {1: scalar("i", 1), 2: scalar("i", 1)}
    found = run(layer(CONV, KERNEL, {**SAME, **unit}, [2, 4, 4, 3]), x)
    assert found.shape == x.shape
    np.testing.assert_allclose(found[0, 3, 3], np.einsum("c,oc->o", x[0, 3, 3], KERNEL[:, 0, 0]) + BIAS, atol=1e-5)


def test_a_rectifier_with_slopes_is_made_of_its_parts():
    """max(x, 0) + slope * (x - |x|), flattened."""
    slope = np.array([0.1, 0.2, 0.3], np.float32)
    like, flat = [2, 1, 1, 3], [2, 3]
    operators = [
        (RELU, [0], 2, {}),
        (ABS, [0], 3, {}),
        (SUB, [0, 3], 4, {}),
        (MUL, [4, 1], 5, {}),
        (ADD, [2, 5], 6, {}),
        (RESHAPE, [6], 7, {0: numbers(np.array(flat, np.int32))}),
    ]
    data = model(operators, [(like, None), ([3], slope), *[(like, None)] * 5, (flat, None)])
    x = RNG.standard_normal((4, 1, 1, 3)).astype(np.float32)
    np.testing.assert_allclose(run(data, x), (np.maximum(x, 0) + slope * (x - abs(x)))[:, 0, 0], atol=1e-6)
    assert convert(data, "tiny") == convert(data, "tiny")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (model([(SOFTMAX, [0], 1, {})], [([2, 3], None), ([2, 3], None)]), "no translation for operator 25"),
        (layer(CONV, KERNEL, {**VALID, **STRIDES, 3: scalar("b", 1)}, [2, 2, 2, 3]), "fused activation 1"),
        (layer(CONV, KERNEL, {**VALID, **STRIDES, 4: scalar("i", 2)}, [2, 2, 2, 3]), "dilated"),
        (layer(DEPTHWISE, DEEP, {**VALID, **STRIDES, 3: scalar("i", 2)}, [2, 2, 2, 3]), "with a multiplier"),
        (layer(CONV, KERNEL.astype(np.float16), {**VALID, **STRIDES}, [2, 2, 2, 3]), "a constant of type 1"),
        (model([(ADD, [0, 0], 1, {0: scalar("b", 3)})], [([2, 3], None), ([2, 3], None)]), "fused activation 3"),
    ],
)
def test_what_is_not_known_is_named(data, said):
    with pytest.raises(UnknownNode, match=said):
        convert(data, "tiny")


def test_another_file_is_refused():
    with pytest.raises(ValueError, match="no TensorFlow Lite model"):
        convert(b"\0" * 64, "tiny")
