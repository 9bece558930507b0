"""What is handed in: `materia run` under a name of ours, with its configuration as one file.

In: what a person typed for `materia submit`. Out: a `JobDescription`, which every kind of cluster can start from. The
configuration is written out whole, with its bases and overrides, so that the job runs what was checked here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re

import msgspec
import yaml

from materia.base.errors import UserError
from materia.base.storage import local_path
from pipeline.config import Config

NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
"""A name that Ray, Kubernetes, Slurm and file systems all take; KubeRay lengthens it, and refuses more than 47 characters."""


class JobDescription(msgspec.Struct, frozen=True):
    """`config`: the YAML of the file for --config; `options`: further arguments of `materia run`."""

    name: str
    config: str
    input: str
    output: str
    options: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what the job does; code and cluster have no part in it."""
        return hashlib.sha256(json.dumps([self.config, self.input, self.output, self.options]).encode()).hexdigest()

    def command(self, config_file: str, *more: str) -> list[str]:
        """Arguments of `materia`, with the configuration's place on the cluster, and what belongs to a kind of cluster.

        --wait: an attempt before this one may have been lost with its node, and its claim on the output outlives it.
        """
        return ["run", "--config", config_file, "--input", self.input, "--output", self.output, "--wait", *self.options, *more]


def describe(
    config: Config, *, input: str, output: str, name: str | None = None, options: tuple[str, ...] = ()
) -> JobDescription:
    """`options`: further ones of `materia run`. Local paths become absolute ones. Raises UserError for a name that will not do.

    Without a name it follows from the output's address, so that the same output is the same job.
    """
    input, output = _absolute(input), _absolute(output)
    name = name if name is not None else _name_of(output)
    if not NAME.fullmatch(name):
        raise UserError(
            f"--name {name!r}: must be of small letters, digits and -, begin with a letter, end with no -, and have at most 40"
            " characters"
        )
    settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return JobDescription(name, settings, input, output, options)


def _absolute(address: str) -> str:
    """A local path from the root on, because a job begins in a folder of its own."""
    path = local_path(address)
    return address if path is None else os.path.abspath(path)  # noqa: PTH100  # a link stays a link: nodes may have it, too


def _name_of(output: str) -> str:
    """E.g. "materia-out-1a2b3c4d": readable, and another one for another address."""
    last = re.sub(r"[^a-z0-9]+", "-", output.rstrip("/").rpartition("/")[2].lower()).strip("-")[:20].strip("-")
    return "-".join(filter(None, ["materia", last, hashlib.sha256(output.encode()).hexdigest()[:8]]))
