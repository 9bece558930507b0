"""The configurations of training are valid, and what cannot be right is said in a line."""

from pathlib import Path

import pytest

from materia.base.settings_file import ConfigError, load_settings
from trainer.config import TrainConfig

CONFIGS = Path(__file__).parents[2] / "configs" / "train"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_is_valid(path: Path) -> None:
    config = load_settings(TrainConfig, path)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_the_papers_constants_are_in_its_configurations() -> None:
    one, two = (load_settings(TrainConfig, CONFIGS / f"paper-stage{stage}.yaml") for stage in (1, 2))
    assert (one.stage.images, one.stage.steps) == (False, 60_000)
    assert (two.stage.images, two.stage.steps, two.stage.new_attention_steps) == (True, 40_000, 10_000)
    for config in (one, two):
        optimiser = config.optimiser
        assert (optimiser.lr, optimiser.betas, optimiser.weight_decay, optimiser.clip) == (1e-4, (0.9, 0.99), 0.01, 0.05)
        assert (config.objective.drop_text, config.objective.drop_images, optimiser.warmup_steps) == (0.1, 0.1, 1000)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.accumulate=3", "a batch of 8 cannot be cut into run.accumulate = 3 equal parts"),
        ("optimiser.lerning_rate=1", "unknown field 'optimiser.lerning_rate'"),
        ("data.buckets=[]", "data.buckets"),
        ("model.size=huge", "model.size = 'huge'"),
        (
            "data.buckets=[{frames: 8, height: 64, width: 64, batch: 8}, {frames: 8, height: 64, width: 64, batch: 4}]",
            "same size",
        ),
    ],
)
def test_what_cannot_be_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"tiny\.yaml: ") as error:
        load_settings(TrainConfig, CONFIGS / "tiny.yaml", (override,))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
