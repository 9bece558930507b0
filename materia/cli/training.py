"""The commands of training: precompute, train, sample, eval, train-autoencoder; materia/cli/main.py adds them to `materia`.

Exit codes as of all commands, and: 4 a run or cache made with another configuration, 5 a loss that is not finite.
Heavy modules are imported inside the commands.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from materia.cli.shared import Command, config_option, guarded, json_option, print_table, set_option

if TYPE_CHECKING:
    from materia.base.intervals import Interval
    from trainer.config import TrainConfig

TRAIN_EXAMPLES = """\b
Examples:
  materia train --config configs/train/tiny.yaml --shards out/ --output runs/a
  materia train --config configs/train/tiny.yaml --shards out/ --cache cache/ --output runs/a
  materia train --config configs/train/tiny.yaml --shards out/ --output runs/b --where "subjects >= 2 and residual < 0.3"
  materia train --config configs/train/tiny.yaml --shards out1/ --shards out2/ --output runs/e
  torchrun --nproc-per-node 8 --no-python materia train --config configs/train/small.yaml --shards out/ --output runs/c
  materia train --config configs/train/small.yaml --shards out/ --output runs/d --ray --workers 8 --ray-address auto
"""

PRECOMPUTE_EXAMPLES = """\b
Examples:
  materia precompute --config configs/train/tiny.yaml --shards out/ --output cache/
  materia precompute --config configs/train/tiny.yaml --shards out/ --output cache/ --where "subjects >= 2"
"""

SAMPLE_EXAMPLES = """\b
Examples:
  materia sample --run runs/a --prompt "a dog on a beach" --ref dog=dog.png --output a.mp4
  materia sample --run runs/a --prompt "a dog chases a cat" --ref dog=dog1.png,dog2.png --ref cat=cat.png \\
    --background beach.png --output b.mp4
  materia sample --run runs/a --requests requests.jsonl --output samples/
"""

EVAL_EXAMPLES = """\b
Examples:
  python -m tools.synthetic_world world/test --clips 300 --held-out
  materia eval --synthetic --run runs/synthetic --shards world/test --output scores.json
"""

AUTOENCODER_EXAMPLES = """\b
Examples:
  materia train-autoencoder --config configs/train/tiny.yaml --shards out/ --output autoencoder.safetensors
  materia train --config configs/train/tiny.yaml --shards out/ --output runs/a --set encoders.video.backend=small \\
    --set encoders.video.options.checkpoint=autoencoder.safetensors
"""

_config_option = config_option("train/tiny")
_shards_option = click.option("--shards", required=True, help="Output of `materia run`: a folder or fsspec address.")
_where_option = click.option(
    "--where", metavar="FILTER", multiple=True, help='Read only some samples, e.g. "subjects >= 2"; repeated: what all admit.'
)


def _load(path: str, overrides: tuple[str, ...], where: tuple[str, ...] = ()) -> TrainConfig:
    from materia.base.settings_file import load_settings
    from trainer.config import TrainConfig

    config = guarded(lambda: load_settings(TrainConfig, path, overrides))
    if not where:
        return config
    joined = where[0] if len(where) == 1 else " and ".join(f"({expression})" for expression in where)
    return config.model_copy(update={"data": config.data.model_copy(update={"where": joined})})


@click.command(cls=Command, epilog=PRECOMPUTE_EXAMPLES)
@_config_option
@_shards_option
@click.option("--output", required=True, help="Folder or fsspec address of the cache; the same command resumes.")
@_where_option
@set_option
def precompute(config_path: str, shards: str, output: str, where: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Encode clips, captions and references once, into shards beside the shards. Training then reads no pixels."""
    config = _load(config_path, overrides, where)

    def work() -> None:
        from trainer.run.precompute import precompute

        precompute(config, shards=shards, output=output)

    guarded(work)


@click.command(cls=Command, epilog=TRAIN_EXAMPLES)
@_config_option
@click.option("--shards", multiple=True, required=True, help="Output of `materia run`; repeated: all of them, as one.")
@click.option("--output", required=True, type=click.Path(), help="Folder of the run; the same command resumes.")
@click.option(
    "--cache",
    "caches",
    multiple=True,
    help="What `materia precompute` wrote, one for each --shards; default: encode on the way.",
)
@_where_option
@click.option("--ray", "on_ray", is_flag=True, help="Launch through Ray Train; a worker that dies is replaced.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="With --ray: training processes.")
@click.option("--ray-address", help="With --ray: an existing cluster, e.g. auto; default: Ray starts in process.")
@set_option
def train(
    config_path: str,
    shards: tuple[str, ...],
    output: str,
    caches: tuple[str, ...],
    where: tuple[str, ...],
    on_ray: bool,
    workers: int,
    ray_address: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Train the video DiT on shards. The same command again continues from the last checkpoint, exactly."""
    config = _load(config_path, overrides, where)
    if not on_ray and (workers > 1 or ray_address):
        raise click.UsageError("--workers and --ray-address belong to --ray; without it, start several processes with torchrun")

    cache = caches or None

    def work() -> int:
        if on_ray:
            from trainer.run.ray_launch import launch

            result = launch(config, shards=shards, output=output, cache=cache, workers=workers, address=ray_address)
        else:
            from trainer.run.loop import train

            result = train(config, shards=shards, output=output, cache=cache)
        return result.exit_code

    sys.exit(guarded(work))


@click.command(cls=Command, epilog=SAMPLE_EXAMPLES)
@click.option("--run", required=True, type=click.Path(), help="Folder that `materia train` wrote.")
@click.option("--prompt", help="What the clip shows; every word that has a reference must occur in it.")
@click.option("--ref", "refs", multiple=True, metavar="WORD=IMAGE[,IMAGE]", help="Reference images of a word; repeatable.")
@click.option("--background", metavar="[WORD=]IMAGE", help="Where it takes place.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the noise.")
@click.option("--requests", type=click.Path(), metavar="JSONL", help="Many clips: a line of JSON each, see docs/training.md.")
@click.option("--output", required=True, type=click.Path(), help="The .mp4; with --requests the folder of the clips.")
@click.option("--frames", type=click.IntRange(1), help="Default, as of height and width: what the run was trained on most.")
@click.option("--height", type=click.IntRange(8), help="px")
@click.option("--width", type=click.IntRange(8), help="px")
@click.option("--steps", type=click.IntRange(1), help="Default: by resolution, 256 to 64.")
@click.option("--text-guidance", default=8.0, show_default=True, type=click.FloatRange(0), help="0: none.")
@click.option("--image-guidance", default=3.0, show_default=True, type=click.FloatRange(0), help="0: none.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1), help="Clips generated at once.")
@click.option("--device", default="auto", show_default=True, help="auto: cuda where there is one, else cpu.")
def sample(
    run: str,
    prompt: str | None,
    refs: tuple[str, ...],
    background: str | None,
    seed: int,
    requests: str | None,
    output: str,
    device: str,
    **options: Any,
) -> None:
    """Generate clips from prompts and reference images: an .mp4, a contact sheet and a .json of what was asked, for each."""
    if (prompt is None) == (requests is None):
        raise click.UsageError("give either --prompt, with --ref and --background, or --requests")
    if requests is not None and (refs or background or seed):
        raise click.UsageError("with --requests, references, backgrounds and seeds stand in the file")

    def work() -> None:
        from trainer.run.sampling import sample_requests
        from trainer.sample.generate import Options
        from trainer.sample.request import Request, load_requests, parse_background, parse_refs

        if requests is not None:
            asked = load_requests(requests, output)
        else:
            pictures = [*parse_refs(refs), *([parse_background(background)] if background else [])]
            asked = [Request(prompt=prompt or "", output=output, pictures=tuple(pictures), seed=seed)]
        sample_requests(run, asked, Options(**options), device)

    guarded(work)


@click.command("eval", cls=Command, epilog=EVAL_EXAMPLES)
@click.option(
    "--synthetic", is_flag=True, required=True, help="Shards of tools/synthetic_world.py, whose identities are known."
)
@click.option("--run", required=True, type=click.Path(), help="Folder that `materia train` wrote.")
@_shards_option
@click.option("--output", type=click.Path(), help="JSON file for the scores of every clip; a picture is put beside it.")
@click.option("--clips", default=192, show_default=True, type=click.IntRange(2), help="Clips that are generated, twice each.")
@click.option("--steps", type=click.IntRange(1), help="Sampling steps; default: by resolution, 256 to 64.")
@click.option("--text-guidance", default=2.0, show_default=True, type=click.FloatRange(0), help="0: none.")
@click.option("--image-guidance", default=2.0, show_default=True, type=click.FloatRange(0), help="0: none.")
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1), help="Clips generated at once.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of references and noise.")
@click.option("--device", default="auto", show_default=True, help="auto: cuda where there is one, else cpu.")
@json_option
def evaluate(synthetic: bool, run: str, shards: str, output: str | None, device: str, as_json: bool, **options: Any) -> None:
    """Score how well generated subjects match their references: with own references against shuffled ones, 95 % intervals."""

    def work() -> dict[str, Interval]:
        from materia.benchmark.cases import EvalOptions
        from materia.benchmark.evaluation import evaluate, summarise, write

        asked = EvalOptions(**options)
        evaluation = evaluate(run, shards, asked, device)
        if output is not None:
            write(evaluation, asked, output)
        return summarise([evaluation.scores])

    found = guarded(work)
    if as_json:
        click.echo(json.dumps({name: interval._asdict() for name, interval in found.items()}))
    else:
        rows = ((name, *(f"{value:.4f}" for value in interval)) for name, interval in found.items())
        print_table(["score", "value", "95 % from", "to"], rows)


@click.command("train-autoencoder", cls=Command, epilog=AUTOENCODER_EXAMPLES)
@_config_option
@_shards_option
@click.option("--output", required=True, type=click.Path(), help="The .safetensors file.")
@click.option("--steps", default=2000, show_default=True, type=click.IntRange(1), help="Steps of the first bucket's batch.")
@set_option
def train_autoencoder(config_path: str, shards: str, output: str, steps: int, overrides: tuple[str, ...]) -> None:
    """Train the small video autoencoder, the backend `small` of encoders.video, on the clips of shards."""
    config = _load(config_path, overrides)

    def work() -> None:
        from trainer.run.train_autoencoder import train_autoencoder

        train_autoencoder(config, shards=shards, output=output, steps=steps)

    guarded(work)
