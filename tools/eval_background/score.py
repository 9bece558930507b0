"""How near the backgrounds of an output come to the places that walkers hid.

In: an output of `materia run` and the folder of walkers that it was made from. Out: a `Report`, plain data that turns into
JSON, and text for a person. Every walker counts: one that was rejected with 0 dB and SSIM 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

import materia
from materia.base.errors import UserError
from materia.base.terminal import plural, printable
from materia.dataset.layout import commits
from materia.dataset.reader import StoredSample, read_table
from tools.eval_background.film import Camera, Gait
from tools.eval_background.measure import psnr, relative_sharpness, ssim

MANIFEST = "manifest.jsonl"
MIDDLE = 1
"""Index of the frame of record that becomes the background."""
TWICE = (0.5, 2.0)
"""As sharp as its surroundings is what lies between."""
MIN_RANKS = 5
"""Fewer samples with a field give no rank correlation."""


class WalkerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the manifest of walkers. `index`: of the frame of record that the truth belongs to; `plain` and `mask`: that
    frame without the walker, and where the walker is, PNG. `visible_share`: of what is hidden, that other frames show; null
    where that is not known. `place` and `cutout`: keys of the clips they are from.
    """

    id: str
    video: str
    caption: str
    camera: Camera
    gait: Gait
    word: str
    place: str
    cutout: str
    index: int
    plain: str
    mask: str
    visible_share: float | None


class WalkerScore(msgspec.Struct, frozen=True, kw_only=True):
    """A walker. `psnr` in dB and `ssim` within the true mask. `uncovered`: the share of the true mask whose pixels are the
    frame's own, so that the walker is left there; `residual`: the detector's best score of the walker on the background.
    `sharpness`: variance of the Laplacian inside / in a ring around, and `true_sharpness` of the place itself. `facts`: numbers
    of KEY.json's background. null and empty: it was rejected, for the reason `rejected`; sharpness: too little to tell.
    """

    id: str
    camera: Camera
    gait: Gait
    rejected: str | None
    psnr: float = 0.0
    ssim: float = 0.0
    uncovered: float | None = None
    residual: float | None = None
    sharpness: float | None = None
    true_sharpness: float | None = None
    masked_share: float | None = None
    visible_share: float | None = None
    facts: dict[str, float] = {}


class Ranks(msgspec.Struct, frozen=True):
    """Spearman's rank correlation of a number of KEY.json's background with PSNR and SSIM, over `n` samples."""

    n: int
    psnr: float
    ssim: float


class Report(msgspec.Struct, kw_only=True):
    """`walkers` of the manifest, `samples` that came of them; what the backgrounds' own numbers say about how good they are."""

    walkers: int
    samples: int
    ranks: dict[str, Ranks]
    scores: list[WalkerScore]


def read_walkers(folder: Path) -> dict[str, WalkerRow]:
    """Rows of a folder's manifest by id. Raises UserError naming what is missing, or no row of `make`."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{path}: no such file; FOLDER is what `make` wrote")
    rows: dict[str, WalkerRow] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = msgspec.json.decode(line, type=WalkerRow)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UserError(f"{path}, line {number}: not a walker as `make` writes it: {error}") from None
        rows[row.id] = row
    return rows


def read_truth(folder: Path, row: WalkerRow) -> tuple[np.ndarray, np.ndarray]:
    """The plain picture (H, W, 3) uint8 RGB and the true mask (H, W) bool. Raises UserError."""
    try:
        plain = np.asarray(Image.open(folder / row.plain, formats=["PNG"]).convert("RGB"))
        return plain, np.asarray(Image.open(folder / row.mask, formats=["PNG"]).convert("L")) > 127
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{folder}: the truth of {row.id} cannot be read: {error}; make the walkers again") from None


def samples_of(out: str, walkers: dict[str, WalkerRow]) -> dict[str, StoredSample]:
    """The samples of an output by id. Raises OutputError, UserError if it was made of something else than these walkers."""
    samples = {sample.document.id or "": sample for sample in materia.open_dataset(out)}
    if unknown := samples.keys() - walkers.keys():
        raise UserError(f"{out} has a sample {printable(min(unknown))}, which is no walker of FOLDER; is it another output's?")
    return samples


def score(out: str, folder: Path) -> Report:
    """Compare the background of every sample with the truth. Raises OutputError, UserError if they do not belong together."""
    walkers = read_walkers(folder)
    samples = samples_of(out, walkers)
    reasons = _rejected(out)
    scores = [
        _compare(samples[row.id], row, folder)
        if row.id in samples
        else WalkerScore(id=row.id, camera=row.camera, gait=row.gait, rejected=reasons.get(row.id, "not in the output"))
        for row in walkers.values()
    ]
    return Report(walkers=len(walkers), samples=len(samples), ranks=ranks(scores), scores=scores)


def _rejected(out: str) -> dict[str, str]:
    columns = ["stage", "reason", "key"]
    tables = [read_table(out, commit, "rejects", columns) for commit in commits(out)]
    return {row["key"]: f"{row['stage']}: {row['reason']}" for table in tables for row in table.to_pylist()}


def _compare(sample: StoredSample, row: WalkerRow, folder: Path) -> WalkerScore:
    plain, mask = read_truth(folder, row)
    picture, frame = sample.background, sample.frames[MIDDLE]
    if picture.shape != plain.shape or sample.document.frames[MIDDLE].index != row.index:
        index = sample.document.frames[MIDDLE].index
        raise UserError(
            f"{row.id}: the truth is {plain.shape[1]} x {plain.shape[0]} of frame {row.index}, the sample has "
            f"{picture.shape[1]} x {picture.shape[0]} of frame {index}; was it made with other percents?"
        )
    filled = (picture != frame).any(axis=2)
    background = sample.document.background
    return WalkerScore(
        id=row.id,
        camera=row.camera,
        gait=row.gait,
        rejected=None,
        psnr=psnr(picture, plain, mask),
        ssim=ssim(picture, plain, mask),
        uncovered=float((mask & ~filled).sum() / mask.sum()),
        residual=max(background.residual.values(), default=0.0),
        sharpness=relative_sharpness(picture, mask, filled),
        true_sharpness=relative_sharpness(plain, mask, filled),
        masked_share=background.masked_share,
        visible_share=row.visible_share,
        facts=dict(_numbers(json.loads(sample.dataset.read(sample.number, ["json"])["json"])["background"])),
    )


def _numbers(values: dict[str, Any], within: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of nested objects, by dotted name; not of `residual`, whose names are another sample's words."""
    for name, value in values.items():
        if isinstance(value, dict) and name != "residual":
            yield from _numbers(value, f"{within}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield within + name, float(value)


def ranks(scores: Sequence[WalkerScore]) -> dict[str, Ranks]:
    """Of every number that MIN_RANKS samples have and that is not always the same."""
    from scipy.stats import spearmanr

    found: dict[str, Ranks] = {}
    for name in sorted({name for one in scores for name in one.facts}):
        those = [one for one in scores if name in one.facts]
        values = [one.facts[name] for one in those]
        if len(those) < MIN_RANKS or len(set(values)) == 1:
            continue
        psnrs, ssims = [one.psnr for one in those], [one.ssim for one in those]
        found[name] = Ranks(len(those), *(float(spearmanr(values, right).statistic) for right in (psnrs, ssims)))
    return found


def text(report: Report) -> Iterator[str]:
    """Lines for a person: of every kind, lower quartile, median, upper quartile."""
    yield f"{plural(report.walkers, 'walker')}, {plural(report.samples, 'sample')}; rejected count 0 dB"
    for one in report.scores:
        if one.rejected:
            yield f"  rejected: {one.id}: {printable(one.rejected)}"
    yield (
        f"{'':18} {'n':>3} {'PSNR, dB':>16} {'SSIM':>16} {'uncovered':>16} {'residual':>16} {'sharpness':>16} {'of truth':>8}"
        f" {'masked':>6} {'visible':>7}"
    )
    for gait in ("walking", "standing"):
        for camera in ("real", "static", "pan", "shake"):
            yield from _line(f"{gait}, {camera}", [one for one in report.scores if (one.gait, one.camera) == (gait, camera)])
        yield from _line(gait, [one for one in report.scores if one.gait == gait])
    yield from _line("all", report.scores)
    sharp = [
        (one.sharpness, one.true_sharpness) for one in report.scores if one.gait == "standing" and one.sharpness is not None
    ]
    if sharp:
        ours, true = (
            sum(value is not None and TWICE[0] <= value <= TWICE[1] for value in one) for one in zip(*sharp, strict=True)
        )
        yield f"standing, sharpness within a factor of 2 of the ring: {ours} of {len(sharp)}; of the places themselves {true}"
    for name, rank in report.ranks.items():
        yield f"rank correlation of {printable(name)}: with PSNR {rank.psnr:+.2f}, with SSIM {rank.ssim:+.2f} (n {rank.n})"


def _line(name: str, scores: Sequence[WalkerScore]) -> Iterator[str]:
    if not scores:
        return
    columns = [
        _spread([one.psnr for one in scores], ".1f"),
        *(_spread([getattr(one, field) for one in scores], ".2f") for field in ("ssim", "uncovered", "residual", "sharpness")),
    ]
    medians = [
        _median([getattr(one, field) for one in scores]) for field in ("true_sharpness", "masked_share", "visible_share")
    ]
    yield f"{name:18} {len(scores):3} " + " ".join(f"{cell:>16}" for cell in columns) + "{:>9}{:>7}{:>8}".format(*medians)


def _spread(values: Sequence[float | None], shown: str) -> str:
    there = [value for value in values if value is not None]
    return " ".join(format(value, shown) for value in np.quantile(there, (0.25, 0.5, 0.75))) if there else "-"


def _median(values: Sequence[float | None]) -> str:
    there = [value for value in values if value is not None]
    return f"{np.median(there):.2f}" if there else "-"
