"""The commands of training: precompute, train, sample, eval, train-autoencoder; pipeline/cli.py adds them to `materia`.

Exit codes as of all commands, and: 4 a run or cache made with another configuration, 5 a loss that is not finite.
Heavy modules are imported inside the commands.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from pipeline.command import config_option, guarded, set_option

if TYPE_CHECKING:
    from trainer.config import TrainConfig

TRAIN_EXAMPLES = """\b
Examples:
  materia train --config configs/train/tiny.yaml --shards out/ --output runs/a
  materia train --config configs/train/tiny.yaml --shards out/ --cache cache/ --output runs/a
  materia train --config configs/train/tiny.yaml --shards out/ --output runs/b --where "subjects >= 2 and residual < 0.3"
  torchrun --nproc-per-node 8 --no-python materia train --config configs/train/small.yaml --shards out/ --output runs/c
  materia train --config configs/train/small.yaml --shards out/ --output runs/d --ray --workers 8 --ray-address auto
"""

PRECOMPUTE_EXAMPLES = """\b
Examples:
  materia precompute --config configs/train/tiny.yaml --shards out/ --output cache/
"""

SAMPLE_EXAMPLES = """\b
Examples:
  materia sample --run runs/a --prompt "a dog on a beach" --ref dog=dog.png --output a.mp4
  materia sample --run runs/a --prompt "a dog chases a cat" --ref dog=dog1.png,dog2.png --ref cat=cat.png \\
    --background beach.png --output b.mp4
  materia sample --run runs/a --requests requests.jsonl --output samples/
"""

_config_option = config_option("configs/train/tiny.yaml")
_shards_option = click.option("--shards", required=True, help="Output of `materia run`: a folder or fsspec address.")
_where_option = click.option("--where", metavar="FILTER", help='Read only some samples, e.g. "subjects >= 2".')


def _load(path: str, overrides: tuple[str, ...], where: str | None = None) -> TrainConfig:
    from pipeline.config import load_settings
    from trainer.config import TrainConfig

    config = guarded(lambda: load_settings(TrainConfig, path, overrides))
    if where is None:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"where": where})})


@click.command(epilog=PRECOMPUTE_EXAMPLES)
@_config_option
@_shards_option
@click.option("--output", required=True, help="Folder or fsspec address of the cache; the same command resumes.")
@set_option
def precompute(config_path: str, shards: str, output: str, overrides: tuple[str, ...]) -> None:
    """Encode clips, captions and references once, into shards beside the shards. Training then reads no pixels."""
    config = _load(config_path, overrides)

    def work() -> None:
        from trainer.precompute import precompute

        precompute(config, shards=shards, output=output)

    guarded(work)


@click.command(epilog=TRAIN_EXAMPLES)
@_config_option
@_shards_option
@click.option("--output", required=True, type=click.Path(), help="Folder of the run; the same command resumes.")
@click.option("--cache", help="What `materia precompute` wrote; default: encode while training.")
@_where_option
@click.option("--ray", "on_ray", is_flag=True, help="Launch through Ray Train; a worker that dies is replaced.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="With --ray: training processes.")
@click.option("--ray-address", help="With --ray: an existing cluster, e.g. auto; default: Ray starts in process.")
@set_option
def train(
    config_path: str,
    shards: str,
    output: str,
    cache: str | None,
    where: str | None,
    on_ray: bool,
    workers: int,
    ray_address: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Train the video DiT on shards. The same command again continues from the last checkpoint, exactly."""
    config = _load(config_path, overrides, where)
    if not on_ray and (workers > 1 or ray_address):
        raise click.UsageError("--workers and --ray-address belong to --ray; without it, start several processes with torchrun")

    def work() -> int:
        if on_ray:
            from trainer.ray_launch import launch

            result = launch(config, shards=shards, output=output, cache=cache, workers=workers, address=ray_address)
        else:
            from trainer.loop import train

            result = train(config, shards=shards, output=output, cache=cache)
        return result.exit_code

    sys.exit(guarded(work))
