"""What may be configured in each stage, with units and meaning; validated once at the border (pipeline/config.py).

Light to import: pydantic only.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from materia.base.settings import Execution, Settings

NO_LINKS = "none"
"""The backend of links that looks for none."""
NO_FACES = "none"
"""The backend of faces in links that looks at none."""
NO_PEOPLE = "none"
"""The backend of people in links that believes the detector."""


class BackendChoice(Settings):
    """Which backend, and with which options; `stage`: where it stands in the configuration."""

    stage: ClassVar[str]
    backend: str = Field(description="short name, or package.module:Class of your own")
    options: dict[str, Any] = Field({}, description="keyword arguments of the backend's constructor")

    def result_fields(self) -> dict[str, Any]:
        """As of all settings, without the options that the backend calls `execution_options`."""
        from stages.backends import backend_class

        aside: frozenset[str] = getattr(backend_class(self.stage, self.backend), "execution_options", frozenset())
        options = {name: value for name, value in self.options.items() if name not in aside}
        return {**super().result_fields(), "options": options}


class BackendSettings(BackendChoice):
    """Common to stages that run a model."""

    device: Annotated[str, Execution] = Field(
        "cpu", description="torch device of the model, e.g. cuda; default: the top-level one"
    )
    threads: Annotated[int, Execution] = Field(1, ge=1, description="CPU threads of the model in one worker")
    gpu_memory_gib: Annotated[float, Execution] = Field(
        0.0,
        ge=0,
        description="estimate of what the stage needs on a card, weights and its largest batch; see PoolSettings.gib_per_gpu",
    )


class EntitiesSettings(BackendSettings):
    """Stage 1: entity words from the caption."""

    stage: ClassVar[str] = "entities"
    backend: str = "transformers"
    prompt: str = Field("entities", description="folder of the prompt template and its examples below prompts/")
    batch_size: int = Field(16, ge=1, le=256, description="captions asked together; batches never cross a slice")
    max_words: int = Field(12, ge=1, description="most candidate words taken from one caption")


class CutSettings(Settings):
    """Re-encoding of clips that have start or end: x264, tuned for fast decoding by loaders."""

    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = Field(
        "veryfast", description="x264's trade of encoding time for size"
    )
    crf: int = Field(18, ge=0, le=51, description="x264 constant rate factor")
    gop: int = Field(16, ge=1, description="frames between key frames")


class FramesSettings(BackendSettings):
    """Stage 2a: decoding, the three frames of record, and what a clip must be. Its model searches for scene cuts."""

    stage: ClassVar[str] = "frames"
    backend: str = Field("colours", description="what searches for scene cuts")
    device: Annotated[str, Execution] = Field(
        "cpu", description="torch device of the cut search; not the top-level one: clips are decoded where no card need be"
    )
    percents: tuple[int, int, int] = Field((5, 50, 95), description="where the frames lie in the clip, % of its duration")
    jpeg_quality: int = Field(95, ge=50, le=100, description="of the frames of record; 4:4:4")
    min_duration_s: float = Field(1.0, ge=0, description="shorter: too_short")
    max_duration_s: float = Field(120.0, gt=0, description="longer: too_long")
    long_s: float = Field(20.0, gt=0, description="longer: flag `long`")
    min_side_px: int = Field(128, ge=1, description="shorter side of the displayed picture; less: too_small")
    several_shots: Literal["reject", "flag", "ignore"] = Field(
        "reject",
        description=(
            "a scene cut between the frames; ignore: do not look; without motion, too, decode less (cost grows no more with the"
            " duration)"
        ),
    )
    motion: bool = Field(True, description="follow points between the frames; links and the background need them")
    donors: int = Field(
        6, ge=0, le=16, description="further frames that the background may borrow pixels from, as JPEG; needs motion; 0: none"
    )
    shot_threshold: float = Field(
        0.38,
        ge=0,
        le=1,
        description=(
            "a cut is surer than this; colours: neighbours so much less alike than the pairs around them; TransNetV2, which"
            " tells dissolves by this too, wants 0.5"
        ),
    )
    dissolve_threshold: float = Field(
        0.13, ge=0, le=1, description="a dissolve is surer; colours: unlikeness across it times its dip of contrast"
    )
    still_threshold: float = Field(
        0.02,
        ge=0,
        le=1,
        description="`still`: not even the liveliest hundredth of the picture changes by this share of full scale",
    )
    cut: CutSettings = CutSettings()

    def result_fields(self) -> dict[str, Any]:
        """As of all settings; the backend goes unsaid while it is what outputs had before there was a choice."""
        unsaid = {"backend": "colours", "options": {}}.items()
        return {name: value for name, value in super().result_fields().items() if (name, value) not in unsaid}


class LocaliseSettings(BackendSettings):
    """Stage 2b: boxes of the words, candidates and the best one of a word and frame (method: word-to-box rule)."""

    stage: ClassVar[str] = "localise"
    backend: str = "nanodet"
    min_score: float = Field(0.25, ge=0, le=1, description="a word's best box in a frame is kept above this score")
    candidates: int = Field(5, ge=1, le=10, description="most boxes of a word and frame that links may choose from")
    candidate_score: float = Field(0.2, ge=0, le=1, description="a box is a candidate above this score, if need be")
    min_area_share: float = Field(0.002, ge=0, le=1, description="smaller boxes, as a share of the frame, are dropped")
    max_area_share: float = Field(1.0, gt=0, le=1, description="larger boxes, as a share of the frame, are dropped")
    min_subject_frames: int = Field(1, ge=1, le=3, description="frames that must show a subject; fewer: no_instance")


class LinkFacesSettings(BackendChoice):
    """What tells people by their faces; it runs on the stage's device."""

    stage: ClassVar[str] = "link.faces"
    backend: str = Field("mobilefacenet", description="what tells people by their faces; none: faces are not looked at")


class LinkPeopleSettings(BackendChoice):
    """What looks again at boxes of people, before they are chosen; it runs on the stage's device."""

    stage: ClassVar[str] = "link.people"
    backend: str = Field("movenet", description="what says whether a box shows a person; none: the detector is believed")
    min_score: float = Field(
        0.4,
        ge=0,
        le=1,
        description="a person's box of which the mean of its score and of the detector's is less is no candidate",
    )


class LinkSettings(BackendSettings):
    """Between boxes and masks: which candidates of the three frames show the same individual."""

    stage: ClassVar[str] = "link"
    backend: str = Field("efficientnet", description="what tells individuals by their looks; none: no links, as published")
    faces: LinkFacesSettings = LinkFacesSettings()
    people: LinkPeopleSettings = LinkPeopleSettings()
    min_score: float = Field(0.3, ge=0, le=1, description="a box that is linked less to its word's others is left out")
    min_object_score: float = Field(
        0.35,
        ge=0,
        le=1,
        description="an object whose surest box of the three frames has no higher score of the detector is left out",
    )
    same_thing: float = Field(
        0.7, gt=0, le=1, description="boxes of a frame that overlap so much (intersection over union) are one thing's"
    )
    ambiguous_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="flag `ambiguous_identity`: for a word another individual would have been as good, up to this share",
    )
    carried: bool = Field(
        False,
        description=(
            "references also from frames in which the detector missed an individual, where what moved carried its box; false:"
            " such boxes are only recorded"
        ),
    )


class SegmentSettings(BackendSettings):
    """Stage 2c: masks from boxes."""

    stage: ClassVar[str] = "segment"
    backend: str = "grabcut"
    min_score: float = Field(0.25, ge=0, le=1, description="mask quality below which an instance is dropped")
    min_area_px: int = Field(64, ge=1, description="smaller masks are dropped")
    exclusive: bool = Field(True, description="a pixel belongs to one instance of a frame; without links: as it is drawn")
    max_lost_share: float = Field(
        0.6, ge=0, le=1, description="exclusive: an instance that loses more of its mask to others is dropped"
    )
    min_part_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="parts of a mask smaller than this share of its largest part are cut off; 0: none, 1: all but the largest",
    )
    max_hole_share: float = Field(
        0.0, ge=0, le=1, description="holes of a mask up to this share of its area are filled; 0: none"
    )


class FacesSettings(BackendSettings):
    """Stage 2d: one face crop for each human instance (method: Faces)."""

    stage: ClassVar[str] = "faces"
    backend: str = "blazeface"
    min_score: float = Field(
        0.75,
        ge=0,
        le=1,
        description="face confidence; BlazeFace gives backs of heads up to 0.7, YOLO wants 0.2 (method)",
    )
    grow_up: float = Field(0.17, ge=0, description="box grown upwards by this share of its height")
    grow_down: float = Field(0.03, ge=0, description="box grown downwards by this share of its height")


class BackgroundSettings(BackendSettings):
    """Stage 3: the middle frame without its subjects (method: Background)."""

    stage: ClassVar[str] = "background"
    backend: str = "patchmatch"
    also: list[str] = Field(
        ["person", "dog", "cat", "bird", "horse", "cow", "sheep"],
        description=(
            "who must not be seen either, whatever the caption names; with them go candidates of subjects that were not chosen,"
            " a margin for shadows, and more where a mask is not sure or somebody is found beside it; []: as published, only"
            " the instances, as in samples without links"
        ),
    )
    borrow: bool = Field(
        True, description="take hidden pixels from other frames that show them; false, or without links: invent all"
    )
    dilate_px: int = Field(4, ge=1, description="side of the square of ones that dilates the mask")
    dilate_times: int = Field(3, ge=0, description="how often it dilates")
    max_masked_share: float = Field(0.9, gt=0, le=1, description="more of the frame masked: nothing_left")
    retry_dilate: int = Field(
        0,
        ge=0,
        le=2,
        description=(
            "how often to draw again while a subject is still found in the result, each time with a mask dilated dilate_times"
            " further; the best drawing stays: nobody found on it, then by `quality`"
        ),
    )
    max_residual: float = Field(
        0.4,
        ge=0,
        le=1,
        description="detector score of a subject, or of anybody of `also`, above which it is still there; used by retry_dilate",
    )
    min_quality: float = Field(
        0.0, ge=0, le=1, description="background whose `quality` is less: low_quality; 0: none is rejected for that"
    )
