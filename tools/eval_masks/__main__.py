"""The command line: `python -m tools.eval_masks OUT`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import Progress

from materia.base.backends import BackendError
from materia.base.errors import UserError
from materia.cli.shared import Command, guarded, json_option, out_argument, set_option
from pipeline.config import load_config
from stages.segment import Segment
from tools.eval_masks import __doc__ as about
from tools.eval_masks.scenes import Scene, make_scene, material_of
from tools.eval_masks.score import Result, lines_of, results_of, text
from tools.eval_masks.sheet import draw


@click.command(cls=Command, help="\b\n" + (about or ""))
@out_argument
@click.option(
    "--scenes", "n", default=100, show_default=True, type=click.IntRange(1), help="How many; every second has two things."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="The same seed: the same scenes.")
@click.option("--config", default="local", show_default=True, metavar="FILE", help="YAML file or the name of a packaged one.")
@set_option
@click.option("--no-links", is_flag=True, help="As if individuals had not been linked: masks of a frame may overlap.")
@click.option("--sheet", metavar="PNG", type=click.Path(path_type=Path), help="Also draw the worst masks.")
@json_option
def main(
    out: str, n: int, seed: int, config: str, overrides: tuple[str, ...], no_links: bool, sheet: Path | None, as_json: bool
) -> None:
    """Mask scenes of known masks; print how near the masks come."""
    scenes, results = guarded(lambda: evaluate(out, n, seed=seed, config=config, overrides=overrides, links=not no_links))
    lines = lines_of(results)
    click.echo(msgspec.json.encode(lines).decode() if as_json else "\n".join(text(lines)))
    if sheet is not None:
        guarded(lambda: draw(sheet, scenes, results))


def evaluate(
    out: str, n: int, *, seed: int, config: str, overrides: tuple[str, ...], links: bool
) -> tuple[list[Scene], list[Result]]:
    """The scenes of an output, and what the configured stage makes of them.

    Raises OutputError, ConfigError, UserError for a backend that cannot be had here, or an output of too few cut-outs.
    """
    console = Console(stderr=True, soft_wrap=True)
    stage = _stage(config, overrides)
    material = material_of(out)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        scenes = [make_scene(material, seed, number) for number in bar.track(range(n), description="pasting")]
        stage.setup()
        try:
            list(results_of(scenes[:1], stage, links))  # the first call of a model takes longer
            return scenes, list(results_of(bar.track(scenes, description="masking"), stage, links))
        finally:
            stage.close()


def _stage(config: str, overrides: tuple[str, ...]) -> Segment:
    try:
        stage = Segment(load_config(config, overrides).segment)
    except BackendError as error:
        raise UserError(str(error)) from None
    if lacking := stage.missing():
        raise UserError("; ".join(f"{lack.what}: {lack.fix}" for lack in lacking))
    return stage


if __name__ == "__main__":
    main()
