"""One process's run on real clips, which launchers of several processes have to repeat."""

import os

import pytest
import yaml
from reference import CHECKPOINT_EVERY, STEPS, ReferenceRun, logged_steps

os.environ.update(HF_HUB_OFFLINE="1")


@pytest.fixture(scope="session")
def reference_run(tmp_path_factory: pytest.TempPathFactory) -> ReferenceRun:
    from real_clips import make_real_output

    from materia.base.settings_file import load_settings
    from trainer.config import TrainConfig
    from trainer.run.loop import train
    from trainer.run.precompute import precompute

    folder = tmp_path_factory.mktemp("reference")
    config_path, cache = folder / "train.yaml", str(folder / "cache")
    settings = {
        "data": {
            "buckets": [{"frames": 2, "height": 32, "width": 32, "batch": 4}],
            **{"fps": 8, "validation": 0, "workers": 0, "reference_px": 32, "windows": 1, "variants": 2},
        },
        "optimiser": {"lr": 1e-3, "clip": 1.0, "warmup_steps": 5},
        "stage": {"steps": STEPS},
        "run": {"threads": 1, "device": "cpu"},
        "checkpoint": {"every": CHECKPOINT_EVERY, "keep": 1},
        "log": {"sample_every": 0},
    }
    config_path.write_text(yaml.safe_dump(settings))
    config = load_settings(TrainConfig, str(config_path), ())
    shards = make_real_output(folder, seconds=[0.5] * 6)
    precompute(config, shards=shards, output=cache)
    train(config, shards=shards, output=str(folder / "run"), cache=cache)
    return ReferenceRun(config_path, shards, cache, logged_steps(folder / "run"))
