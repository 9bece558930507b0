"""The command `materia submit`: `materia run` on a cluster, under a name; the same command again finds it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from materia.cli.shared import Command, config_option, guarded, set_option

if TYPE_CHECKING:
    from pipeline.cluster.description import JobDescription
    from pipeline.cluster.settings import ClusterSettings
    from pipeline.config import Config

EXAMPLES = """\b
Examples:
  materia submit --target ray --cluster cluster.yaml --config cluster --input s3://b/clips.jsonl --output s3://b/out
  materia submit --target kuberay --cluster cluster.yaml --config cluster --input s3://b/in.jsonl --output s3://b/out --dry-run
  materia submit --target slurm --cluster cluster.yaml --config gpu --input /nas/clips.jsonl --output /nas/out
  materia submit --target slurm --cluster cluster.yaml --config gpu --input /nas/clips.jsonl --output /nas/out -- --limit 1000
"""

_DECIDED = {"engine": "--engine", "ray_address": "--ray-address", "chunks": "--range", "part": "--part", "wait": "--wait"}
"""Options of `materia run` that `submit` decides."""


@click.command(cls=Command, epilog=EXAMPLES)
@click.option("--target", type=click.Choice(["ray", "kuberay", "slurm"]), required=True, help="Which kind of cluster.")
@click.option("--cluster", "cluster_path", required=True, type=click.Path(), metavar="FILE", help="YAML: the cluster's facts.")
@config_option("cluster")
@click.option("--input", "input_address", required=True, help="As of `materia run`, as the nodes see it.")
@click.option("--output", required=True, help="As of `materia run`, as the nodes see it.")
@click.option("--name", help="Of the job, for this cluster; default: follows from --output.")
@click.option("--dry-run", is_flag=True, help="Print what would be handed in, and end.")
@click.option("--crd", type=click.Path(), metavar="FILE", help="kuberay: check the RayJob against KubeRay's CRD in this file.")
@set_option
@click.argument("run_options", nargs=-1, metavar="[-- OPTIONS OF RUN]")
def submit(
    target: str,
    cluster_path: str,
    config_path: str,
    input_address: str,
    output: str,
    name: str | None,
    dry_run: bool,
    crd: str | None,
    overrides: tuple[str, ...],
    run_options: tuple[str, ...],
) -> None:
    """Run `materia run` on a cluster: hand it in, show its log, end with its exit code.

    The same command again finds the job and follows it; one that failed or was killed is handed in anew and goes on with its
    output. Ctrl-C ends the showing, not the job.
    """
    if crd is not None and target != "kuberay":
        raise click.UsageError(f"--crd is of --target kuberay; {target} has none")
    _check_run_options(run_options)

    from pipeline.cluster.description import describe
    from pipeline.cluster.settings import load_cluster
    from pipeline.config import load_config

    cluster = guarded(lambda: load_cluster(cluster_path))
    if getattr(cluster, target) is None:
        raise click.UsageError(f"{cluster_path} has no section `{target}:`")
    config = guarded(lambda: load_config(config_path, overrides))
    job = guarded(lambda: describe(config, input=input_address, output=output, name=name, options=run_options))
    act = {"ray": _ray, "kuberay": _kuberay, "slurm": _slurm}[target]
    sys.exit(guarded(lambda: act(job, cluster, config, dry_run, crd)))


def _check_run_options(options: tuple[str, ...]) -> None:
    """What the job would refuse hours later is refused now. Raises click.UsageError."""
    from materia.cli.main import run

    needed = ["--config", "_", "--input", "_", "--output", "_"]
    try:
        context = run.make_context("materia run", [*needed, *options])
    except click.ClickException as error:
        raise click.UsageError(f"options of `materia run`: {error.format_message()}") from None
    for name, option in _DECIDED.items():
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"options of `materia run`: {option} is decided by submit")


def _ray(job: JobDescription, cluster: ClusterSettings, config: Config, dry_run: bool, crd: str | None) -> int:
    from pipeline.cluster import ray_jobs

    assert cluster.ray is not None
    if dry_run:
        click.echo(ray_jobs.dry_run(job, cluster.ray, Path.cwd()), nl=False)
        return 0
    settings = cluster.ray
    stop = partial(ray_jobs.stop_command, job, settings)
    return _until_interrupted(stop, lambda: ray_jobs.submit(job, settings, Path.cwd(), _tell, _write))


def _kuberay(job: JobDescription, cluster: ClusterSettings, config: Config, dry_run: bool, crd: str | None) -> int:
    from pipeline.cluster import kubectl, kuberay

    assert cluster.kuberay is not None
    settings = cluster.kuberay
    documents = kuberay.objects(job, settings, config.engine.pools)
    if crd is not None:
        from pipeline.cluster.crd import check

        problems = check(documents[-1], crd)
        for problem in problems:
            click.echo(f"error: {crd}: {problem}", err=True)
        if problems:
            return 2
    if dry_run:
        click.echo(kuberay.as_yaml(documents), nl=False)
        return 0
    stop = partial(kubectl.stop_command, job, settings)
    return _until_interrupted(stop, lambda: kubectl.submit(job, settings, documents, _tell, _write))


def _slurm(job: JobDescription, cluster: ClusterSettings, config: Config, dry_run: bool, crd: str | None) -> int:
    import shutil

    from pipeline.cluster import slurm

    assert cluster.slurm is not None
    settings = cluster.slurm
    if dry_run:
        click.echo(slurm.dry_run(job, settings), nl=False)
    if shutil.which("sbatch") is not None:
        for said in slurm.test_only(job, settings):
            _tell(said)
    if dry_run:
        return 0
    stop = partial(slurm.stop_command, job, settings)
    return _until_interrupted(stop, lambda: slurm.submit(job, settings, _tell, _write))


def _until_interrupted(stop: Callable[[], str], work: Callable[[], int]) -> int:
    try:
        return work()
    except KeyboardInterrupt:
        _tell(f"the job goes on; the same command shows it again, and `{stop()}` ends it")
        return 130


def _tell(text: str) -> None:
    click.echo(text, err=True)


def _write(text: str) -> None:
    click.echo(text, nl=False)
