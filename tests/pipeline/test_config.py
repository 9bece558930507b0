"""Configuration: bases, overrides, and errors that name file, field and nearest known name."""

from pathlib import Path

import pytest

from pipeline.config import Config, ConfigError, load_config

LOCAL = Path(__file__).parents[2] / "configs" / "local.yaml"


def write(folder: Path, text: str, name: str = "my.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_local_configuration_is_valid():
    assert isinstance(load_config(LOCAL), Config)


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
