"""The curves of a run: TensorBoard under RUN/tensorboard, and Weights & Biases if asked; used by rank 0 only.

In: what each step measured, validation losses, sample grids. Out: scalars every `log.every` steps, each the mean since the
last point. After a restart the curves go on where the checkpoint was: what the lost steps had written is purged from them.
MFU counts the FLOPs that the model needs, not those that activation checkpointing adds (PaLM, appendix B).
"""

from __future__ import annotations

import importlib
import math
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from materia.base import storage
from trainer.config import LogSettings, Precision
from trainer.data.batch import Batch
from trainer.errors import TrainError
from trainer.model.dit import TIME_WIDTH, ModelConfig
from trainer.run.validation import ValidationLoss

BINS = 5
"""Equal parts of the noise levels [0, 1] that have a loss curve of their own."""

PEAK_FLOPS: dict[str, float] = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A40": 150e12,
    "MI300X": 1307e12,
}
"""bfloat16 FLOP/s without sparsity, of the cards whose name has these words, first match; makers' data sheets."""


class Measured(NamedTuple):
    """One step. `binned` (2, BINS) of the global batch, see `by_time`; seconds and FLOPs are those of this rank."""

    binned: Tensor
    grad_norm: float  # before clipping
    lr: float
    clips: int  # of the global batch
    flops: float  # see `step_flops`
    wait_s: float  # of `time_s`, waiting for data
    time_s: float


def by_time(losses: Tensor, t: Tensor) -> Tensor:
    """Losses (B,) at noise levels (B,) in [0, 1] -> (2, BINS) float32: their sums in each bin, and how many they are.

    Means of such tensors over ranks or steps have the quotient of the whole: the mean loss.
    """
    place = (t * BINS).long().clamp(0, BINS - 1)  # (B,)
    sums = torch.zeros(2, BINS, device=losses.device)
    return sums.index_add(1, place, torch.stack([losses.detach().float(), torch.ones_like(losses, dtype=torch.float32)]))


def forward_flops(
    config: ModelConfig, latents: tuple[int, int, int], text_tokens: int, images: int, image_tokens: int
) -> float:
    """FLOPs of the matrix products of `VideoDiT.forward` for one clip of `latents` (T, H, W); a multiply-add counts two.

    With L video tokens, M context tokens, width D, conditions C: an attention costs 4 L D^2 for queries and outputs, 4 M C D
    for keys and values (C = D, M = L in self-attention), 4 L M D for scores and sums; the MLP 4 r L D^2. Padding counts.
    """
    d, c, r = config.width, config.condition_width, config.mlp_ratio
    volume = config.latent_channels * math.prod(config.patch)
    tokens = math.prod(latents) // math.prod(config.patch)  # L
    context = images * image_tokens

    def attention(m: int, width: int) -> float:
        return 4 * tokens * d * d + 4 * m * width * d + 4 * tokens * m * d

    block = (
        attention(tokens, d) + attention(text_tokens, c) + (attention(context, c) if context else 0) + 4 * r * tokens * d * d
    )
    ends = 2 * tokens * volume * d * (3 if config.self_conditioning else 2)
    time = 2 * (TIME_WIDTH * d + d * d + 6 * d * d)
    to_width = 0.0
    if config.text_width != c:
        to_width += 2 * (text_tokens + images * config.word_tokens) * config.text_width * c
    if config.image_width != c:
        to_width += 2 * context * config.image_width * c
    personalize = 2 * context * (config.word_tokens + 1) * c * c
    return config.depth * block + ends + time + to_width + personalize


def step_flops(config: ModelConfig, batch: Batch) -> float:
    """FLOPs of a training step on a batch: forward, and twice as much for the gradients of inputs and weights."""
    clips, _, *latents = batch.mean.shape
    images, image_tokens = batch.conditions.images.shape[1:3]
    text_tokens = batch.conditions.text.shape[1]
    flops: float = 3 * clips * forward_flops(config, (latents[0], latents[1], latents[2]), text_tokens, images, image_tokens)
    return flops


def peak_flops(device: torch.device, precision: Precision) -> float | None:
    """What the device could do, FLOP/s; None where that is not known: on CPUs, in float32, on cards that are not listed."""
    if device.type != "cuda" or precision != "bfloat16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for words, peak in PEAK_FLOPS.items() if set(words.split()) <= set(name.replace("-", " ").split())), None)


class Monitor:
    """Writes the curves of the run at address `run`; `first` is the first step (counted from 1) that this process does.

    `peak` FLOP/s of the device (`peak_flops`) is for MFU; `log.peak_tflops` goes before it. `config` is shown by W&B.
    Raises TrainError if W&B is asked for and not installed.
    """

    def __init__(self, run: str, settings: LogSettings, *, first: int, peak: float | None, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run, self.settings = run, settings
        self.peak = peak if settings.peak_tflops is None else settings.peak_tflops * 1e12
        self.since: list[Measured] = []
        self.wandb = _wandb(run, config) if settings.wandb else None
        self.board = SummaryWriter(storage.join(run, "tensorboard"), purge_step=first)

    def step(self, number: int, measured: Measured) -> dict[str, float] | None:
        """Take note of a step; every `log.every` steps write a point of the curves, and give it."""
        self.since.append(measured)
        if number % self.settings.every:
            return None
        point = _point(self.since, self.peak)
        self.since = []
        self._scalars(number, point)
        return point

    def validation(self, number: int, loss: ValidationLoss) -> None:
        """Write the validation losses after a step; without two clips that have references there is no gap."""
        values = {"own": loss.own, "shuffled": loss.shuffled, "gap": loss.gap}
        self._scalars(number, {f"validation/{name}": value for name, value in values.items() if value is not None})

    def picture(self, number: int, grid: Image.Image) -> None:
        """Show a sample grid, and keep it as RUN/samples/step-00000100.png."""
        storage.atomic_write(storage.join(self.run, "samples", f"step-{number:08d}.png"), lambda file: grid.save(file, "PNG"))
        self.board.add_image("samples", np.asarray(grid), number, dataformats="HWC")
        if self.wandb is not None:
            self.wandb.log({"samples": self.wandb.Image(grid)}, step=number)

    def close(self) -> None:
        """Write what is left."""
        self.board.close()
        if self.wandb is not None:
            self.wandb.finish()

    def _scalars(self, number: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.board.add_scalar(name, value, number)
        self.board.flush()
        if self.wandb is not None:
            self.wandb.log(dict(values), step=number)


def _point(steps: list[Measured], peak: float | None) -> dict[str, float]:
    """The curves' values for some steps; bins in which no noise level fell have none."""
    sums, counts = torch.stack([step.binned.float().cpu() for step in steps]).sum(dim=0)
    time_s = sum(step.time_s for step in steps)
    flops_per_s = sum(step.flops for step in steps) / time_s
    point = {
        "train/loss": float(sums.sum() / counts.sum()),
        "train/grad_norm": float(np.mean([step.grad_norm for step in steps])),
        "train/lr": steps[-1].lr,
        "speed/samples_per_s": sum(step.clips for step in steps) / time_s,
        "speed/data_wait_share": sum(step.wait_s for step in steps) / time_s,
        "speed/gflop_per_s": flops_per_s / 1e9,
    }
    if peak:
        point["speed/mfu"] = flops_per_s / peak
    for number in range(BINS):
        if counts[number]:
            point[f"train/loss_by_t/{number / BINS:.1f}-{(number + 1) / BINS:.1f}"] = float(sums[number] / counts[number])
    return point


def _wandb(run: str, config: Mapping[str, Any]) -> Any:
    """The module of Weights & Biases, with a run begun that goes on with ours: its id is kept in RUN/wandb_id."""
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise TrainError(f"log.wandb: {error}; run `pip install wandb`, or set log.wandb=false") from None
    address = storage.join(run, "wandb_id")
    if not storage.exists(address):
        storage.atomic_write(address, secrets.token_hex(4).encode())
    wandb.init(project="prima-materia", id=storage.read_bytes(address).decode(), resume="allow", dir=run, config=dict(config))
    return wandb
