"""Configuration: bases, overrides, and errors that name file, field and nearest known name."""

import json
from pathlib import Path

import pytest

from materia.base.settings_file import ConfigError, load_settings
from pipeline.config import Config, load_config
from stages.specs import MODEL_STAGES
from trainer.config import TrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"
LOCAL = CONFIGS / "local.yaml"
ON_CARDS = """
device: cuda
localise: {backend: nanodet, gpu_memory_gib: 5, options: {word_table: of the base}}
segment: {gpu_memory_gib: 3, device: "cuda:0"}
engine:
  pools:
    - {stages: [entities], num_gpus: 0.5, gib_per_gpu: 24}
    - {stages: [frames], num_gpus: 0.5}
    - {stages: [localise, link, segment, faces, background], num_gpus: 0.5, gib_per_gpu: 24}
    - {stages: [cut]}
"""
"""A language model and a pool of vision models that share a card of 24 GB."""


def write(folder: Path, text: str, name: str = "my.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_is_valid_and_reaches_the_workers_as_it_is(path):
    config = load_config(path)
    assert Config.model_validate_json(config.model_dump_json()) == config
    assert Config.model_validate(config.model_dump()) == config


@pytest.mark.parametrize("name", ["gpu.yaml", "cluster.yaml"])
def test_the_profiles_for_cards_book_none_on_a_machine_without(name):
    config = load_config(CONFIGS / name, ("device=cpu",))
    assert {getattr(config, stage).device for stage in MODEL_STAGES} == {"cpu"}
    assert not any(pool.num_gpus for pool in config.engine.pools)


def test_override_changes_one_value():
    config = load_config(LOCAL, ("localise.min_score=0.35",))
    assert config.localise.min_score == 0.35
    assert config.segment == load_config(LOCAL).segment


def test_base_is_read_first_and_overruled(tmp_path):
    path = write(tmp_path, f"base: {LOCAL}\nframes: {{min_side_px: 200}}\n")
    config = load_config(path)
    assert config.frames.min_side_px == 200
    assert config.engine == load_config(LOCAL).engine


def test_base_that_returns_to_itself_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="comes back to itself"):
        load_config(write(tmp_path, "base: my.yaml\n"))


@pytest.mark.parametrize(
    ("text", "field", "nearest"),
    [
        ("localize: {min_score: 0.4}", "localize", "localise"),
        ("localise: {min_scor: 0.4}", "localise.min_scor", "min_score"),
        ("frames: {cut: {cfr: 20}}", "frames.cut.cfr", "crf"),
        ("engine: {pools: [{stages: [entities], wokers: 2}]}", "engine.pools.0.wokers", "workers"),
    ],
)
def test_unknown_field_names_file_field_and_nearest(tmp_path, text, field, nearest):
    path = write(tmp_path, f"base: {LOCAL}\n{text}\n")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(path) in str(error.value)
    assert f"unknown field {field!r}; did you mean {nearest!r}?" in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("localise.min_score", "must look like"),
        ("localise.min_score=2", "less than or equal to 1"),
        ("localise.min_score.deeper=2", "is a value, not a section"),
        ("localise.min_score=[", "not YAML"),
        ("engine.pools=[{stages: [frames]}]", "pools must list each stage once"),
    ],
)
def test_bad_override_is_explained(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(LOCAL, ("localise.min_score=0.3", override))


def devices(config):
    return [getattr(config, stage).device for stage in MODEL_STAGES]


def booked(config):
    return [pool.num_gpus for pool in config.engine.pools]


def test_a_stage_without_a_device_gets_the_one_at_the_top(tmp_path):
    path = write(tmp_path, ON_CARDS)
    assert devices(load_config(path)) == ["cuda", "cpu", "cuda", "cuda", "cuda:0", "cuda", "cuda"]
    assert devices(load_config(path, ("device=cpu",))) == ["cpu", "cpu", "cpu", "cpu", "cuda:0", "cpu", "cpu"]
    assert devices(load_config(LOCAL)) == ["cpu"] * 7


def test_cards_are_booked_only_for_pools_with_a_stage_on_one(tmp_path):
    path = write(tmp_path, ON_CARDS)
    assert booked(load_config(path)) == [0.5, 0, 0.5, 0]
    assert booked(load_config(path, ("entities.device=cpu",))) == [0, 0, 0.5, 0]
    assert booked(load_config(path, ("device=cpu",))) == [0, 0, 0.5, 0]  # the masks say cuda:0 themselves
    assert booked(load_config(path, ("device=cpu:0", "segment.device=cpu"))) == [0, 0, 0, 0]


def test_a_stage_on_a_card_that_nobody_booked_is_refused_with_both_ways_out(tmp_path):
    with pytest.raises(ConfigError, match=r"books no GPU for entities on device 'cuda'.*num_gpus.*entities\.device=cpu"):
        load_config(write(tmp_path, ON_CARDS.replace("[entities], num_gpus: 0.5", "[entities]")))


def test_estimates_beyond_the_share_of_the_card_are_refused_with_the_sum(tmp_path):
    path = write(tmp_path, ON_CARDS)
    load_config(path, ("segment.gpu_memory_gib=7",))
    with pytest.raises(ConfigError) as error:
        load_config(path, ("segment.gpu_memory_gib=7.5",))
    assert str(error.value).startswith(f"{path}: the pool of localise, link, segment, faces, background needs 12.5 GiB")
    assert "num_gpus 0.5 x gib_per_gpu 24 = 12 GiB" in str(error.value)
    load_config(path, ("segment.gpu_memory_gib=7.5", "segment.device=cpu"))  # then it is in the machine's memory


def test_a_part_of_several_cards_cannot_be_booked(tmp_path):
    with pytest.raises(ConfigError, match=r"engine\.pools\.0\.num_gpus = 1\.5: .*whole cards"):
        load_config(write(tmp_path, ON_CARDS.replace("num_gpus: 0.5", "num_gpus: 1.5", 1)))


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_options_end_with_the_backend_that_an_override_replaces(tmp_path, order):
    path = write(tmp_path, ON_CARDS)
    overrides = ("localise.options.checkpoint=mine.pth", "localise.backend=groundingdino")
    assert load_config(path, overrides[order]).localise.options == {"checkpoint": "mine.pth"}
    assert load_config(path, overrides[:1]).localise.options == {"word_table": "of the base", "checkpoint": "mine.pth"}


def test_a_hash_ends_with_the_checkpoint_that_it_belongs_to(tmp_path):
    path = write(
        tmp_path, ON_CARDS.replace("word_table: of the base", f"checkpoint: theirs.pth, sha256: {'a' * 64}"), "pinned.yaml"
    )
    own = ("localise.options.checkpoint=mine.pth",)
    assert load_config(path).localise.options["sha256"] == "a" * 64
    assert load_config(path, own).localise.options == {"checkpoint": "mine.pth"}
    for overrides in ((*own, f"localise.options.sha256={'b' * 64}"), (f"localise.options.sha256={'b' * 64}", *own)):
        assert load_config(path, overrides).localise.options == {"checkpoint": "mine.pth", "sha256": "b" * 64}
    assert load_config(path, ("localise.options.checkpoint=theirs.pth",)).localise.options["sha256"] == "a" * 64


def test_options_end_with_the_backend_that_a_file_replaces(tmp_path):
    write(tmp_path, ON_CARDS, "base.yaml")
    other = write(tmp_path, "base: base.yaml\nlocalise: {backend: groundingdino, options: {box: 1}}\n", "other.yaml")
    same = write(tmp_path, "base: base.yaml\nlocalise: {backend: nanodet, options: {box: 1}}\n", "same.yaml")
    assert load_config(other).localise.options == {"box": 1}
    assert load_config(same).localise.options == {"word_table": "of the base", "box": 1}
    assert load_config(other).localise.gpu_memory_gib == 5


def test_a_configuration_that_comes_along_is_called_by_its_name(tmp_path, monkeypatch):
    assert load_config("local") == load_config(LOCAL)
    assert load_config(write(tmp_path, "base: local\nframes: {min_side_px: 200}\n")).frames.min_side_px == 200
    assert load_settings(TrainConfig, "train/tiny") == load_settings(TrainConfig, CONFIGS / "train" / "tiny.yaml")
    monkeypatch.chdir(tmp_path)
    write(tmp_path, f"base: {LOCAL}\nframes: {{min_side_px: 100}}\n", "local")
    assert load_config("local").frames.min_side_px == 100  # a file goes before


@pytest.mark.parametrize("name", ["locale", "configs/locale.yaml", "../configs/local"])
def test_a_configuration_that_is_not_there_is_told_the_known_ones(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"^{name}: no such file.*cluster, gpu.*, local, .*train/tiny"):
        load_config(name)


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "\x00"])
def test_unreadable_file_is_named(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=r"my\.yaml"):
        load_config(path)


def test_execution_fields_stay_out_of_the_result():
    one = load_config(LOCAL, ("localise.threads=1",)).localise.result_fields()
    two = load_config(LOCAL, ("localise.threads=2",)).localise.result_fields()
    three = load_config(LOCAL, ("localise.min_score=0.9",)).localise.result_fields()
    assert one == two != three


@pytest.mark.parametrize(
    "text", ["a: [1\nb: 2\n", "secret: 'abc\n", "\tx: 1", "a: b: c", "{", "&a", "*nobody", "!!python/object:os.system x"]
)
def test_a_file_that_is_no_yaml_is_told_in_a_line_by_its_place(tmp_path, text):
    (tmp_path / "a.yaml").write_text("engine: {}\n" + text)
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "a.yaml")
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{tmp_path}/a.yaml, line ") and ": this is no YAML: " in line and "abc" not in line


@pytest.mark.parametrize("name", ["local", "gpu", "cluster"])
def test_what_is_said_again_is_the_same_to_the_bytes(name):
    """A number that stands as 0 in one place and as 0.0 in another would have two fingerprints."""
    config = load_config(CONFIGS / f"{name}.yaml")
    again = Config.model_validate(config.model_dump())
    assert json.dumps(again.result_fields()) == json.dumps(config.result_fields())
