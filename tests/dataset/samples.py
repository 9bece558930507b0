"""Valid samples, rejections and whole outputs for tests, made from numpy pictures: nothing here needs a model or a decoder.

`make_sample(folder, row, ...)` gives a sample whose boxes, masks, crops and background agree with its frames, with a clip file
(not a real video) in `folder`. `make_output(out, ...)` writes chunks of them as the engine would.
"""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image
from pycocotools import mask as coco

from materia.dataset.documents import Provenance
from materia.dataset.layout import Commit, DatasetInfo, write_info
from materia.dataset.sample_checks import Recipe, grow
from materia.dataset.writer import write_chunk
from stages.records import (
    Background,
    Box,
    Clip,
    EntityWord,
    Evidence,
    Frame,
    Instance,
    Link,
    MaskRle,
    Rejection,
    Row,
    Sample,
    VideoInfo,
)

HEIGHT, WIDTH = 72, 96
STAGES = ("entities", "frames", "localise", "segment", "faces", "background", "cut")
PROVENANCE = Provenance(prompt_sha="p" * 64, stage_sha={stage: f"{number:064x}" for number, stage in enumerate(STAGES)})
CONFIG = {"background": {"dilate_px": 4, "dilate_times": 3}, "engine": {"rows_per_chunk": 2}}


def make_sample(folder: Path, row: int, key: str | None = None, subject: str = "dog", thing: str = "red ball") -> Sample:
    """A subject with a face in every frame, an object in two, over a noisy meadow."""
    key = key or f"clip-{row:04d}"
    address = folder / f"{key}.mp4"
    address.write_bytes(np.random.default_rng(row).bytes(3000 + row % 1000))  # a row may be the billionth
    caption = f"A {subject} chases a {thing} across the meadow; the {subject} wins."
    frames = [_frame(row, number, percent) for number, percent in enumerate((5, 50, 95))]
    instances: list[Instance] = []
    for number, frame in enumerate(frames):
        body, face, ball = _masks(number)
        instances.append(_instance(frame, number, subject, "subject", body))
        instances.append(_instance(frame, number, subject, "subject", face, len(instances) - 1))
        if number:
            instances.append(_instance(frame, number, thing, "object", ball))
    return Sample(
        clip=Clip(
            row=row,
            key=key,
            id=key,
            source_id=f"video-{row // 2}",
            uri=f"clips/{key}.mp4",
            address=str(address),
            caption=caption,
            extra={"licence": "CC0", "views": row},
        ),
        flags=["still"] if row % 3 == 0 else [],
        entities=[
            _entity(caption, subject, "subject"),
            _entity(caption, thing, "object"),
            _entity(caption, "meadow", "background"),
        ],
        video=VideoInfo(
            container="mp4",
            codec="h264",
            width=WIDTH,
            height=HEIGHT,
            rotation=0,
            sar="1:1",
            fps=30000 / 1001,
            duration_s=4.004,
            n_frames=120,
        ),
        frames=frames,
        instances=instances,
        background=_background(frames[1], np.logical_or.reduce(_masks(1)), subject),
    )


def with_links(sample: Sample, second_best: float | None = 0.97) -> Sample:
    """The sample as if links had been looked for: the object's box of frame 2 was carried, and one of frame 0 was dropped."""
    sample.boxes = [
        Box(
            word=one.word,
            category=one.category,
            frame=one.frame,
            box_xyxy_px=one.box_xyxy_px,
            score=one.detector_score,
            carried=one.category == "object" and one.frame == 2,
        )
        for one in sample.instances
        if not one.is_face
    ]
    thing = next(box for box in sample.boxes if box.category == "object")
    lost = msgspec.structs.replace(thing, frame=0, dropped="odd_one")
    sample.boxes += [lost, msgspec.structs.replace(thing, chosen=False, score=0.25)]
    subject, thing_word = sample.instances[0].word, thing.word
    sample.links = [
        Link(word=thing_word, score=0.5, second_best=None),
        Link(word=subject, score=0.75, second_best=second_best, ambiguous=(second_best or 0) > 0.95),
    ]
    for number, one in enumerate(sample.instances):
        one.face_score, one.overlap_share = (0.875, None) if one.is_face else (None, 0.0625)
        if not one.is_face:
            one.link_score, one.evidence = 0.5 + number / 64, Evidence(motion=0.25, appearance=0.625)
    return sample


def make_rejection(row: int, stage: str = "entities", reason: str = "no_subject", key: str | None = None) -> Rejection:
    """A row that left the way, with an entity found until then."""
    return Rejection(
        row=row,
        key=key or f"clip-{row:04d}",
        id=None,
        source_id=f"video-{row}",
        uri=f"clips/{row}.mp4",
        caption="A quiet room at dusk.",
        stage=stage,
        reason=reason,
        message="no word is a subject; caption people or animals",
        found={"entities": [{"word": "room", "category": "background"}]},
    )


def make_dataset(rows: int, chunks: int, rows_per_chunk: int) -> DatasetInfo:
    """dataset.json of a job of that size."""
    return DatasetInfo(
        version="0.1.0",
        rows=rows,
        chunks=chunks,
        rows_per_chunk=rows_per_chunk,
        plan_sha256="a" * 64,
        config=CONFIG,
        prompt_sha=PROVENANCE.prompt_sha,
        stage_sha=PROVENANCE.stage_sha,
    )


def make_output(out: Path, folder: Path, kinds: list[str]) -> list[Commit]:
    """A finished output: kinds[i] says of chunk i row by row whether it is a sample ("s") or a rejection ("r")."""
    folder.mkdir(parents=True, exist_ok=True)
    write_info(str(out), make_dataset(sum(map(len, kinds)), len(kinds), max(map(len, kinds))))
    commits, row = [], 0
    for chunk, kind in enumerate(kinds):
        rows: list[Row] = []
        for letter in kind:
            rows.append(make_sample(folder, row) if letter == "s" else make_rejection(row))
            row += 1
        commits.append(write_chunk(str(out), chunk, rows, provenance=PROVENANCE))
    return commits


def _frame(row: int, number: int, percent: int) -> Frame:
    noise = np.random.default_rng((row, number)).integers(0, 60, (HEIGHT, WIDTH, 3))
    pixels = (noise + np.array([60, 120, 70])).astype(np.uint8)
    return Frame(percent=percent, index=percent * 119 // 100, time_s=percent * 0.04, jpeg=_encoded(pixels, "JPEG"))


def _instance(frame: Frame, number: int, word: str, category: str, mask: np.ndarray, parent: int | None = None) -> Instance:
    ys, xs = np.nonzero(mask)
    x0, y0, x1, y1 = int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    rgba = np.dstack([frame.rgb, np.where(mask, 255, 0).astype(np.uint8)])[y0:y1, x0:x1]
    return Instance(
        word=word,
        category=category,
        frame=number,
        box_xyxy_px=(x0 - 0.25, y0 - 0.5, x1 + 0.75, y1 + 0.5),
        detector_score=0.61 + 0.1 * number,
        mask_rle=MaskRle(size=(HEIGHT, WIDTH), counts=rle["counts"].decode()),
        mask_score=0.8 + 0.05 * number,
        area_share=float(mask.mean()),
        crop_xyxy_px=(x0, y0, x1, y1),
        png=_encoded(rgba, "PNG"),
        is_face=parent is not None,
        parent=parent,
    )


def _background(frame: Frame, union: np.ndarray, subject: str) -> Background:
    mask = grow(union, Recipe(**CONFIG["background"]))
    pixels = np.where(mask[..., None], np.uint8(90), frame.rgb)
    return Background(
        word="meadow", method="opencv", masked_share=float(mask.mean()), residual={subject: 0.125}, png=_encoded(pixels, "PNG")
    )


def _entity(caption: str, word: str, category: str) -> EntityWord:
    starts = [at for at in range(len(caption)) if caption.startswith(word, at)]
    return EntityWord(word=word, category=category, spans=[(at, at + len(word)) for at in starts])


def _masks(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The subject, its face and the object in frame `number`; the subject walks to the right."""
    return _ellipse(30 + 8 * number, 36, 14, 20), _rectangle(26 + 8 * number, 20, 8, 9), _ellipse(70, 50, 9, 9)


def _ellipse(x: int, y: int, rx: int, ry: int) -> np.ndarray:
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    return ((xs - x) / rx) ** 2 + ((ys - y) / ry) ** 2 <= 1


def _rectangle(x: int, y: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + height, x : x + width] = True
    return mask


def _encoded(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()
