"""The command `materia`: parses arguments, calls the library, prints, and turns outcomes into exit codes.

Exit codes: 0 done (rejections included), 1 unexpected, 2 usage, configuration or missing weights, 3 validate found errors,
4 output made with another configuration, 5 stopped by a systematic failure, 130 and 143 interrupted (resumable).
Heavy modules are imported inside the commands, so that `materia --help` answers at once.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

import click

from materia.cli import training
from materia.cli.layers import layers
from materia.cli.plan import plan
from materia.cli.report import report
from materia.cli.shared import Chunks, Group, Part, config_option, guarded, json_option, out_argument, print_table, set_option
from materia.cli.sheet import sheet
from materia.cli.stats import stats
from materia.cli.status import status
from materia.cli.submit import submit
from materia.cli.view import audit, view

if TYPE_CHECKING:
    from materia.base.weights.pull import Model, Wanted
    from pipeline.config import Config

EXAMPLES = """\b
Examples:
  materia doctor --config configs/local.yaml
  materia models pull --config configs/gpu.yaml
  materia plan --config configs/local.yaml --input clips.jsonl
  materia run --config configs/local.yaml --input clips.jsonl --output out/
  materia submit --target slurm --cluster cluster.yaml --config gpu --input /nas/clips.jsonl --output /nas/out
  materia status out/
  materia stats out/
  materia sheet out/ --output sheet.png
  materia view out/
  materia report out/ -o report.html
  materia validate out/
  materia train --config configs/train/tiny.yaml --shards out/ --output runs/a
"""

RUN_EXAMPLES = """\b
Examples:
  materia run --config local --input clips.jsonl --output out/
  materia run --config local --input clips.jsonl --output few/ --limit 100
  materia run --config gpu --input 's3://bucket/part-*.parquet' --output s3://bucket/out
  materia run --config gpu --input clips/ --output out/ --append
  materia run --config gpu --input clips.jsonl --output out/ --range 0:0       # plans, and that is all
  materia run --config gpu --input clips.jsonl --output out/ --range 0:500     # beside it: --range 500:
  materia run --config gpu --input clips.jsonl --output out/ --retry-transient
"""

MODELS_EXAMPLES = """\b
Examples:
  materia models pull --config configs/gpu.yaml
  materia models list --config configs/gpu.yaml
  materia models pull --config configs/train/paper-stage1.yaml
"""

_config_option = config_option("local")


@click.group(cls=Group, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="prima-materia")
def main() -> None:
    """Prima Materia: captioned videos in, training data for multi-subject video personalization out."""


@main.command(epilog=RUN_EXAMPLES)
@_config_option
@click.option(
    "--input",
    "input_address",
    required=True,
    help="Manifest (.jsonl, .csv, .parquet), a pattern or folder of them, or a folder of clips.",
)
@click.option("--output", required=True, help="Folder or fsspec address of the shards; the same command resumes.")
@click.option(
    "--engine",
    type=click.Choice(["ray", "serial", "inline"]),
    default="ray",
    show_default=True,
    help="What runs the stages; serial: one after the other, without Ray; inline: in this process, to debug a backend.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N rows, as a job of their own.")
@click.option(
    "--append", is_flag=True, help="Go on with rows that were added to the input's files, and with files that were added."
)
@click.option(
    "--range",
    "chunks",
    type=Chunks(),
    default=":",
    metavar="A:B",
    help="Only chunks A to before B, e.g. 0:500; others may run beside.",
)
@click.option("--part", type=Part(), metavar="K/N", help="Only part K (from 0) of N equal ones of a planned output's chunks.")
@click.option("--retry-transient", is_flag=True, help="Build chunks again in which rows failed for reasons that may pass.")
@click.option(
    "--force-lease",
    is_flag=True,
    help="Write although another job seems to, or the store cannot tell: you know that none does.",
)
@click.option(
    "--wait", is_flag=True, help="If another job holds the chunks, wait until it shows that it lives, or counts as dead."
)
@click.option("--metrics-port", type=click.IntRange(1, 65535), metavar="PORT", help="Metrics for Prometheus, on this port.")
@click.option("--events", metavar="FILE", help='A line of JSON for each slice, chunk and trouble; "-": to standard output.')
@click.option("--profile", type=click.IntRange(0), default=0, metavar="N", help="Trace the first N slices: _run/profile.json.")
@click.option("--ray-address", help="An existing cluster, e.g. auto; default: Ray starts in process and ends with the job.")
@set_option
def run(
    config_path: str,
    input_address: str,
    output: str,
    engine: Literal["ray", "serial", "inline"],
    limit: int | None,
    append: bool,
    chunks: tuple[int, int | None],
    part: tuple[int, int] | None,
    retry_transient: bool,
    force_lease: bool,
    wait: bool,
    metrics_port: int | None,
    events: str | None,
    profile: int,
    ray_address: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Build shards from captioned clips. The same command again continues where it stopped."""
    from pipeline.job import Watched, chunks_of_part, run_job

    config = _load(config_path, overrides)
    if part is not None:
        if chunks != (0, None):
            raise click.UsageError("--part takes no --range beside it")
        chunks = guarded(lambda: chunks_of_part(config, output, *part))
    result = guarded(
        lambda: run_job(
            config,
            input=input_address,
            output=output,
            engine=engine,
            ray_address=ray_address,
            limit=limit,
            append=append,
            chunks=chunks,
            retry_transient=retry_transient,
            force_lease=force_lease,
            wait=wait,
            watched=Watched(metrics_port, events, profile),
        )
    )
    message = _with_command(result.message, config_path, overrides)
    click.echo(message if result.exit_code == 0 else f"error: {message}", err=True)
    sys.exit(result.exit_code)


@main.command()
@out_argument
@json_option
def validate(out: str, as_json: bool) -> None:
    """Check every shard against schema, index and hashes, and that rows = samples + rejections. Exit code 3 on errors."""
    import msgspec
    from rich.console import Console

    from materia.dataset.findings import render
    from materia.dataset.validate import validate

    findings = guarded(lambda: validate(out))
    if as_json:
        click.echo(msgspec.json.encode(findings).decode())
    else:
        render(findings, Console())
    sys.exit(0 if findings.ok else 3)


@main.command()
@_config_option
@set_option
@json_option
def doctor(config_path: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """What is missing on this machine for a configuration, and the command that installs it."""
    import msgspec
    from rich.text import Text

    from pipeline.doctor import examine

    config = _load(config_path, overrides)
    checks = [
        msgspec.structs.replace(check, fix=_with_command(check.fix, config_path, overrides))
        for check in guarded(lambda: examine(config))
    ]
    if as_json:
        click.echo(msgspec.json.encode(checks).decode())
    else:
        colours = {"ok": "green", "warning": "yellow", "missing": "red"}
        rows = ((check.what, Text(check.status, colours[check.status]), check.found, check.fix) for check in checks)
        print_table(["what", "status", "found", "fix"], rows)
    sys.exit(2 if any(check.status == "missing" for check in checks) else 0)


@main.group()
def models() -> None:
    """Weights of the models that a configuration names: fetch them ahead of a job, see where they lie."""


@models.command(epilog=MODELS_EXAMPLES)
@_config_option
@set_option
@json_option
def pull(config_path: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Fetch the weights that are not here, and verify all. Afterwards jobs need no hub (HF_HUB_OFFLINE=1)."""
    from materia.base.weights.pull import pull

    wanted = guarded(lambda: _wanted_weights(config_path, overrides))
    found = guarded(lambda: pull(wanted, say=lambda text: click.echo(text, err=True), quiet=as_json))
    _show_models(found, as_json)
    failed = [model for model in found if model.status == "failed"]
    for model in failed:
        click.echo(f"error: {_with_command(model.problem, config_path, overrides)}", err=True)
    if not as_json and not failed and all(model.status == "here" for model in found):
        click.echo("nothing to fetch: everything is here and verified")
    sys.exit(2 if failed else 0)


@models.command("list", epilog=MODELS_EXAMPLES)
@_config_option
@set_option
@json_option
def list_models(config_path: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Say which weights a configuration needs and where they lie; fetches nothing."""
    from materia.base.weights.pull import survey

    _show_models(guarded(lambda: survey(_wanted_weights(config_path, overrides))), as_json)


def _wanted_weights(config_path: str, overrides: tuple[str, ...]) -> list[Wanted]:
    """What a configuration of `materia run` or of training names; the sections of the file say which it is."""
    from materia.base.settings_file import load_settings, section_names
    from materia.base.weights.pull import wanted_weights
    from pipeline.config import Config
    from trainer.config import TrainConfig

    sections = section_names(config_path)
    if len(sections & TrainConfig.model_fields.keys()) > len(sections & Config.model_fields.keys()):
        from trainer.encoders import build_encoders

        encoders = load_settings(TrainConfig, config_path, overrides).encoders
        return wanted_weights(build_encoders(encoders).weights())
    from stages.specs import stage_weights

    return wanted_weights(stage_weights(load_settings(Config, config_path, overrides)))


def _show_models(found: list[Model], as_json: bool) -> None:
    import msgspec

    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    rows = ((", ".join(m.options), m.address, m.status, f"{m.bytes / 1e6:,.1f}", m.sha256) for m in found)
    print_table(["option", "address", "status", "MB", "sha256"], rows)


def _with_command(text: str, config_path: str, overrides: tuple[str, ...]) -> str:
    """A message with the pull command in it as it must be typed for this configuration."""
    import shlex

    from materia.base.weights.files import PULL

    told = [override for override in overrides if not override.startswith("storage.")]  # how storage is reached is not repeated
    sets = [part for override in told for part in ("--set", override)]
    return text.replace(PULL, shlex.join(["materia", "models", "pull", "--config", config_path, *sets]))


def _load(path: str, overrides: tuple[str, ...]) -> Config:
    from pipeline.config import load_config

    return guarded(lambda: load_config(path, overrides))


for command in (
    submit,
    stats,
    status,
    sheet,
    plan,
    view,
    audit,
    layers,
    report,
    training.precompute,
    training.train,
    training.sample,
    training.evaluate,
    training.train_autoencoder,
):
    main.add_command(command)
