"""The command line: `python -m tools.eval_background make | score`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from materia.base.errors import UserError
from materia.base.terminal import plural, printable
from materia.cli.shared import Group, guarded, json_option, out_argument
from stages.settings import FramesSettings
from stages.video import VideoError, open_video
from stages.video.decode import indices_at
from stages.video.encode import write_rgb
from tools.eval_background import __doc__ as about
from tools.eval_background import score as scoring
from tools.eval_background.film import FPS, SIZE, Scene, choose_scenes, film
from tools.eval_background.places import cutouts_of, find_places

CRF = 18
"""x264's quality of the clips: little is seen of the coding."""


@click.group(cls=Group, help="\b\n" + (about or ""))
def main() -> None:
    """Does the background show the place and nobody?"""


@main.command("make")
@click.argument("manifest", type=click.Path())
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--walkers", "n", default=16, show_default=True, type=click.IntRange(1), help="How many clips.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="The same seed: the same bytes.")
@click.option("--cutouts", metavar="OUTPUT", required=True, help="An output of materia run, whose references walk.")
def make_command(manifest: str, folder: Path, n: int, seed: int, cutouts: str) -> None:
    """Let cut-outs walk over clips of MANIFEST that show nobody; into FOLDER, which must be new or empty.

    \b
    cameras  real: of the clip as it moves; static, pan, shake: our own, over a still of it
    gaits    walking, from one side to the other; standing

    \b
    python -m tools.eval_background make clips.jsonl walkers/ --walkers 24 --cutouts out/
    """
    console = Console(stderr=True, soft_wrap=True)

    def tell(note: str) -> None:
        console.print(printable(note), markup=False, highlight=False)

    def work() -> int:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            return make(manifest, folder, n, seed=seed, cutouts=cutouts, bar=bar, tell=tell)

    click.echo(f"{plural(guarded(work), 'walker')} in {folder / scoring.MANIFEST}")


@main.command("score")
@out_argument
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--sheet", metavar="PNG", help="Also draw frame, background and truth of every walker.")
@json_option
def score_command(out: str, folder: Path, sheet: str | None, as_json: bool) -> None:
    """How near do the backgrounds in OUT, made from the walkers of FOLDER, come to the places themselves?

    \b
    uncovered  share of the true mask where the walker is left
    residual   the detector's best score of the walker on the background
    sharpness  variance of the Laplacian in the hole / around it; and of the truth

    \b
    python -m tools.eval_background score out/ walkers/
    python -m tools.eval_background score out/ walkers/ --json --sheet walkers.png
    """
    report = guarded(lambda: scoring.score(out, folder))
    click.echo(msgspec.json.encode(report).decode() if as_json else "\n".join(scoring.text(report)))
    if sheet:
        from tools.eval_background.sheet import draw_sheet

        guarded(lambda: draw_sheet(out, folder, report.scores, sheet))


def make(manifest: str, folder: Path, n: int, *, seed: int, cutouts: str, bar: Progress, tell: Callable[[str], None]) -> int:
    """Write at most `n` videos, their truth and the manifest, all or nothing; gives their number. `tell`: what is left out.

    Raises UserError for a folder that holds something, a manifest without places, an output without cut-outs.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; name one that is, or a new one")
    people = cutouts_of(cutouts)
    places, left_out = find_places(manifest, n, seed, bar)
    for why, count in left_out.most_common():
        tell(f"left out: {plural(count, 'clip')}: {why}")
    tell(f"{plural(len(places), 'place')}, {plural(len(people), 'cut-out')}")
    scenes = choose_scenes(places, people, n, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        unfinished = Path(scratch) / "walkers"
        unfinished.mkdir()
        rows = []
        for number, scene in enumerate(bar.track(scenes, description="filming")):
            try:
                rows.append(_film(unfinished, scene, f"walker-{number:03d}", np.random.default_rng((seed, number))))
            except VideoError as error:
                tell(f"left out: a walker over {scene.place.clip.uri}: {error}")
        if not rows:
            raise UserError("no walker could be filmed")
        lines = [json.dumps(msgspec.to_builtins(row), ensure_ascii=False) + "\n" for row in rows]
        (unfinished / scoring.MANIFEST).write_text("".join(lines), encoding="utf-8")
        unfinished.rename(folder)
    return len(rows)


def _film(folder: Path, scene: Scene, name: str, rng: np.random.Generator) -> scoring.WalkerRow:
    """Write a walker's video and the truth of its middle frame of record; gives its row. Raises VideoError before any file."""
    filmed = film(scene, rng)
    video, plain, mask = (folder / f"{name}{end}" for end in (".mp4", "-plain.png", "-mask.png"))
    write_rgb(video, filmed.pictures(), size=SIZE, fps=FPS, crf=CRF)
    with open_video(video) as opened:
        middle = FramesSettings().percents[scoring.MIDDLE] / 100
        [index] = indices_at(opened.probe, [opened.probe.duration_s * middle])
    Image.fromarray(filmed.plain[index]).save(plain)
    Image.fromarray(filmed.mask(index)).save(mask)
    return scoring.WalkerRow(
        id=name,
        video=video.name,
        caption=scene.caption,
        camera=scene.camera,
        gait=scene.gait,
        word=scene.cutout.word,
        place=scene.place.clip.key,
        cutout=scene.cutout.key,
        index=index,
        plain=plain.name,
        mask=mask.name,
        visible_share=filmed.visible_share(index),
    )


if __name__ == "__main__":
    main()
