"""The configuration of training: one frozen tree, read by pipeline.config.load_settings from configs/train/*.yaml.

Fields marked *execution* may differ when a run is resumed: they change how fast and where, not what is learnt. All others are
written into the run, and a resumed run must have the same.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from materia.base.settings import Execution, Settings
from materia.base.storage_settings import StorageSettings

Precision = Literal["float32", "bfloat16"]


class ModelSettings(Settings):
    """Which model of trainer/model/dit.py."""

    size: Literal["tiny", "small", "base", "paper"] = Field("tiny", description="a named size, trainer.model.dit.SIZES")
    patch: tuple[int, int, int] = Field((1, 2, 2), description="latents per token in time, height, width [paper B: 1x2x2]")
    word_tokens: int = Field(8, ge=0, description="tokens of a word, cut or padded; 0: images without their words (ablation)")
    self_conditioning: bool = Field(False, description="the last estimate of the clean latents is a second input")


class EncoderSettings(Settings):
    """A frozen encoder: which, with which options of its constructor (trainer/encoders)."""

    backend: str = Field(description="name in trainer.encoders.BACKENDS")
    options: dict[str, Any] = Field({}, description="keyword arguments of its constructor, e.g. checkpoint")


class EncodersSettings(Settings):
    """The three frozen encoders; each fixes a width of the model."""

    text: EncoderSettings = EncoderSettings(backend="minilm")
    image: EncoderSettings = EncoderSettings(backend="efficientnet")
    video: EncoderSettings = EncoderSettings(backend="patches")
    max_text_tokens: int = Field(64, ge=4, description="longer captions are cut")


class BucketSettings(Settings):
    """Clips of one size; every step is of one bucket [paper B]."""

    frames: int = Field(ge=1, description="frames at data.fps")
    height: int = Field(ge=8, description="px")
    width: int = Field(ge=8, description="px")
    batch: int = Field(ge=1, description="clips a step, over all ranks and micro-batches")
    weight: float = Field(1.0, gt=0, description="share of the steps, relative to the other buckets")


class DataSettings(Settings):
    """What is read, and how a training item is made of a sample."""

    reader: Literal["indexed", "streaming"] = Field(
        "indexed", description="streaming: tars from front to back, no exact resume"
    )
    where: str | None = Field(None, description="filter on the index, e.g. subjects >= 2 and residual < 0.3")
    fps: float = Field(8.0, gt=0, description="frames per second of the training clips")
    buckets: tuple[BucketSettings, ...] = Field(min_length=1)
    windows: int = Field(4, ge=1, description="places in a longer clip where training clips may begin, drawn once")
    variants: int = Field(16, ge=1, description="augmentations of each reference, drawn once; a cache holds them all")
    augment: bool = Field(True, description="False: references as they were cut (ablation)")
    reference_px: int = Field(224, ge=32, description="side of the white square a reference is put on [paper §3.2: 224]")
    validation: int | None = Field(
        None,
        ge=0,
        description="samples held out for the validation loss; null: 16, at most a tenth of all; 0: none, training samples do",
    )
    shuffle_buffer: int = Field(1000, ge=1, description="streaming: items that are shuffled among each other")
    workers: Annotated[int, Execution] = Field(2, ge=0, description="processes that read ahead; 0: none")


class ObjectiveSettings(Settings):
    """Rectified flow [paper §3.2]."""

    times: Literal["logit_normal", "uniform"] = Field("logit_normal", description="law of the noise levels")
    shift_tokens: int | None = Field(
        None, ge=1, description="noise levels are shifted by sqrt(tokens of the clip / this) where above 1; null: never"
    )
    drop_text: float = Field(0.1, ge=0, le=1, description="share of clips whose caption is set to zero [paper B]")
    drop_images: float = Field(0.1, ge=0, le=1, description="share of clips whose images are set to zero [paper B]")


class OptimiserSettings(Settings):
    """AdamW with the paper's constants [paper B], and an average of the weights."""

    lr: float = Field(1e-4, gt=0, description="learning rate after warm-up, constant")
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(0.05, gt=0, description="largest norm of the gradient")
    warmup_steps: int = Field(1000, ge=0, description="steps of linear warm-up")
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="of the averaged weights; ramps up as (1 + step) / (10 + step)")


class StageSettings(Settings):
    """Which part of the training this is: stage I is text to video, stage II adds the images [paper B]."""

    images: bool = Field(True, description="False: stage I, no references are read")
    new_attention_steps: int = Field(0, ge=0, description="first steps in which only the new cross-attention learns")
    init: str | None = Field(None, description="a run to take the weights from, e.g. stage I's")
    steps: Annotated[int, Execution] = Field(1000, ge=1, description="where training ends")


class RunSettings(Settings):
    """How the work is done."""

    precision: Precision = Field("float32", description="of the model's arithmetic; weights and loss are float32")
    accumulate: Annotated[int, Execution] = Field(1, ge=1, description="micro-batches a step")
    checkpoint_activations: Annotated[bool, Execution] = Field(
        False, description="compute blocks again instead of keeping them"
    )
    compile: Annotated[bool, Execution] = Field(
        False, description="blocks through torch.compile, which takes a slow first step for each size of clip"
    )
    parallel: Annotated[Literal["ddp", "fsdp2"], Execution] = Field("ddp", description="over several processes")
    attention: Annotated[Literal["auto", "flash", "cudnn", "efficient", "math"], Execution] = Field(
        "auto", description="which of PyTorch's attention kernels is tried first"
    )
    device: Annotated[str, Execution] = Field("auto", description="auto: cuda where there is one, else cpu")
    threads: Annotated[int, Execution] = Field(0, ge=0, description="CPU threads of a process; 0: PyTorch's choice")


class LogSettings(Settings):
    """What is looked at on the way; none of it changes what is learnt."""

    every: Annotated[int, Execution] = Field(10, ge=1, description="steps between two points of the curves")
    validate_every: Annotated[int, Execution] = Field(500, ge=1, description="steps between two validation losses")
    sample_every: Annotated[int, Execution] = Field(1000, ge=0, description="steps between two sample grids; 0: none")
    sample_steps: Annotated[int, Execution] = Field(32, ge=1, description="sampling steps of the grid")
    samples: Annotated[int, Execution] = Field(4, ge=1, description="clips in the grid")
    peak_tflops: Annotated[float | None, Execution] = Field(
        None, gt=0, description="what the device could do, for MFU; null: known for common cards in bfloat16, else no MFU"
    )
    wandb: Annotated[bool, Execution] = Field(False, description="also to Weights & Biases")


class CheckpointSettings(Settings):
    """When the run is saved."""

    every: Annotated[int, Execution] = Field(500, ge=1, description="steps between two checkpoints; the last step is saved too")
    keep: Annotated[int, Execution] = Field(3, ge=1, description="checkpoints that are kept")


class TrainConfig(Settings):
    """The whole configuration of `materia train`, and of `materia precompute`."""

    seed: int = Field(0, ge=0)
    model: ModelSettings = ModelSettings()
    encoders: EncodersSettings = EncodersSettings()
    data: DataSettings
    objective: ObjectiveSettings = ObjectiveSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    stage: StageSettings = StageSettings()
    run: RunSettings = RunSettings()
    log: LogSettings = LogSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    storage: StorageSettings = Field({}, description="how object stores are reached, by scheme")

    @model_validator(mode="after")
    def _batches_can_be_cut(self) -> TrainConfig:
        for bucket in self.data.buckets:
            if bucket.batch % self.run.accumulate:
                raise ValueError(
                    f"a batch of {bucket.batch} cannot be cut into run.accumulate = {self.run.accumulate} equal parts"
                )
        return self

    @field_validator("data")
    @classmethod
    def _buckets_differ(cls, data: DataSettings) -> DataSettings:
        sizes = [(bucket.frames, bucket.height, bucket.width) for bucket in data.buckets]
        if len(set(sizes)) < len(sizes):
            raise ValueError("two buckets have the same size; add their weights instead")
        return data
