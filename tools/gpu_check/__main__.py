"""The command line of the check: `python -m tools.gpu_check --help`."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from tools.gpu_check.report import Results, page
from tools.gpu_check.runner import Result, run_steps
from tools.gpu_check.step import Context, misses
from tools.gpu_check.steps import STEPS


@click.command(epilog="Example: python -m tools.gpu_check --minutes 8 --out gpu_check")
@click.option("--only", multiple=True, metavar="NAME", help="This step; may be given again.")
@click.option("--list", "show", is_flag=True, help="Name the steps and end.")
@click.option("--all", "everything", is_flag=True, help="Also the steps that do not fit the usual time.")
@click.option("--minutes", type=float, help="After which no step is begun and a running one is ended.  [default: 8; --tiny: 2]")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--tiny", is_flag=True, help="Small networks and few steps: a try of the check itself.")
@click.option("--out", default="gpu_check", show_default=True, type=click.Path(file_okay=False, path_type=Path))
def main(
    only: tuple[str, ...], show: bool, everything: bool, minutes: float | None, device: str, tiny: bool, out: Path
) -> None:
    """Measure models and trainer on one NVIDIA card; results.json and results.md in --out.

    Exit codes: 0 every step has a result or a reason; 1 a step failed or ran out of its time; 2 usage.
    """
    if show:
        for step in STEPS:
            click.echo(f"{step.name:14} {step.seconds:4.0f} s  {step.what}{' (with --all)' if step.rarely else ''}")
        return
    known = {step.name: step for step in STEPS}
    if unknown := [name for name in only if name not in known]:
        raise click.UsageError(f"no step {unknown[0]!r}; --list names them")
    if device == "cuda":
        _require_card()
    chosen = [known[name] for name in only] if only else [step for step in STEPS if everything or not step.rarely]
    command = "python -m tools.gpu_check " + shlex.join(sys.argv[1:])
    date = datetime.now(UTC).strftime("%Y-%m-%d")

    def write(results: list[Result]) -> None:
        whole = Results(command.strip(), date, results)
        (out / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(whole)))
        (out / "results.md").write_text(page(whole), encoding="utf-8")

    minutes = minutes or (2.0 if tiny else 8.0)
    results = run_steps(chosen, Context(device, tiny, out), minutes, write, click.echo)
    missed = sum(misses(row) for result in results for row in result.rows)
    click.echo(f"{out / 'results.md'}: {len(results)} steps, {missed} targets missed")
    sys.exit(any(result.status in ("failed", "out of time") for result in results))


def _require_card() -> None:
    import torch

    if not torch.cuda.is_available():
        raise click.UsageError(f"torch {torch.__version__} sees no card here; --device cpu --tiny tries the check without one")


if __name__ == "__main__":
    main()
