"""A language model's folder that cannot be used is told in one line before the job starts, with what was expected."""

import hashlib
import json
import shutil

import pytest

from materia.base.weights.files import Weights
from stages.entities.checkpoint import checkpoint_missing
from stages.entities.vllm_lm import VllmLM


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A Llama of 6,000 parameters in the true layout, in two files of weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="15KB")
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.fixture
def folder(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "model")


def problem(folder):
    missing = checkpoint_missing(Weights("entities.options.model", str(folder)))
    assert all("\n" not in item.what and str(folder) in item.what for item in missing)
    assert len(missing) <= 1
    return missing[0].what if missing else ""


def shards(folder):
    return sorted(folder.glob("*.safetensors"))


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_whole_checkpoint_misses_nothing(folder):
    assert len(shards(folder)) > 1
    assert problem(folder) == ""


def test_a_folder_that_is_not_there_or_no_model(folder):
    assert "is not there" in problem(folder / "none")
    (folder / "config.json").unlink()
    assert "config.json" in problem(folder)


def test_a_file_of_weights_that_is_missing_is_named(folder):
    shards(folder)[1].unlink()
    assert shards(folder)[0].name.replace("00001", "00002") in problem(folder)


@pytest.mark.parametrize("left", [0, 4, 2000])
def test_a_truncated_file_is_named(folder, left):
    file = shards(folder)[0]
    file.write_bytes(file.read_bytes()[:left])
    assert f"{file.name} is truncated" in problem(folder)


def test_weights_of_another_size_than_the_configuration_says(folder):
    edit_config(folder, intermediate_size=64)
    assert "has shape (32, 16), expected (64, 16)" in problem(folder)


def test_weights_of_another_architecture(folder):
    edit_config(folder, architectures=["GPT2LMHeadModel"], model_type="gpt2")
    assert "is no GPT2LMHeadModel" in problem(folder)
    edit_config(folder, architectures=["BertModel"], model_type="bert")
    assert "is no language model but BertModel" in problem(folder)


def test_weights_that_are_not_those_whose_hash_lies_beside_them(folder):
    from safetensors.numpy import load_file, save_file

    tensors = {name: tensor for file in shards(folder) for name, tensor in load_file(file).items()}
    for file in [*shards(folder), folder / "model.safetensors.index.json"]:
        file.unlink()
    save_file(tensors, folder / "model.safetensors")
    (folder / "SHA256").write_text(hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() + "\n")
    assert problem(folder) == ""
    tensors["model.norm.weight"] += 1
    save_file(tensors, folder / "model.safetensors")
    assert "its file SHA256 says" in problem(folder)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dtype": "int8"}, "int8"),
        ({"gpu_memory_utilization": 1.5}, "1.5"),
        ({"model": "hf://no-owner"}, "hf://no-owner"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size"),
        ({"chat": False, "chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
    ],
)
def test_wrong_options_of_vllm_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        VllmLM(**options)
