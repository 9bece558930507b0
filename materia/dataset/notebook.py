"""What a notebook shows of a data set, and of a sample: HTML that needs nothing else, no script and no address.

In: a `Dataset` or `StoredSample`. Out: text. Captions and words are strangers' and are escaped; a sample that cannot be read
says so in its place.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator

from PIL import Image

from materia.base.terminal import plural, printable
from materia.dataset.documents import Document
from materia.dataset.layout import OutputError
from materia.dataset.reader import Dataset, StoredSample

ROWS = 5
"""Samples of a data set that are shown."""
MAX_CLIP_BYTES = 16 * 2**20
"""A notebook that is saved holds every clip that it shows; of a larger one only the frames are shown."""
_PLAYS = {"mp4": "video/mp4", "mov": "video/mp4", "webm": "video/webm"}
"""Containers that browsers play."""
_COLOURS = ("#e2483d", "#247bd3", "#169662", "#c2740e", "#8957c7", "#cd428c", "#1095a6", "#787f1e")
_TILE, _CLIP = 72, 200
_CHECKERBOARD = "background:repeating-conic-gradient(#e6e6e6 0 25%,#fafafa 0 50%) 0 0/12px 12px"


def dataset_html(dataset: Dataset) -> str:
    """A line about all, and a table of the first samples: middle frame, references, caption, scores."""
    shown = min(len(dataset), ROWS)
    rows = "".join(_row(dataset[number]) for number in range(shown))
    head = "".join(f"<th style='text-align:left'>{name}</th>" for name in ("sample", "references", "caption", "background"))
    more = len(dataset) - shown
    rest = f"<p>and {plural(more, 'more sample')}: dataset[{shown}], dataset['KEY'], dataset.where('subjects >= 2')</p>" * bool(
        more
    )
    return f"<p><b>{_text(repr(dataset)[1:-1])}</b></p><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{rest}"


def sample_html(sample: StoredSample) -> str:
    """A card: the clip, which plays, the middle frame without anybody, the caption with its words in colour, the references."""
    try:
        document = sample.document
        colours = _colours(document)
        pictures = [_clip(sample), _picture(Image.fromarray(sample.background), _CLIP, "clean background")]
        tiles = "".join(_tiles(sample, colours))
    except OutputError as error:
        return f"<p><b>{_text(sample.key)}</b>: {_text(str(error))}</p>"
    video = document.video
    facts = [document.key, f"{video.duration_s:.1f} s", f"{video.width} × {video.height}", *document.flags]
    return (
        f"<div style='max-width:60em'><p style='font-size:1.15em;margin:.3em 0'>{_caption(document, colours)}</p>"
        f"<p style='opacity:.7;margin:.3em 0'>{_text(' · '.join(facts))}</p>"
        f"<div style='display:flex;flex-wrap:wrap;gap:8px'>{''.join(pictures)}</div>"
        f"<div style='display:flex;flex-wrap:wrap;gap:8px;margin-top:8px'>{tiles}</div></div>"
    )


def _row(sample: StoredSample) -> str:
    try:
        colours = _colours(sample.document)
        frame = _picture(Image.fromarray(sample.frames[1]), 96, "middle frame")
        tiles = "".join(_tiles(sample, colours, titled=False))
        caption, about = _caption(sample.document, colours), sample.document.background
        scores = f"{100 * about.masked_share:.0f} % replaced"
    except OutputError as error:
        frame, tiles, caption, scores = "", "", _text(str(error)), ""
    cells = (
        f"{frame}<br>{_text(sample.key)}",
        f"<div style='display:flex;flex-wrap:wrap;gap:4px;max-width:26em'>{tiles}</div>",
        caption,
        scores,
    )
    return "<tr>" + "".join(f"<td style='text-align:left;vertical-align:top'>{cell}</td>" for cell in cells) + "</tr>"


def _colours(document: Document) -> dict[str, str]:
    """Of each word that has references, case-folded."""
    words = dict.fromkeys(instance.word.casefold() for instance in document.instances)
    return {word: _COLOURS[number % len(_COLOURS)] for number, word in enumerate(words)}


def _caption(document: Document, colours: dict[str, str]) -> str:
    """The caption, its words in their colours; those that have no reference are underlined."""
    spans = sorted((*span, entity.word.casefold()) for entity in document.entities for span in entity.spans)
    parts, at = [], 0
    for start, end, word in spans:
        if at <= start < end:
            style = f"color:{colours[word]};font-weight:600" if word in colours else "text-decoration:underline dotted"
            parts += [_text(document.caption[at:start]), f"<span style='{style}'>{_text(document.caption[start:end])}</span>"]
            at = end
    return "".join([*parts, _text(document.caption[at:])])


def _tiles(sample: StoredSample, colours: dict[str, str], titled: bool = True) -> Iterator[str]:
    """Each reference on a checkerboard, over its word's colour; if titled, the word, the frame, and how surely it is linked."""
    for instance, crop in zip(sample.document.instances, sample.references, strict=True):
        linked = "" if instance.link_score is None else f" · {instance.link_score:.2f}"
        title = f"{'face' if instance.is_face else instance.word} · {instance.frame + 1}{linked}"
        style = f"{_CHECKERBOARD};border-bottom:3px solid {colours[instance.word.casefold()]}"
        yield _picture(Image.fromarray(crop), _TILE, title, style, titled)


def _clip(sample: StoredSample) -> str:
    """A player, or the middle frame of what no browser plays or is too large for a notebook."""
    video = sample.document.video
    size = next(one["size"] for one in sample.dataset.index["members"][sample.number].as_py() if one["name"] == video.member)
    if video.container not in _PLAYS or size > MAX_CLIP_BYTES:
        return _picture(Image.fromarray(sample.frames[1]), _CLIP, "middle frame")
    data = base64.b64encode(sample.clip()).decode()
    return f"<video controls loop muted height='{_CLIP}' src='data:{_PLAYS[video.container]};base64,{data}'></video>"


def _picture(image: Image.Image, height: int, title: str, style: str = "", titled: bool = False) -> str:
    """An image of at most so many pixels either way as part of the page; twice as many are in it, for fine screens."""
    image = image.copy()
    image.thumbnail((4 * height, 2 * height))
    buffer, kind = io.BytesIO(), "PNG" if image.mode == "RGBA" else "JPEG"
    image.save(buffer, kind, quality=85)
    source = f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    shown = _text(title)
    picture = f"<img src='{source}' alt='{shown}' title='{shown}' style='max-height:{height}px;margin:0;{style}'>"
    return (
        f"<figure style='margin:0'>{picture}<figcaption style='font-size:.8em'>{shown}</figcaption></figure>"
        if titled
        else picture
    )


def _text(text: str) -> str:
    """For a page: escaped, printable."""
    return html.escape(printable(text, 2000))
