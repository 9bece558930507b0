"""Stage 1: entity words of a caption."""

from stages.entities.stage import Entities

__all__ = ["Entities"]
