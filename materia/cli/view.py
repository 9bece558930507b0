"""The commands `materia view` and `materia audit`: a page in the browser, and what a random audit has found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from materia.cli.shared import Command, guarded, json_option, out_argument, print_table

if TYPE_CHECKING:
    from materia.view.selection import Draw
    from materia.view.viewer import Viewer

VIEW_EXAMPLES = """\b
Examples:
  materia view out/
  materia view out/ out-after/
  materia view s3://bucket/out --no-browser --port 8000
  materia view out/ --export-atlas out.parquet
"""
AUDIT_EXAMPLES = """\b
Examples:
  materia audit out/ -n 100 --seed 0
  materia audit out/ -n 100 --seed 0 --stratify min_mask_score --marks anna
  materia audit out/ -n 100 --seed 0 --json
  materia audit out/ --compare anna ben
"""

_marks_option = click.option("--marks", default="marks", show_default=True, metavar="NAME", help="Layer that marks go to.")
_host_option = click.option("--host", default="127.0.0.1", show_default=True, help="Any other address asks for a token.")
_port_option = click.option("--port", type=click.IntRange(0, 65535), default=0, help="Default: any that is free.")
_browser_option = click.option("--browser/--no-browser", default=True, help="Open the page in the browser.")


@click.command(cls=Command, epilog=VIEW_EXAMPLES)
@out_argument
@click.argument("other", required=False, type=click.Path(), metavar="[OUT2]")
@_marks_option
@_host_option
@_port_option
@_browser_option
@click.option(
    "--export-atlas", "atlas", type=click.Path(), metavar="FILE", help="Write a Parquet file for Embedding Atlas, and end."
)
def view(out: str, other: str | None, marks: str, host: str, port: int, browser: bool, atlas: str | None) -> None:
    """Browse samples and rejections on a page of this machine; with OUT2, two outputs side by side.

    Nothing but marks is ever written. The page is ended with Ctrl-C.
    """
    if atlas is not None:
        from materia.view.atlas import export_atlas

        guarded(lambda: export_atlas(out, atlas))
        click.echo(atlas)
        return
    viewer = _viewer([out, other] if other else [out], marks)
    _serve(viewer, host, port, {"view": "pairs"} if other else {}, browser)


@click.command(cls=Command, epilog=AUDIT_EXAMPLES)
@out_argument
@click.option("-n", "n", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Samples to draw.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed draws others.")
@click.option("--stratify", metavar="COLUMN", help="Draw from each range or value of this column its share.")
@_marks_option
@click.option("--compare", nargs=2, metavar="NAME1 NAME2", help="How far the marks of two layers agree, and end.")
@json_option
@_host_option
@_port_option
@_browser_option
def audit(
    out: str,
    n: int,
    seed: int,
    stratify: str | None,
    marks: str,
    compare: tuple[str, str] | None,
    as_json: bool,
    host: str,
    port: int,
    browser: bool,
) -> None:
    """Draw samples at random and open the page on them; when all are marked, say how right each stage is.

    With --json, what the marks say until now is printed, and no page is opened.
    """
    if compare is not None:
        return _compare(out, compare, as_json)
    from materia.view.selection import Draw

    viewer = _viewer([out], marks)
    draw = Draw(n, seed, stratify)
    if as_json or len(viewer.marks.table()) >= n:
        guarded(viewer.read_all)
        if as_json or _is_done(viewer, draw):
            return _show_result(viewer, draw, as_json)
    asked: dict[str, Any] = {"n": n, "seed": seed, **({"stratify": stratify} if stratify else {})}
    _serve(viewer, host, port, {"audit": asked}, browser)
    if viewer.done.is_set():
        _show_result(viewer, draw, as_json)


def _viewer(outs: list[str], marks: str) -> Viewer:
    import getpass

    from materia.view.serve import require_packages

    guarded(require_packages)
    from materia.view.viewer import Viewer

    return guarded(lambda: Viewer(outs, marks, getpass.getuser()))


def _serve(viewer: Viewer, host: str, port: int, state: dict[str, Any], browser: bool) -> None:
    from materia.view.serve import serve

    guarded(lambda: serve(viewer, host, port, state, browser, click.echo))


def _is_done(viewer: Viewer, draw: Draw) -> bool:
    result = guarded(lambda: viewer.audit_result_of(draw))
    return result.drawn > 0 and result.marked == result.drawn


def _show_result(viewer: Viewer, draw: Draw, as_json: bool) -> None:
    import msgspec

    result = guarded(lambda: viewer.audit_result_of(draw))
    if as_json:
        click.echo(msgspec.json.encode(result).decode())
        return
    click.echo(f"{result.marked} of {result.drawn} drawn samples are marked")
    rows = [
        (one.stage, f"{one.right} of {one.marked}", _share(one.value), f"{_share(one.low)} to {_share(one.high)}")
        for one in result.stages
        if one.value is not None
    ]
    if rows:
        print_table(["stage", "right", "precision", "95 % interval"], rows)


def _compare(out: str, names: tuple[str, str], as_json: bool) -> None:
    import msgspec

    from materia.view.serve import require_packages

    guarded(require_packages)
    from materia.view.audit import compare
    from materia.view.marks import read_marks

    found = guarded(lambda: compare(*(read_marks(out, name) for name in names)))
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    rows = [
        (
            one.what,
            *map(str, (one.both, one.neither, one.only_first, one.only_second)),
            _share(one.agreement),
            _number(one.kappa),
        )
        for one in found
    ]
    print_table(["mark", "both", "neither", f"only {names[0]}", f"only {names[1]}", "agreement", "kappa"], rows)


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
