"""From a configuration to stage objects and fingerprints. The only place in pipeline/ that names the stages' classes."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.config import Config, fingerprint
from stages.base import Stage
from stages.records import StageName


def build_stage(config: Config, name: StageName) -> Stage:
    """Construct one stage; loads no model. Raises stages.backends.BackendError for a backend that cannot be built."""
    match name:
        case "entities":
            from stages.entities import Entities

            return Entities(config.entities)
        case "frames":
            from stages.frames import Frames

            return Frames(config.frames)
        case "localise":
            from stages.localise import Localise

            return Localise(config.localise)
        case "segment":
            from stages.segment import Segment

            return Segment(config.segment)
        case "faces":
            from stages.faces import Faces

            return Faces(config.faces)
        case "background":
            from stages.background import CleanBackground

            return CleanBackground(config.background, config.localise)
        case "cut":
            from stages.cut import Cut

            return Cut(config.frames.cut)
        case _:
            raise ValueError(f"no such stage: {name}")


def build_stages(config: Config, names: Iterable[StageName]) -> list[Stage]:
    """Stages by name, in the given order."""
    return [build_stage(config, name) for name in names]


def stage_fingerprints(config: Config, stages: Iterable[Stage]) -> dict[str, str]:
    """SHA-256 of what each stage's results depend on: its result settings, prompts and weights. The cut counts as frames."""
    return {
        stage.name: fingerprint({"settings": getattr(config, stage.name).result_fields(), "identity": stage.identity()})
        for stage in stages
        if stage.name != "cut"
    }
