"""How an exchangeable part is found, built and checked: by a short name of ours, or by an import path ("package.module:Class").

So a user's own model or encoder needs no change here; modules are imported when they are named, options are the keyword
arguments of the constructor. What such a part must offer is said where it is used: stages/backends.py,
trainer/encoders/base.py.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import reprlib
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from materia.base.errors import UserError

_CHECKED_LATER = frozenset({"sha256"})
"""Options whose type is no matter here: weights check their hash when they are asked for, and say more
(materia/base/weights/files.py: check_sha256)."""


class BackendError(UserError):
    """A backend that cannot be found or built from its options; the message names the setting, the value and the fix."""


def find_backend(setting: str, backend: str, known: Mapping[str, str]) -> Any:
    """Import a class; `known`: short name -> import path, `setting`: dotted name of the section that asks for it.

    Raises BackendError, naming the nearest known name.
    """
    path = known.get(backend, backend)
    module, colon, name = path.partition(":")
    if not colon:
        raise BackendError(
            f"{setting}.backend: {backend!r} is not one of {sorted(known)} and no import path like package.module:Class"
            + _nearest(backend, list(known))
        )
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise BackendError(f"{setting}.backend: cannot import {path!r}: {error}") from error


def build_backend(setting: str, backend: str, options: Mapping[str, Any], known: Mapping[str, str]) -> Any:
    """Import and construct, see `find_backend`. Raises BackendError also for an option that the class does not take, that it
    cannot do without, or that is of another type than its annotation says.

    A class may have `option_examples`: option -> a value, as `--set` takes it, for the message that it is missing.
    """
    cls = find_backend(setting, backend, known)
    if not callable(cls):
        raise BackendError(f"{setting}.backend: {backend!r} is no class but of type {type(cls).__name__}")
    _check_names(setting, backend, cls, options)
    _check_types(setting, cls, options)
    try:
        return cls(**options)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise BackendError(f"{setting}.options: {backend!r}: {error}") from error


def check_offers(setting: str, backend: str, built: Any, protocol: type[Any], see: str) -> None:
    """Raises BackendError unless a backend has what its protocol declares; `see`: where that is told.

    What the protocol's own bases define are defaults, which a subclass may inherit; what it declares itself are no methods yet.
    """
    if lacking := list(_lacking(built, protocol)):
        raise BackendError(f"{setting}.backend: {backend} has {'; and '.join(lacking)}; see {see}")


def _check_names(setting: str, backend: str, cls: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raises BackendError for an option that the class does not take, and for one that it takes and is not given."""
    parameters = _signature(cls).parameters.values()
    accepted = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    any_other = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for option in options:
        if option not in accepted and not any_other:
            raise BackendError(f"{setting}.options: {backend!r} has no option {option!r}{_nearest(option, accepted)}")
    if absent := [p.name for p in parameters if p.default is p.empty and p.name in accepted and p.name not in options]:
        examples = getattr(cls, "option_examples", {})
        named = " and ".join(f"{setting}.options.{name}" for name in absent)
        hints = _hints(cls)
        sets = [f"--set {setting}.options.{name}={examples.get(name) or _example(name, hints.get(name))}" for name in absent]
        verb = "is" if len(absent) == 1 else "are"
        raise BackendError(f"{named} {verb} missing: {backend!r} cannot do without; e.g. {' '.join(sets)}")


def _check_types(setting: str, cls: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raises BackendError for an option whose value is not of the type of the annotation."""
    for option, hint in _hints(cls).items():
        if option in options and option not in _CHECKED_LATER and (problem := _misfit(options[option], hint)):
            raise BackendError(f"{setting}.options.{option} = {reprlib.repr(options[option])}: {problem}")


def _example(name: str, hint: Any) -> str:
    """A value of the type, as `--set` takes it, for an option that says no better."""
    return next((value for kind, value in ((int, "1"), (float, "0.5"), (bool, "true")) if hint is kind), name.upper())


def _signature(call: Callable[..., Any]) -> inspect.Signature:
    """Of what tells none, as some classes of C do, one that takes anything."""
    try:
        return inspect.signature(call)
    except ValueError:
        return inspect.signature(lambda *args, **kwargs: None)


def _hints(cls: Callable[..., Any]) -> dict[str, Any]:
    """Parameter -> type, as far as annotations can be resolved."""
    try:
        return typing.get_type_hints(cls.__init__ if inspect.isclass(cls) else cls, include_extras=True)
    except (NameError, TypeError, AttributeError):  # names that only a type checker imports
        return {}


def _misfit(value: Any, hint: Any) -> str | None:
    """What keeps a value out of YAML from being of a type; nothing for a type that pydantic does not know."""
    try:
        TypeAdapter(hint).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        return first["msg"] + (
            "; put it in quotes" if first["type"] == "string_type" and not isinstance(value, list | dict) else ""
        )
    except (PydanticUserError, TypeError):
        return None
    return None


def _lacking(built: Any, protocol: type[Any]) -> Iterator[str]:
    """What a backend has not, in words."""
    inherited = []
    for layer in protocol.__mro__:
        for name, declared in vars(layer).items() if getattr(layer, "_is_protocol", False) else ():
            if name.startswith("_") or not inspect.isfunction(declared):
                continue
            method = getattr(built, name, None)
            arguments = list(inspect.signature(declared).parameters)[1:]
            wanted = f"{name}({', '.join(arguments)})"
            if layer is protocol and getattr(method, "__func__", None) is declared:
                method = None
            if callable(method):
                if not _takes(method, arguments):
                    yield f"a method {name}{_signature(method)} that cannot be called as {wanted}"
            elif layer is protocol:
                yield f"no method {wanted}"
            else:
                inherited.append(wanted)
    if inherited:
        yield f"no {', '.join(inherited)}, which subclasses of {protocol.__module__}.{protocol.__name__} inherit"
    for name, kind in typing.get_type_hints(protocol).items():
        if not hasattr(protocol, name) and not isinstance(getattr(built, name, None), typing.get_origin(kind) or kind):
            yield f"no attribute {name!r} of type {getattr(kind, '__name__', kind)}"


def _takes(method: Callable[..., Any], arguments: list[str]) -> bool:
    try:
        _signature(method).bind(*arguments)
    except TypeError:
        return False
    return True


def _nearest(name: str, known: list[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {match[0]!r}?" if match else f"; known: {', '.join(known) or 'none'}"
