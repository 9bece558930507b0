"""Configuration: YAML files composed by `base:`, overridden by `--set a.b=c`, validated once into one frozen tree.

In: a file or the name of a packaged one, and overrides. Out: `Config`. Each stage owns its settings (stages/settings.py); here
they are put together with the source's and the engine's. Every error names the file, the field, and the nearest known name.
`options` belong to a `backend` and a `sha256` to a `checkpoint`: where a file or an override names another, they are dropped.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from pipeline.source_settings import SourceSettings
from stages.errors import UserError
from stages.records import StageName
from stages.settings import (
    BackgroundSettings,
    EntitiesSettings,
    Execution,
    FacesSettings,
    FramesSettings,
    LocaliseSettings,
    SegmentSettings,
    Settings,
)

S = TypeVar("S", bound=Settings)

STAGE_ORDER: tuple[StageName, ...] = ("entities", "frames", "localise", "segment", "faces", "background", "cut")
"""The way of a clip (design: "The way of one clip")."""


MODEL_STAGES: tuple[StageName, ...] = ("entities", "localise", "segment", "faces", "background")
"""Stages that run a model: they have a backend and a device."""


_COMPANIONS = {"backend": "options", "checkpoint": "sha256"}
"""Field -> the field beside it that tells of its value, and goes when another value comes."""


CONFIGS = Path(__file__).resolve().parents[1] / "configs"
"""The configurations that come along, in a clone and in a wheel."""


class ConfigError(UserError):
    """A configuration that cannot be used; the message names file, field, value and fix."""


class PoolSettings(Settings):
    """One pool of workers that runs consecutive stages, fused in one process."""

    stages: tuple[StageName, ...] = Field(min_length=1, description="consecutive stages of the way of a clip")
    workers: int = Field(1, ge=1, description="actors of the pool")
    rows_per_batch: int = Field(32, ge=1, le=64, description="rows of a slice that run together; 1: least memory, exact blame")
    rows_at_once: int | None = Field(
        None,
        ge=1,
        le=64,
        description="a batch goes on in steps of so many rows and the stages work side by side, each at another step, so that a"
        " card waits for no CPU; null: one stage after the other",
    )
    num_cpus: float = Field(1.0, ge=0, description="CPUs that Ray books for one worker; fractions share a core")
    num_gpus: float = Field(
        0.0,
        ge=0,
        description="GPUs that Ray books for one worker; below 1 they share a card; dropped if all its stages run on the cpu",
    )
    card_gib: float = Field(
        0.0, ge=0, description="memory of the cards it runs on; its share must hold its stages; 0: unchecked"
    )
    resources: dict[str, float] = Field({}, description="custom Ray resources that a worker books, by name")
    labels: dict[str, str] = Field(
        {},
        description="labels of nodes where workers may run (ray start --labels), by Ray's selectors: a, !a, in(a, b)",
    )
    memory_limit_gib: float = Field(4.0, gt=0, description="resident memory of a worker's child above which it is ended")

    @field_validator("num_gpus")
    @classmethod
    def _whole_cards_above_one(cls, num_gpus: float) -> float:
        if num_gpus > 1 and num_gpus % 1:
            raise ValueError("Ray books a part of one card, or whole cards")
        return num_gpus


class EngineSettings(Settings):
    """How the work is cut and spread. The cut decides which batches are formed, so it is part of the result."""

    rows_per_chunk: int = Field(16, ge=1, description="manifest rows that make one shard")
    rows_per_slice: int = Field(
        16, ge=1, le=64, description="rows processed together; a slice never crosses a chunk; many suit a language model"
    )
    pools: Annotated[tuple[PoolSettings, ...], Execution] = Field(description="together: every stage once, in order")
    min_deadline_s: Annotated[float, Execution] = Field(
        20.0, gt=0, description="least time a row may take, alone or in a slice"
    )
    setup_deadline_s: Annotated[float, Execution] = Field(900.0, gt=0, description="time a worker's models may take to load")
    object_store_mb: Annotated[int, Execution] = Field(256, ge=80, description="Ray's shared memory on this machine, MB")

    @model_validator(mode="after")
    def _pools_make_the_way(self) -> EngineSettings:
        listed = tuple(stage for pool in self.pools for stage in pool.stages)
        if listed != STAGE_ORDER:
            raise ValueError(f"pools must list each stage once, in order: {', '.join(STAGE_ORDER)}; got {', '.join(listed)}")
        return self


class Config(Settings):
    """The whole configuration of `materia run`."""

    device: Annotated[str, Execution] = Field("cpu", description="torch device of every stage that does not name its own")
    source: SourceSettings = SourceSettings()
    entities: EntitiesSettings = EntitiesSettings()
    frames: FramesSettings = FramesSettings()
    localise: LocaliseSettings = LocaliseSettings()
    segment: SegmentSettings = SegmentSettings()
    faces: FacesSettings = FacesSettings()
    background: BackgroundSettings = BackgroundSettings()
    engine: EngineSettings

    @model_validator(mode="before")
    @classmethod
    def _hand_down_the_device(cls, data: Any) -> Any:
        return _with_devices(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _stages_fit_their_cards(self) -> Config:
        for pool in self.engine.pools:
            on_card = [stage for stage in pool.stages if stage in MODEL_STAGES and uses_card(getattr(self, stage).device)]
            if on_card and not pool.num_gpus:  # Ray would place it where no card is, or beside workers who booked theirs
                raise ValueError(
                    f"the pool of {', '.join(pool.stages)} books no GPU for {', '.join(on_card)} on device"
                    f" {getattr(self, on_card[0]).device!r}; give it num_gpus (below 1 workers share a card), or set"
                    f" {on_card[0]}.device=cpu"
                )
            needed, share = sum(getattr(self, stage).gpu_memory_gib for stage in on_card), pool.num_gpus * pool.card_gib
            if pool.card_gib and needed > share + 1e-6:
                raise ValueError(
                    f"the pool of {', '.join(pool.stages)} needs {needed:g} GiB (gpu_memory_gib of {', '.join(on_card)}),"
                    f" but num_gpus {pool.num_gpus:g} x card_gib {pool.card_gib:g} = {share:g} GiB; raise num_gpus, or lower"
                    " batch sizes and with them the estimates"
                )
        return self


def load_config(path: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """The configuration of `materia run`, see `load_settings`."""
    return load_settings(Config, path, overrides)


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


def config_file(path: str | Path, folder: Path = Path()) -> Path:
    """The file that `--config` or `base:` means: a path from `folder` on, or the name of one that comes along.

    The name is the path below configs/ without its suffix, e.g. "local", "train/tiny"; a file of that name goes before.
    """
    file = folder / path
    return file if file.is_file() else _packaged_configs().get(str(path), file)


def _packaged_configs() -> dict[str, Path]:
    """The configurations that come along, by name."""
    return {file.relative_to(CONFIGS).with_suffix("").as_posix(): file for file in sorted(CONFIGS.rglob("*.yaml"))}


def uses_card(device: str) -> bool:
    """Whether a torch device ("cpu", "cuda", "cuda:1") is an accelerator."""
    return device.partition(":")[0] != "cpu"


def fingerprint(values: dict[str, Any]) -> str:
    """SHA-256 (hex) of JSON-able values, independent of key order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _drops_first(override: str) -> int:
    """Order of overrides: what drops others, as they were in the file, comes before what sets them."""
    field = override.partition("=")[0].rpartition(".")[2]
    return list(_COMPANIONS).index(field) if field in _COMPANIONS else len(_COMPANIONS)


def _read(path: Path, parents: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in parents:
        raise ConfigError(f"{path}: `base:` comes back to itself")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; those that come along are called {', '.join(_packaged_configs())}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
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
        raise ConfigError(f"--set {override}: the value is not YAML: {error}") from None
    if last in _COMPANIONS and parsed != data.get(last):
        data.pop(_COMPANIONS[last], None)
    data[last] = parsed


def _with_devices(data: dict[str, Any]) -> dict[str, Any]:
    """The configuration's mapping with the top-level device in every stage without one, and no GPUs booked for the cpu.

    What is not of the expected shape is left as it is: validation says so.
    """
    device = data.get("device", "cpu")
    data = dict(data)
    for stage in MODEL_STAGES:
        section = data.get(stage) or {}
        data[stage] = {"device": device, **section} if isinstance(section, dict) else section
    engine = data.get("engine")
    if isinstance(engine, dict) and isinstance(engine.get("pools"), list | tuple):
        data["engine"] = {**engine, "pools": [_without_idle_gpus(pool, data) for pool in engine["pools"]]}
    return data


def _without_idle_gpus(pool: Any, data: dict[str, Any]) -> Any:
    if not isinstance(pool, dict) or not isinstance(pool.get("stages"), list | tuple):
        return pool
    sections = [data.get(stage) for stage in pool["stages"] if stage in MODEL_STAGES]
    on_card = any(isinstance(section, dict) and uses_card(str(section.get("device"))) for section in sections)
    return pool if on_card else {**pool, "num_gpus": 0.0}


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
    return f"{path}: {field} = {problem['input']!r}: {message}"


def _known_fields(kind: type[Settings], location: list[str]) -> list[str]:
    """Names of the fields at a place in the tree; list indices are passed over."""
    model: Any = kind
    for part in location:
        if part.isdigit():
            continue
        annotation = model.model_fields[part].annotation
        args = [arg for arg in getattr(annotation, "__args__", ()) if isinstance(arg, type) and issubclass(arg, BaseModel)]
        model = args[0] if args else annotation
    return list(model.model_fields)
