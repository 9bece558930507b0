"""The card of a row that became no sample: its caption, why, and what can be seen of its clip with the boxes found until then.

In: a row of the rejects table, and what the output remembers of its job. Out: a picture. The clip is looked for where the job
looked for it (`_run/plan`, the `source` section of dataset.json), by the same rules (pipeline/sources/access.py); where that
leads nowhere, the card says why and is drawn without pictures.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from PIL import Image
from pydantic import ValidationError

from materia.base.terminal import printable
from materia.dataset.layout import DatasetInfo, read_info
from materia.report.clip_frames import TIMEOUT_S, Answer, Picture, Request, clip_frames
from materia.report.drawing import Box, Colour, Marked, annotated, blank, caption_image, card, scaled, size_beside, titled
from pipeline.engine.spool import plan_folder
from pipeline.plan import Plan, open_plan
from pipeline.sources.access import resolve
from pipeline.sources.settings import SourceSettings
from stages.records import Box as FoundBox
from stages.records import Clip, EntityWord, Rejection

_COLUMNS = 3
_PERCENTS = [5, 50, 95]
_LIMIT_S = 3600.0
"""Of a video that is read for a card; one that was too long is shown up to there."""


class Found(msgspec.Struct):
    """Of the column `found`, what is drawn."""

    entities: list[EntityWord] = []
    boxes: list[FoundBox] = []


class Job:
    """What an output remembers of the job that made it: where its clips lie, and which part of a video a row is."""

    def __init__(self, out: str) -> None:
        info = read_info(out)
        self._frames: dict[str, Any] = _section(info, "frames")
        self._problem = ""
        self._plan: Plan | None = None
        self._source = SourceSettings()
        try:
            self._source = SourceSettings.model_validate(_section(info, "source"))
            self._plan = open_plan(plan_folder(out))
        except (ValidationError, OSError, ValueError, KeyError, TypeError, AttributeError):
            self._problem = f"{out} does not say where its clips lie: its dataset.json or _run/plan cannot be understood"
        if self._plan is None and not self._problem:
            self._problem = f"{out} does not say where its clips lie: it has no _run/plan"

    def look(self, row: Mapping[str, Any], timeout_s: float = TIMEOUT_S) -> Answer:
        """Pictures of a rejected row's clip at the shares of its frames of record, or why there are none."""
        if not row["uri"]:
            return Answer(problem="the row names no video")
        if self._plan is None:
            return Answer(problem=self._problem)
        planned = _planned(self._plan, row["row"])
        clip = planned if isinstance(planned, Clip) else Clip(row=row["row"], key="", source_id="", uri=row["uri"], caption="")
        found = resolve(clip, self._plan.root, self._source)
        if isinstance(found, Rejection):
            return Answer(problem=found.message)
        return clip_frames(Request(found.address, found.start_s, found.end_s, self._percents(), _LIMIT_S), timeout_s)

    def _percents(self) -> list[int]:
        percents = self._frames.get("percents")
        good = (
            isinstance(percents, list) and len(percents) == 3 and all(type(one) is int and 0 <= one <= 100 for one in percents)
        )
        return percents if good and isinstance(percents, list) else _PERCENTS


def _section(info: DatasetInfo | None, name: str) -> dict[str, Any]:
    section = info.config.get(name) if info else None
    return section if isinstance(section, dict) else {}


def _planned(plan: Plan, row: int) -> Clip | Rejection | None:
    """A row as it was planned; None if the plan cannot be read there."""
    try:
        return plan.rows_at(range(row, row + 1))[0]
    except (OSError, ValueError, IndexError):
        return None


# Made here: msgspec crashes where threads decode a type for the first time together.
_FOUND = msgspec.json.Decoder(Found)


def found_of(row: Mapping[str, Any]) -> Found:
    """What was found of a rejected row; nothing where the column cannot be understood."""
    try:
        return _FOUND.decode(row["found"] or "{}")
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return Found()


def rejected_card(
    row: Mapping[str, Any], seen: Answer, colours: Mapping[str, Colour], facts: Sequence[str] = ()
) -> Image.Image:
    """One row. `colours`: of each word that has a box, case-folded; `facts`: said of it besides what is always said."""
    found = found_of(row)
    marked = [Marked(*span, colours.get(entity.word.casefold())) for entity in found.entities for span in entity.spans]
    about = [row["key"] or "no key", f"row {row['row']}", row["uri"] or "no video", *facts]
    alarm = f"{row['stage']}: {row['reason']}: {row['message']}"
    caption = caption_image(row["caption"] or "(no caption)", marked, about, alarm)
    pictures = [_picture(picture, number, found.boxes, colours) for number, picture in enumerate(seen.pictures[:_COLUMNS])]
    return card(caption, pictures or [blank(size_beside(16 / 9, _COLUMNS), seen.problem)], None, None)


def _picture(picture: Picture, number: int, boxes: list[FoundBox], colours: Mapping[str, Colour]) -> Image.Image:
    size = size_beside(picture.width / picture.height, _COLUMNS)
    return titled(drawn_picture(picture, number, size, boxes, colours), f"{picture.percent} %  ·  {picture.time_s:.1f} s")


def drawn_picture(
    picture: Picture, number: int, size: tuple[int, int], boxes: list[FoundBox], colours: Mapping[str, Colour]
) -> Image.Image:
    """Frame `number` (0 to 2) of a rejected clip at `size` (width, height), px, under the boxes that were chosen in it."""
    image = Image.open(io.BytesIO(picture.jpeg)).convert("RGB").resize(size, Image.Resampling.LANCZOS)
    scale = size[0] / picture.width
    shown = [
        Box(scaled(box.box_xyxy_px, scale, size), colours[box.word.casefold()], f"{printable(box.word, 28)} {box.score:.2f}")
        for box in boxes
        if box.frame == number and box.chosen
    ]
    return annotated(image, shown)
