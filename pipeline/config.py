"""The configuration of `materia run`: the sections of the source, of every stage in stages/specs.py, and of the engine.

In: a file or the name of a packaged one, and overrides (materia/base/settings_file.py). Out: one frozen `Config`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, create_model, field_validator, model_validator

from materia.base.settings import Execution, Settings
from materia.base.settings_file import load_settings
from materia.base.storage_settings import StorageSettings
from pipeline.sources.settings import SourceSettings
from stages.records import StageName
from stages.specs import MODEL_STAGES, STAGE_ORDER, STAGES


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
    gib_per_gpu: float = Field(
        0.0, ge=0, description="memory of each GPU it runs on; its share must hold its stages; 0: unchecked"
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
    pools: Annotated[tuple[PoolSettings, ...], Execution] = Field(
        (PoolSettings(stages=STAGE_ORDER),), description="together: every stage once, in order"
    )
    min_deadline_s: Annotated[float, Execution] = Field(
        60.0, gt=0, description="least time a row may take, alone or in a slice; a crowded machine takes many times the usual"
    )
    setup_deadline_s: Annotated[float, Execution] = Field(900.0, gt=0, description="time a worker's models may take to load")
    lease_s: Annotated[float, Execution] = Field(
        180.0,
        gt=0,
        description="a job that does not renew its claim on the output for so long counts as dead: others take over",
    )
    notice_s: Annotated[float, Execution] = Field(
        25.0, ge=0, description="time that a worker on Ray takes to finish its slice after SIGTERM; clouds give 30 to 120 s"
    )
    object_store_mb: Annotated[int, Execution] = Field(256, ge=80, description="Ray's shared memory on this machine, MB")

    @model_validator(mode="after")
    def _pools_make_the_way(self) -> EngineSettings:
        listed = tuple(stage for pool in self.pools for stage in pool.stages)
        if listed != STAGE_ORDER:
            raise ValueError(f"pools must list each stage once, in order: {', '.join(STAGE_ORDER)}; got {', '.join(listed)}")
        return self


class _WithoutStages(Settings):
    """The whole configuration of `materia run`; each stage's section has the stage's name."""

    device: Annotated[str, Execution] = Field(
        "cpu", description="torch device of every stage that does not name its own; of frames, which decodes, the cpu"
    )
    storage: StorageSettings = Field({}, description="how object stores are reached, by scheme")
    source: SourceSettings = SourceSettings()
    engine: EngineSettings = EngineSettings()

    def result_fields(self) -> dict[str, Any]:
        """As of all settings, the engine's last: the order of dataset.json."""
        fields = super().result_fields()
        fields["engine"] = fields.pop("engine")
        return fields

    @model_validator(mode="before")
    @classmethod
    def _hand_down_the_device(cls, data: Any) -> Any:
        return _with_devices(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _stages_fit_their_cards(self) -> _WithoutStages:
        for pool in self.engine.pools:
            on_card = [stage for stage in pool.stages if stage in MODEL_STAGES and uses_card(getattr(self, stage).device)]
            if on_card and not pool.num_gpus:  # Ray would place it where no card is, or beside workers who booked theirs
                raise ValueError(
                    f"the pool of {', '.join(pool.stages)} books no GPU for {', '.join(on_card)} on device"
                    f" {getattr(self, on_card[0]).device!r}; give it num_gpus (below 1 workers share a card), or set"
                    f" {on_card[0]}.device=cpu"
                )
            needed, share = sum(getattr(self, stage).gpu_memory_gib for stage in on_card), pool.num_gpus * pool.gib_per_gpu
            if pool.gib_per_gpu and needed > share + 1e-6:
                raise ValueError(
                    f"the pool of {', '.join(pool.stages)} needs {needed:g} GiB (gpu_memory_gib of {', '.join(on_card)}),"
                    f" but num_gpus {pool.num_gpus:g} x gib_per_gpu {pool.gib_per_gpu:g} = {share:g} GiB;"
                    " raise num_gpus, or lower batch sizes and with them the estimates"
                )
        return self


if TYPE_CHECKING:

    class Config(_WithoutStages):
        """With a section for each stage that has settings."""

        def __getattr__(self, stage: str) -> Any: ...

else:
    Config = create_model(
        "Config",
        __base__=_WithoutStages,
        __doc__=_WithoutStages.__doc__,
        __module__=__name__,
        **{spec.name: (spec.settings, spec.settings()) for spec in STAGES if spec.settings},
    )


def load_config(path: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """The configuration of `materia run`, see `load_settings`."""
    return load_settings(Config, path, overrides)


def uses_card(device: str) -> bool:
    """Whether a torch device ("cpu", "cuda", "cuda:1") is an accelerator."""
    return device.partition(":")[0] != "cpu"


def _with_devices(data: dict[str, Any]) -> dict[str, Any]:
    """The configuration's mapping with the top-level device in every stage without one, and no GPUs booked for the cpu.

    What is not of the expected shape is left as it is: validation says so.
    """
    device = data.get("device", "cpu")
    data = dict(data)
    for spec in STAGES:
        section = data.get(spec.name) or {}
        if spec.model and isinstance(section, dict):
            data[spec.name] = {"device": device if spec.takes_device else "cpu", **section}
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
