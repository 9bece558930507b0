"""Settings out of YAML files composed by `base:`, overridden by `--set a.b=c`, validated once into one frozen tree.

In: a file or the name of a packaged one, and overrides. Out: the settings; every error names the file, the field, and the
nearest known name. `options` belong to a `backend` and a `sha256` to a `checkpoint`: where a file or an override names another,
they are dropped.
"""

from __future__ import annotations

import difflib
import math
import shlex
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from materia.base.errors import UserError
from materia.base.settings import Settings

S = TypeVar("S", bound=Settings)

_COMPANIONS = {"backend": "options", "checkpoint": "sha256"}
"""Field -> the field beside it that tells of its value, and goes when another value comes."""


CONFIGS = Path(__file__).resolve().parents[2] / "configs"
"""The configurations that come along, in a clone and in a wheel."""


class ConfigError(UserError):
    """A configuration that cannot be used; the message names file, field, value and fix."""


def load_settings(kind: type[S], path: str | Path, overrides: tuple[str, ...] = ()) -> S:
    """Read a file (`config_file`) with its bases and `field.path=value` overrides (values are YAML). Raises ConfigError."""
    path = config_file(path)
    data = _read(path, ())
    for override in sorted(overrides, key=_drops_first):
        _apply(data, override)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(kind, path, problem) for problem in error.errors())) from None


def set_argument(field: str, value: str | list[str]) -> str:
    """`--set FIELD=VALUE` on one line, as a person types it in a shell.

    >>> print(set_argument("source.allowed_roots", [".", "/nas"]), set_argument("source.columns.video", "path"))
    --set 'source.allowed_roots=[., /nas]' --set source.columns.video=path
    """

    def dumped(**style: Any) -> str:
        text: str = yaml.safe_dump(value, default_flow_style=True, width=math.inf, **style)
        return text.removesuffix("\n").removesuffix("\n...")

    text = dumped(allow_unicode=True)
    if "\n" in text or "'" in text:
        text = dumped(default_style='"')
    return f"--set {shlex.quote(f'{field}={text}')}"


def section_names(path: str | Path) -> set[str]:
    """Top-level names in a file and its bases, validated or not. Raises ConfigError."""
    return set(_read(config_file(path), ()))


def config_file(path: str | Path, folder: Path = Path()) -> Path:
    """The file that `--config` or `base:` means: a path from `folder` on, or the name of one that comes along.

    The name is the path below configs/ without its suffix, e.g. "local", "train/tiny"; a file of that name goes before.
    """
    file = folder / path
    return file if file.is_file() else _packaged_configs().get(str(path), file)


def _packaged_configs() -> dict[str, Path]:
    """The configurations that come along, by name."""
    return {file.relative_to(CONFIGS).with_suffix("").as_posix(): file for file in sorted(CONFIGS.rglob("*.yaml"))}


def _drops_first(override: str) -> int:
    """Order of overrides: what drops others, as they were in the file, comes before what sets them."""
    field = override.partition("=")[0].rpartition(".")[2]
    return list(_COMPANIONS).index(field) if field in _COMPANIONS else len(_COMPANIONS)


def _problem(error: yaml.YAMLError) -> str:
    """What is wrong, on one line; the error's own text repeats the value, which may be a secret."""
    return getattr(error, "problem", None) or type(error).__name__


def _read(path: Path, parents: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in parents:
        raise ConfigError(f"{path}: `base:` comes back to itself")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; those that come along are called {', '.join(_packaged_configs())}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{place}: this is no YAML: {_problem(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping of sections, e.g. `localise: {{min_score: 0.4}}`")
    base = data.pop("base", None)
    if base is None:
        return data
    return _merge(_read(config_file(str(base), path.parent), (*parents, path.resolve())), data)


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for field, companion in _COMPANIONS.items():
        if over.get(field, under.get(field)) != under.get(field):
            merged.pop(companion, None)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply(data: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {override}: must look like localise.min_score=0.35")
    *sections, last = name.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {override}: {section!r} is a value, not a section")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {name}: the value is not YAML: {_problem(error)}") from None
    if last in _COMPANIONS and parsed != data.get(last):
        data.pop(_COMPANIONS[last], None)
    data[last] = parsed


def _explain(kind: type[Settings], path: Path, problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    field = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _known_fields(kind, location[:-1])
        match = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {match[0]!r}?" if match else f"known: {', '.join(known)}"
        return f"{path}: unknown field {field!r}; {hint}"
    if problem["type"] == "missing":
        return f"{path}: field {field!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(problem["input"], dict):  # a whole section: its parts are fine, but not together
        return f"{path}: {field}: {message}" if field else f"{path}: {message}"
    if location[0] == "storage":  # what is wrong there may be a secret that should not be there
        return f"{path}: {field}: {message}"
    return f"{path}: {field} = {problem['input']!r}: {message}"


def _known_fields(kind: type[Settings], location: list[str]) -> list[str]:
    """Names of the fields at a place in the tree; indices of lists and keys of mappings are passed over."""
    model: Any = kind
    for part in location:
        if part not in model.model_fields:
            continue
        annotation = model.model_fields[part].annotation
        args = [arg for arg in getattr(annotation, "__args__", ()) if isinstance(arg, type) and issubclass(arg, BaseModel)]
        model = args[0] if args else annotation
    return list(model.model_fields)
