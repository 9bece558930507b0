"""The facts of a cluster, written down once in a file for `materia submit --cluster`: where jobs go and what nodes look like.

In: a YAML file with a section for each kind of cluster that one has. Secrets have no field: nodes have them in their
environment, pods out of Kubernetes' own secrets, which are named here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from materia.base.settings import Settings
from materia.base.settings_file import ConfigError, load_settings


def _matching(pattern: str, expected: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"must be {expected}")
        return value

    return AfterValidator(check)


Word = Annotated[str, _matching(r"[^\s\x00-\x1f\x7f]+", "one word, without blanks")]
EnvironmentName = Annotated[str, _matching(r"[A-Za-z_][A-Za-z0-9_]*", "a name of letters, digits and _")]
DnsLabel = Annotated[str, _matching(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", "small letters, digits and -, as Kubernetes' names")]
Duration = Annotated[str, _matching(r"(\d+-)?\d+(:\d\d){0,2}", "a time as Slurm writes it, e.g. 12:00:00 or 2-00:00:00")]


class RaySettings(Settings):
    """A Ray cluster that is there; its head must have ray[default], which has the server that takes jobs."""

    address: Annotated[str, _matching(r"https?://[^\s/@]+/?", "http://HOST:PORT")] = Field(
        "http://127.0.0.1:8265", description="of the dashboard of Ray's head, as `ray start --head` told it"
    )
    code: Word = Field(
        "git",
        description="what travels with the job: git: all that git tracks in the repository of the current folder; a path ending"
        " in .whl: that wheel; nodes: nothing, they have it installed",
    )
    env: dict[EnvironmentName, str] = Field({}, description="environment variables of the job; no secrets, Ray shows them")

    @field_validator("code")
    @classmethod
    def _known_code(cls, code: str) -> str:
        if code not in ("git", "nodes") and Path(code).suffix != ".whl":
            raise ValueError("must be git, nodes, or the path of a wheel")
        return code


class Toleration(Settings):
    """A taint of nodes that pods put up with, by Kubernetes' words."""

    key: Word
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class PodSettings(Settings):
    """A pod's size, and the nodes where it may run."""

    cpus: int = Field(4, ge=1)
    memory_gib: int = Field(16, ge=1)
    node_selector: dict[Word, str] = Field({}, description="labels of the Kubernetes nodes, e.g. those on demand or on spot")
    tolerations: tuple[Toleration, ...] = ()


class WorkerGroup(PodSettings):
    """Pods of one kind that workers run in. How many are needed follows from the configuration's `engine.pools`."""

    name: DnsLabel
    gpus: int = Field(0, ge=0, description="whole cards of a pod (nvidia.com/gpu)")
    labels: dict[Word, Word] = Field({}, description="Ray's labels of the pod, which `labels` of a pool choose by")
    resources: dict[Word, float] = Field({}, description="Ray's custom resources of the pod, which `resources` of a pool book")
    min_pods: int = Field(0, ge=0, description="pods that the autoscaler keeps though they idle")
    max_pods: int | None = Field(None, ge=1, description="pods that there may be; null: as many as the pools need")


class KubeRaySettings(Settings):
    """A Kubernetes cluster with the KubeRay operator, 1.5 or later."""

    namespace: DnsLabel = "default"
    image: Word = Field(description="container image of all pods, e.g. made by the Dockerfile of this repository")
    pull_secrets: tuple[DnsLabel, ...] = Field((), description="Kubernetes secrets that open the image's registry")
    service_account: DnsLabel | None = Field(None, description="of the pods, e.g. one that may read and write the buckets")
    head: PodSettings = Field(PodSettings(), description="the pod of Ray's head and the driver; on nodes that stay")
    workers: tuple[WorkerGroup, ...] = Field(min_length=1, description="kinds of pods; spot nodes will do")
    env: dict[EnvironmentName, str] = Field({}, description="environment variables of all pods; no secrets")
    secrets: tuple[DnsLabel, ...] = Field((), description="Kubernetes secrets whose keys become environment variables")
    volumes: dict[Word, DnsLabel] = Field({}, description="folder -> claim of a persistent volume that all pods share")
    retries: int = Field(3, ge=0, description="new clusters for a job whose head was lost; each goes on where the last one was")
    idle_s: int = Field(300, ge=60, description="an idle pod is given back after so long")
    keep_s: int = Field(600, ge=0, description="the cluster of a finished job is kept for so long")

    @field_validator("workers")
    @classmethod
    def _names_are_unique(cls, workers: tuple[WorkerGroup, ...]) -> tuple[WorkerGroup, ...]:
        names = [group.name for group in workers]
        if len(set(names)) < len(names):
            raise ValueError(f"names must differ; got {', '.join(names)}")
        return workers


class SlurmSettings(Settings):
    """A Slurm cluster whose nodes see one file system."""

    folder: str = Field("slurm", description="scripts, logs and exit codes of jobs, on a disk that all nodes see")
    setup: tuple[str, ...] = Field(
        (), description="lines of bash before `materia`, e.g. '. /nas/prima-materia/.venv/bin/activate'"
    )
    tasks: int = Field(8, ge=1, description="tasks of the array; each owns a range of chunks, and a node or a part of one")
    at_once: int | None = Field(None, ge=1, description="tasks that may run at a time; null: all")
    engine: Literal["ray", "serial"] = Field("ray", description="what runs the stages in a task; ray: a Ray of one node")
    nodes: int | None = Field(None, ge=1, description="instead of an array: one allocation of so many nodes under one Ray")
    time: Duration = Field("24:00:00", description="limit of a task; what is not done then goes on in the queue again")
    cpus: int = Field(8, ge=1, description="CPUs of a task, of a node with `nodes`")
    memory_gib: int | None = Field(None, ge=1, description="memory of the same; null: what the partition gives")
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    gres: Word | None = Field(None, description="e.g. gpu:1")
    options: tuple[Annotated[str, _matching(r"--[^\x00-\x1f\x7f]+", "an option of sbatch, e.g. --exclusive")], ...] = Field(
        (), description="more of sbatch's"
    )


class Prices(Settings):
    """What one pays, for `materia plan` and `materia status`."""

    card_hour: float = Field(0.0, ge=0, description="of a GPU; a worker that books half a card pays half")
    cpu_hour: float = Field(0.0, ge=0, description="of a CPU that a worker books")
    thousand_reads: float = Field(0.0, ge=0, description="of GET and HEAD requests to the store")
    thousand_writes: float = Field(0.0, ge=0, description="of PUT and LIST requests to the store")
    currency: Word = "USD"


class ClusterSettings(Settings):
    """All that one has; `materia submit --target` picks a section."""

    prices: Prices | None = None
    ray: RaySettings | None = None
    kuberay: KubeRaySettings | None = None
    slurm: SlurmSettings | None = None


def load_cluster(path: str | Path) -> ClusterSettings:
    """Read a cluster's file, see `load_settings`."""
    return load_settings(ClusterSettings, path)


def load_prices(path: str | Path) -> Prices:
    """Of a cluster's file. Raises ConfigError if it has none."""
    prices = load_cluster(path).prices
    if prices is None:
        raise ConfigError(f"{path} has no section `prices:`, e.g. `prices: {{card_hour: 2.5, cpu_hour: 0.04}}`")
    return prices
