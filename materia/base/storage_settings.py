"""How object stores are reached: by the configuration's `storage` section where it says so, else by the environment.

In: for each scheme its endpoint, region, profile and the like. Out: fsspec's own defaults, in this process and, through the
environment, in those that it starts. Keys, tokens and passwords have no field: they belong into the environment or a profile,
where the stores' libraries look for them, and so no record, log or message of ours can hold one.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator

from materia.base.settings import Execution, Settings

_TIMEOUT_S = 15.0  # s3fs's own for reading


class StorageOptions(Settings):
    """The storage behind one scheme; what is not given here, its library takes from the environment."""

    endpoint: str | None = Field(None, description="address of a server that speaks the scheme's protocol, e.g. of MinIO")
    anonymous: bool = Field(False, description="ask without credentials, as public buckets allow")
    requester_pays: bool = Field(False, description="agree to pay for the requests, which some buckets ask for")
    region: str | None = Field(None, description="region of the buckets; s3 only")
    profile: str | None = Field(None, description="profile of the AWS configuration files, which may hold keys; s3 only")
    timeout_s: float | None = Field(
        None, gt=0, description="silence after which a request is made again; not given: 15 s, 5 s for a connection; s3 only"
    )

    @field_validator("endpoint")
    @classmethod
    def _no_secrets(cls, endpoint: str | None) -> str | None:
        if endpoint is not None:
            parts = urlsplit(endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("must look like https://host:port")
            if parts.username or parts.password or parts.query:
                raise ValueError("must hold no credentials; they belong into the environment or a profile")
        return endpoint


_FSSPEC: Mapping[str, Mapping[str, Callable[[Any], dict[str, Any]]]] = {
    "s3": {  # s3fs.S3FileSystem
        "endpoint": lambda value: {"endpoint_url": value},
        "anonymous": lambda value: {"anon": value},
        "requester_pays": lambda value: {"requester_pays": value},
        "region": lambda value: {"client_kwargs": {"region_name": value}},
        "profile": lambda value: {"profile": value},
        "timeout_s": lambda value: {"config_kwargs": {"read_timeout": value, "connect_timeout": value}},
    },
    "gs": {  # gcsfs.GCSFileSystem
        "endpoint": lambda value: {"endpoint_url": value},
        "anonymous": lambda value: {"token": "anon"},
        "requester_pays": lambda value: {"requester_pays": value},
    },
}


def _known(settings: dict[str, StorageOptions]) -> dict[str, StorageOptions]:
    for scheme, options in settings.items():
        if scheme not in _FSSPEC:
            raise ValueError(
                f"options of {scheme!r} are not known here, only those of {', '.join(_FSSPEC)}; fsspec reads others from the"
                f" environment: FSSPEC_{scheme.upper()}"
            )
        for name in options.model_fields_set - _FSSPEC[scheme].keys():
            raise ValueError(f"{scheme} has no {name}; known: {', '.join(_FSSPEC[scheme])}")
    return settings


StorageSettings = Annotated[dict[str, StorageOptions], Execution, AfterValidator(_known)]
"""The `storage` section: scheme (s3, gs) -> its options. Not written into any record."""


def use_storage(settings: StorageSettings) -> None:
    """Reach every store as `settings` say from now on, in this process and in those that it will start."""
    for scheme, options in settings.items():
        name = f"FSSPEC_{scheme.upper()}"
        known = json.loads(os.environ.get(name, "{}"))
        os.environ[name] = json.dumps(known | fsspec_options(scheme, options))
    if settings and "fsspec" in sys.modules:  # else it reads the environment when it is imported
        import fsspec

        fsspec.config.set_conf_env(fsspec.config.conf)


def request_options(scheme: str) -> dict[str, Any]:
    """How the scheme's fsspec class is to make requests, whatever the settings say; materia/base/retries.py says why."""
    if scheme != "s3":
        return {}
    import fsspec

    known = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    sockets = {"socket_factory": _sockets(known.get("read_timeout", _TIMEOUT_S))}
    return {"config_kwargs": {"retries": {"mode": "standard"}, "connector_args": sockets} | known}


@functools.cache
def _sockets(timeout_s: float) -> Callable[[tuple[Any, ...]], socket.socket]:
    """Makes sockets that also end when what was sent is not taken for so long; a time-out of reading begins only after that."""

    def make(address: tuple[Any, ...]) -> socket.socket:
        made = socket.socket(*address[:3])
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # not on macOS
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(timeout_s * 1000))
        return made

    return make


def fsspec_options(scheme: str, options: StorageOptions) -> dict[str, Any]:
    """What the scheme's fsspec class calls the options that are set."""
    named: dict[str, Any] = {}
    for name in options.model_fields_set:
        if (value := getattr(options, name)) not in (None, False):
            named |= _FSSPEC[scheme][name](value)
    return named
