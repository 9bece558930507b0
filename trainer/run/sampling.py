"""Clips out of a run: what `materia sample` does.

In: a run and requests (trainer/sample/request.py). Out: for each an MP4, a contact sheet beside it (NAME.sheet.png: references
| generated frames) and NAME.json, all that was asked for and the checkpoint it came from. Of the averaged weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from materia.base import storage
from materia.report.grid import GridRow, grid
from trainer.config import TrainConfig
from trainer.data.batch import EncodedItem
from trainer.data.encode import encode_images, encode_texts, spans_tensor
from trainer.distributed import join, parallelise
from trainer.encoders import build_encoders
from trainer.encoders.base import EncodedText
from trainer.errors import TrainError
from trainer.run.checkpoints import load_model
from trainer.run.folder import check_encoders, read_config
from trainer.sample.generate import Options, Size, Trained, clip_size, default_steps, generate
from trainer.sample.request import Request, check, read_picture
from trainer.sample.video_io import write_mp4


class _Prepared(NamedTuple):
    """A request that was checked: the characters of its pictures' words, and the pictures (S, S, 3) uint8 RGB."""

    request: Request
    spans: list[tuple[int, int]]
    pixels: list[np.ndarray]


def sample_requests(run: str, requests: Sequence[Request], options: Options, device: str = "auto") -> None:
    """Generate what is asked for and write it. Raises TrainError for what cannot be met, before any clip is generated."""
    config = read_config(Path(run))
    prepared = [_prepare(request, config, run) for request in requests]
    trained = load_run(run, device)
    size = clip_size(trained, options)
    steps = options.steps or default_steps(*size[1:])
    items = _encoded(prepared, size, trained)
    made_with = {"run": run, "checkpoint_step": trained.step, **asdict(options), "steps": steps}
    console = Console(stderr=True, soft_wrap=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("sampling", total=steps * math.ceil(len(items) / options.batch))
        for first in range(0, len(items), options.batch):
            some = slice(first, first + options.batch)
            videos = generate(
                trained,
                items[some],
                [part.request.seed for part in prepared[some]],
                steps=steps,
                text_guidance=options.text_guidance,
                image_guidance=options.image_guidance,
                tick=lambda: bar.advance(task),
            )
            for part, video in zip(prepared[some], videos, strict=True):
                _write(part, video, config.data.fps, made_with)
                console.print(part.request.output, markup=False, highlight=False)


def load_run(run: str, device: str = "auto") -> Trained:
    """The averaged weights of a run's last checkpoint, and its encoders. Raises TrainError naming what is missing or other."""
    config = read_config(Path(run))
    model, step = load_model(run)
    settings = config.run.model_copy(update={"device": device, "checkpoint_activations": False})
    world = join(settings)
    encoders = build_encoders(config.encoders)
    encoders.setup(str(world.device))
    check_encoders(Path(run), encoders.identity())
    return Trained(config, model.config, parallelise(model, world, settings), step, encoders, world.device)


def _prepare(request: Request, config: TrainConfig, run: str) -> _Prepared:
    """Raises TrainError for a request that cannot be met by this run, or whose clip cannot be written."""
    spans = check(request)
    if (output := storage.local_path(request.output)) is not None:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainError(f"{request.output} cannot be written: {error.strerror}; choose another --output") from None
        if output.is_dir():
            raise TrainError(f"{request.output} is a folder; choose another --output")
    if spans and not config.stage.images:
        raise TrainError(f"{run} was trained without images (stage.images: false); leave references out, or train stage II")
    return _Prepared(request, spans, [read_picture(picture.path, config.data.reference_px) for picture in request.pictures])


def _encoded(prepared: list[_Prepared], size: Size, trained: Trained) -> list[EncodedItem]:
    """The requests as training would see them, with latents of zeros. Raises TrainError for a word that is cut off."""
    encoders = trained.encoders
    latents = torch.zeros(encoders.video.channels, *encoders.video.latent_size(*size))
    items = []
    for part, text in zip(prepared, encode_texts([part.request.prompt for part in prepared], encoders), strict=True):
        _require_words(part, text, encoders.max_text_tokens)
        empty = torch.zeros(0, encoders.image.tokens, encoders.image.width, device=trained.device)
        images = encode_images(np.stack(part.pixels), encoders) if part.pixels else empty
        spans = spans_tensor(part.spans).to(trained.device)
        items.append(EncodedItem(part.request.output, 0, latents, None, text.tokens, text.offsets, images, spans))
    return items


def _require_words(part: _Prepared, text: EncodedText, most: int) -> None:
    for picture, (start, end) in zip(part.request.pictures, part.spans, strict=True):
        if end and not ((text.offsets[:, 0] < end) & (text.offsets[:, 1] > start)).any():
            raise TrainError(
                f"the word {picture.word!r} comes after the first {most} tokens of the prompt, which is all that the model"
                " reads; name it earlier"
            )


def _write(part: _Prepared, video: np.ndarray, fps: float, made_with: dict[str, object]) -> None:
    """The clip (T, H, W, 3), its contact sheet and what was asked for; the clip last, so that where it is, all is."""
    request = part.request
    stem = request.output.removesuffix(".mp4")
    words = [picture.word for picture in request.pictures]
    sheet = grid([GridRow(request.prompt, list(zip(words, part.pixels, strict=True)), video)])
    frames, height, width = video.shape[:3]
    pictures = [picture._asdict() for picture in request.pictures]
    size = {"frames": frames, "height": height, "width": width, "fps": fps}
    asked = {**asdict(request), "pictures": pictures, **made_with, **size}
    storage.atomic_write(f"{stem}.sheet.png", lambda file: sheet.save(file, "PNG"))
    storage.atomic_write(f"{stem}.json", json.dumps(asked, indent=1, ensure_ascii=False).encode(errors="backslashreplace"))
    write_mp4(request.output, video, fps)
