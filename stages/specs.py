"""The table of stages, in the order of a clip's way: configuration, building, fingerprints and reason codes follow from it.

A further stage is its own module with a class (stages/base.py: Stage) and its settings, a row here, and a field of
stages/records.py for what it finds. Classes are named by import string, so that nothing is imported before it is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any, NamedTuple

from materia.base.settings import Settings, fingerprint
from materia.base.weights.files import Weights
from stages.backends import build_backend
from stages.base import Stage
from stages.records import StageName
from stages.settings import (
    BackgroundSettings,
    EntitiesSettings,
    FacesSettings,
    FramesSettings,
    LocaliseSettings,
    SegmentSettings,
)
from stages.versions import versions


class StageSpec(NamedTuple):
    """A stage: its name, and the import string of its class.

    `settings`: of its section of the configuration; None: it has none, is set up by another's and has no fingerprint of its
    own. `built_with`: sections, or parts of them by dotted name, that the class is constructed with; empty: its own section.
    `reasons`: codes of its rejections. `model`: what it loads, in words for a person who waits; empty: no model, so neither
    backend nor device. `libraries`: whose versions decide the bytes of its results (stages/versions.py). `revision` rises when
    the same input and settings give other results than before, so that no output is a mixture.
    """

    name: StageName
    step: str
    settings: type[Settings] | None
    built_with: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    model: str = ""
    libraries: tuple[str, ...] = ()
    revision: int = 1


_PICTURES = ("opencv", "pillow")
STAGES = (
    StageSpec(
        "entities",
        "stages.entities:Entities",
        EntitiesSettings,
        reasons=("invalid_output", "not_in_caption", "no_subject", "plural_subject"),
        model="the language model",
        revision=2,
    ),
    StageSpec(
        "frames",
        "stages.frames:Frames",
        FramesSettings,
        reasons=(
            "unreadable",
            "no_video_stream",
            "too_short",
            "too_long",
            "too_small",
            "no_distinct_frames",
            "several_shots",
            "several_sizes",
        ),
        libraries=("pyav", "x264", *_PICTURES),
        revision=2,
    ),
    StageSpec(
        "localise",
        "stages.localise:Localise",
        LocaliseSettings,
        reasons=("no_instance",),
        model="the detector",
        libraries=_PICTURES,
    ),
    StageSpec(
        "segment",
        "stages.segment:Segment",
        SegmentSettings,
        reasons=("low_mask_score",),
        model="the segmenter",
        libraries=_PICTURES,
    ),
    StageSpec("faces", "stages.faces:Faces", FacesSettings, model="the face detector", libraries=_PICTURES),
    StageSpec(
        "background",
        "stages.background:CleanBackground",
        BackgroundSettings,
        built_with=("background", "localise"),
        reasons=("nothing_left",),
        model="the inpainter",
        libraries=_PICTURES,
    ),
    StageSpec("cut", "stages.cut:Cut", None, built_with=("frames.cut",)),
)
"""The way of a clip (design: "The way of one clip")."""

STAGE_ORDER: tuple[StageName, ...] = tuple(spec.name for spec in STAGES)
MODEL_STAGES: tuple[StageName, ...] = tuple(spec.name for spec in STAGES if spec.model)
FINGERPRINTED: tuple[StageName, ...] = tuple(spec.name for spec in STAGES if spec.settings)
"""Stages whose fingerprints every sample carries; re-encoding ("cut") is a setting of frames."""

SOURCE_REASONS = (
    "broken_line",
    "bad_encoding",
    "missing_field",
    "wrong_type",
    "empty_caption",
    "caption_too_long",
    "duplicate_id",
    "outside_root",
    "not_found",
    "not_a_file",
    "bad_time_range",
)
ENGINE_REASONS = ("worker_crash", "timeout", "transient_exhausted", "internal_error")
"""What may happen in every stage."""
REASONS: dict[StageName, tuple[str, ...]] = {
    "source": SOURCE_REASONS + ENGINE_REASONS,
    **{spec.name: spec.reasons + ENGINE_REASONS for spec in STAGES},
}
"""Reason codes by the stage that may give them."""


def build_stages(config: Settings, names: Iterable[StageName]) -> list[Stage]:
    """Construct stages by name, in the given order; loads no model. `config` has the sections (pipeline/config.py: Config).

    Raises materia.base.backends.BackendError for a backend that cannot be built.
    """
    return [_build(config, next(spec for spec in STAGES if spec.name == name)) for name in names]


def stage_weights(config: Settings) -> Iterator[Weights]:
    """The weights of every stage's backend, as each names them. Builds the backends and loads nothing. Raises BackendError."""
    for stage in MODEL_STAGES:
        settings = getattr(config, stage)
        yield from build_backend(stage, settings.backend, settings.options).weights()


def stage_fingerprints(config: Settings, stages: Iterable[Stage]) -> dict[StageName, str]:
    """SHA-256 of what each stage's results depend on: its result settings, prompts, weights, and the libraries that decode and
    encode. The cut counts as frames.
    """
    specs = {spec.name: spec for spec in STAGES}
    return {
        stage.name: fingerprint(
            {
                "settings": getattr(config, stage.name).result_fields(),
                "identity": stage.identity(),
                "libraries": versions(specs[stage.name].libraries),
                **({"revision": specs[stage.name].revision} if specs[stage.name].revision > 1 else {}),
            }
        )
        for stage in stages
        if stage.name in FINGERPRINTED
    }


def library_versions() -> dict[str, str]:
    """Of all libraries that enter fingerprints."""
    return versions(sorted({library for spec in STAGES for library in spec.libraries}))


def _build(config: Settings, spec: StageSpec) -> Stage:
    module, _, name = spec.step.partition(":")
    arguments: list[Any] = [reduce(getattr, path.split("."), config) for path in spec.built_with or (spec.name,)]
    stage: Stage = getattr(importlib.import_module(module), name)(*arguments)
    return stage
