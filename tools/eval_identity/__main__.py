"""The command line: `python -m tools.eval_identity make | score`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress

from materia.base.errors import UserError
from materia.base.terminal import plural, printable
from materia.cli.shared import Group, guarded, json_option, out_argument
from stages.video import VideoError
from stages.video.encode import write_rgb
from tools.eval_identity import __doc__ as about
from tools.eval_identity import score as scoring
from tools.eval_identity.film import FPS, SIDE_PX, Cutout, Variant, cutouts_of, side_by_side
from tools.eval_identity.pairs import Pair, choose_pairs, find_halves

CRF = 18
"""x264's quality of the pairs: nothing is seen of the coding."""


@click.group(cls=Group, help="\b\n" + (about or ""))
def main() -> None:
    """Do references of one word show one individual?"""


@main.command("make")
@click.argument("manifest", type=click.Path())
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--pairs", "n", default=16, show_default=True, type=click.IntRange(1), help="How many.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="The same seed: the same bytes.")
@click.option("--variant", default="plain", show_default=True, type=click.Choice(get_args(Variant)), help="What is seen.")
@click.option("--cutouts", metavar="OUTPUT", help="For passer: an output of materia run; people of its references pass by.")
def make_command(manifest: str, folder: Path, n: int, seed: int, variant: Variant, cutouts: str | None) -> None:
    """Put clips of MANIFEST side by side, into FOLDER, which must be new or empty.

    \b
    moving    each half's camera pans and zooms slowly, opposite ways
    mirrored  the right half is mirrored left to right
    passer    somebody else walks across both halves between the frames of record

    \b
    python -m tools.eval_identity make clips.jsonl pairs/ --pairs 16
    python -m tools.eval_identity make clips.jsonl passers/ --variant passer --cutouts out/

    The same seed chooses the same pairs for every variant.
    """
    console = Console(stderr=True, soft_wrap=True)

    def tell(note: str) -> None:
        console.print(printable(note), markup=False, highlight=False)

    def work() -> int:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            return make(manifest, folder, n, seed=seed, variant=variant, cutouts=cutouts, bar=bar, tell=tell)

    made = guarded(work)
    fewer = "" if made == n else f"; {n} were asked for, the clips give no more"
    click.echo(f"{plural(made, 'pair')} in {folder / scoring.MANIFEST}{fewer}")


@main.command("score")
@out_argument
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--sheet", metavar="PNG", help="Also draw the samples of mixed words.")
@json_option
def score_command(out: str, folder: Path, sheet: str | None, as_json: bool) -> None:
    """Of the words with two or more references in OUT, made from the pairs of FOLDER: how many show one individual?

    \b
    python -m tools.eval_identity score out/ pairs/
    python -m tools.eval_identity score out/ pairs/ --json --sheet mixed.png
    """
    report = guarded(lambda: scoring.score(out, folder))
    click.echo(msgspec.json.encode(report).decode() if as_json else "\n".join(scoring.text(report)))
    mixed = list(dict.fromkeys(word.key for word in report.scores if not word.one))
    if sheet and mixed:
        from materia.report.contact_sheet import contact_sheet

        guarded(lambda: contact_sheet(out, sheet, keys=mixed))
    elif sheet:
        click.echo(f"no word is mixed: {sheet} was not drawn", err=True)


def make(
    manifest: str,
    folder: Path,
    n: int,
    *,
    seed: int,
    variant: Variant,
    cutouts: str | None,
    bar: Progress,
    tell: Callable[[str], None],
) -> int:
    """Write at most `n` videos and the manifest of them, all or nothing; gives their number. `tell`: what is left out, and why.

    Raises UserError for a folder that holds something, a manifest that cannot be read or gives no pair, or missing cut-outs.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; name one that is, or a new one")
    if (variant == "passer") != (cutouts is not None):
        raise UserError("--cutouts OUTPUT, whose people pass by, and --variant passer go together")
    people = cutouts_of(cutouts) if cutouts else []
    halves, left_out = find_halves(manifest, n, seed, bar)
    for why, count in left_out.most_common():
        tell(f"left out: {plural(count, 'clip')}: {why}")
    pairs = choose_pairs(halves, n, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        unfinished = Path(scratch) / "pairs"
        unfinished.mkdir()
        rows = []
        for number, pair in enumerate(bar.track(pairs, description="filming")):
            try:
                rows.append(_film(unfinished, pair, number, variant, np.random.default_rng((seed, number)), people))
            except VideoError as error:
                tell(f"left out: {pair.left.clip.uri} beside {pair.right.clip.uri}: {error}")
        if not rows:
            raise UserError("no pair could be made")
        lines = [json.dumps(msgspec.to_builtins(row), ensure_ascii=False) + "\n" for row in rows]
        (unfinished / scoring.MANIFEST).write_text("".join(lines), encoding="utf-8")
        unfinished.rename(folder)
    return len(rows)


def _film(
    folder: Path, pair: Pair, number: int, variant: Variant, rng: np.random.Generator, people: list[Cutout]
) -> scoring.PairRow:
    """Write a pair's video; gives its row. Raises VideoError; then there is no video."""
    name = f"{variant}-{number:03d}"
    target = folder / f"{name}.mp4"
    try:
        write_rgb(target, side_by_side(pair, variant, rng, people), size=(2 * SIDE_PX, SIDE_PX), fps=FPS, crf=CRF)
    except VideoError:
        target.unlink(missing_ok=True)
        raise
    left, right = (scoring.HalfRow(id=half.clip.key, word=half.word) for half in pair)
    return scoring.PairRow(
        id=name, video=target.name, caption=pair.caption, seam_px=SIDE_PX, left=left, right=right, variant=variant
    )


if __name__ == "__main__":
    main()
