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
    NO_LINKS,
    BackendChoice,
    BackgroundSettings,
    EntitiesSettings,
    FacesSettings,
    FramesSettings,
    LinkSettings,
    LocaliseSettings,
    SegmentSettings,
)
from stages.versions import versions


class StageSpec(NamedTuple):
    """A stage: its name, and the import string of its class.

    `settings`: of its section of the configuration; None: it has none, is set up by another's and has no fingerprint of its
    own. `built_with`: sections, or parts of them by dotted name, that the class is constructed with; empty: its own section.
    `reasons`: codes of its rejections. `model`: what it loads, in words for a person who waits; empty: no model, so neither
    backend nor device. `takes_device`: the top-level one, unless its section names its own; else the cpu. `libraries`: whose
    versions decide the bytes of its results (stages/versions.py). `revision` rises when the same input and settings give other
    results than before, so that no output is a mixture. `off`: a backend with which the stage does nothing, and has no
    fingerprint.
    """

    name: StageName
    step: str
    settings: type[Settings] | None
    built_with: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    model: str = ""
    takes_device: bool = True
    libraries: tuple[str, ...] = ()
    revision: int = 1
    off: str = ""


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
        model="the cut search",
        takes_device=False,
        libraries=("pyav", "x264", *_PICTURES),
        revision=3,
    ),
    StageSpec(
        "localise",
        "stages.localise:Localise",
        LocaliseSettings,
        built_with=("localise", "background.also"),
        reasons=("no_instance",),
        model="the detector",
        libraries=_PICTURES,
    ),
    StageSpec(
        "link",
        "stages.link:LinkInstances",
        LinkSettings,
        built_with=("link", "localise"),
        reasons=("no_consistent_subject",),
        model="the recogniser",
        libraries=_PICTURES,
        revision=2,
        off=NO_LINKS,
    ),
    StageSpec(
        "segment",
        "stages.segment:Segment",
        SegmentSettings,
        built_with=("segment", "background.also"),
        reasons=("low_mask_score", "no_subject_alone"),
        model="the segmenter",
        libraries=_PICTURES,
        revision=2,
    ),
    StageSpec("faces", "stages.faces:Faces", FacesSettings, model="the face detector", libraries=_PICTURES, revision=2),
    StageSpec(
        "background",
        "stages.background:CleanBackground",
        BackgroundSettings,
        built_with=("background", "localise"),
        reasons=("nothing_left", "low_quality"),
        model="the inpainter",
        libraries=_PICTURES,
        revision=5,
    ),
    StageSpec("cut", "stages.cut:Cut", None, built_with=("frames.cut",)),
)
"""The way of a clip (design: "The way of one clip")."""

STAGE_ORDER: tuple[StageName, ...] = tuple(spec.name for spec in STAGES)
MODEL_STAGES: tuple[StageName, ...] = tuple(spec.name for spec in STAGES if spec.model)
FINGERPRINTED: tuple[StageName, ...] = tuple(spec.name for spec in STAGES if spec.settings)
"""Stages whose fingerprints samples carry; re-encoding ("cut") is a setting of frames."""
ALWAYS_FINGERPRINTED: tuple[StageName, ...] = tuple(spec.name for spec in STAGES if spec.settings and not spec.off)
"""Those that cannot be switched off."""

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

_OTHER_MODEL = "take a larger model: entities.backend, entities.options"
_WORDS = "the worker's last words are in _run/workers.log"
CURES: dict[str, str] = {
    "broken_line": "mend the row: one JSON object a line, one CSV record; rows that are that long: raise source.max_line_bytes",
    "bad_encoding": "save the manifest as UTF-8",
    "missing_field": "fill in video and caption; where they have other names: source.columns.video, source.columns.caption",
    "wrong_type": "write text as text and one caption a row",
    "empty_caption": "describe the clip, or leave the row out",
    "caption_too_long": "shorten the caption, or raise source.max_caption_chars",
    "duplicate_id": "give every row its own id (source.columns.id), or leave out what is there twice",
    "outside_root": "move the video below the manifest's folder, or allow where it lies: source.allowed_roots, source.schemes",
    "not_found": "put the video where the row says, or correct the row; addresses are relative to the manifest's folder",
    "not_a_file": "name a file of the video, not a folder or a device",
    "bad_time_range": "write start and end as seconds or H:M:S.f, the end after the start and both within the video",
    "invalid_output": f"{_OTHER_MODEL}, or look at its instructions: entities.prompt",
    "not_in_caption": f"{_OTHER_MODEL}, or one that is bound to the caption's words, as in configs/local.yaml",
    "no_subject": "name the people and animals in the caption; clips that show none are of no use here",
    "plural_subject": "name who can be told apart, e.g. 'a man and a woman' for 'people'; clips of crowds are of no use here",
    "unreadable": "see whether a player opens the file; copy or encode it again",
    "no_video_stream": "name the file that has the pictures; this one has none that move",
    "too_short": "lower frames.min_duration_s, or give a wider start and end",
    "too_long": "raise frames.max_duration_s, or give start and end of a part",
    "too_small": "lower frames.min_side_px, or take a larger version of the video",
    "no_distinct_frames": "take a longer part, or spread frames.percents",
    "several_shots": "give start and end of one shot; frames.several_shots=flag keeps the clip; where there is no cut, raise"
    " frames.shot_threshold or frames.dissolve_threshold",
    "several_sizes": "give start and end of a part of one size, or encode the video again",
    "no_instance": "lower localise.min_score, localise.min_subject_frames or localise.min_area_share; a better detector:"
    " localise.backend",
    "no_consistent_subject": "give start and end of a part in which the subject stays to be seen; lower link.min_score",
    "low_mask_score": "lower segment.min_score or segment.min_area_px; a better segmenter: segment.backend",
    "no_subject_alone": "raise segment.max_lost_share; a better segmenter: segment.backend",
    "nothing_left": "raise background.max_masked_share; a background that is hardly seen is mostly invented",
    "low_quality": "lower background.min_quality; a better inpainter: background.backend; background.retry_dilate draws again",
    "worker_crash": f"{_WORDS}; where memory ran out, raise memory_limit_gib of the pool in engine.pools",
    "timeout": f"raise engine.min_deadline_s, or run the stage on a faster device; {_WORDS}",
    "transient_exhausted": "see that the store or the server answers (storage, entities.options), then: --retry-transient",
    "internal_error": f"this is a fault of the program or of a library: report it with its message; {_WORDS}",
}
"""Reason code -> what its clips need to become samples: which field to change (pipeline/config.py), or what of the row."""


def build_stages(config: Settings, names: Iterable[StageName]) -> list[Stage]:
    """Construct stages by name, in the given order; loads no model. `config` has the sections (pipeline/config.py: Config).

    Raises materia.base.backends.BackendError for a backend that cannot be built.
    """
    return [_build(config, next(spec for spec in STAGES if spec.name == name)) for name in names]


def stage_weights(config: Settings) -> Iterator[Weights]:
    """The weights of every stage's backend, as each names them. Builds the backends and loads nothing. Raises BackendError."""
    for choice in _choices(config):
        yield from build_backend(choice.stage, choice.backend, choice.options).weights()


def _choices(config: Settings) -> Iterator[BackendChoice]:
    """The backends of every stage, those of parts of it too unless it does nothing."""
    for spec in STAGES:
        if spec.model:
            section = getattr(config, spec.name)
            yield section
            if not _is_off(config, spec):
                yield from (value for _, value in section if isinstance(value, BackendChoice))


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
        if stage.name in FINGERPRINTED and not _is_off(config, specs[stage.name])
    }


def _is_off(config: Settings, spec: StageSpec) -> bool:
    return bool(spec.off) and getattr(config, spec.name).backend == spec.off


def library_versions() -> dict[str, str]:
    """Of all libraries that enter fingerprints."""
    return versions(sorted({library for spec in STAGES for library in spec.libraries}))


def _build(config: Settings, spec: StageSpec) -> Stage:
    module, _, name = spec.step.partition(":")
    arguments: list[Any] = [reduce(getattr, path.split("."), config) for path in spec.built_with or (spec.name,)]
    stage: Stage = getattr(importlib.import_module(module), name)(*arguments)
    return stage
