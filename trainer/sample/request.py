"""What `materia sample` is asked for: prompts with reference images, from the command line or from a JSONL file.

In: `--ref word=image[,image]`, `--background [word=]image`, or lines of JSON. Out: checked requests, and pictures as the image
encoder wants them. A word must stand in its prompt as the words of the training captions do. Images that the user names on the
command line may lie anywhere; a JSONL file may have come from elsewhere, so what it names must lie in its own folder, and what
it has written in the output's.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from pydantic import Field, ValidationError

from materia.base.settings import Settings
from stages.entities.nouns import tokenize
from stages.entities.rules import occurrences
from trainer.data.augment import on_white_square
from trainer.data.references import MAX_REFERENCES
from trainer.errors import TrainError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 1 << 26
MAX_SIDE_PX = 2048
"""Pictures of more pixels are refused; longer ones are reduced before they are padded to a square."""
_SEEDS = 1 << 63
_ERRORS_TOLD = 20


class Picture(NamedTuple):
    """A conditioning image; `word` "": without one, as backgrounds may be."""

    word: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """A clip to be generated into the file `output` (.mp4); `pictures` in the order of training, the background last."""

    prompt: str
    output: str
    pictures: tuple[Picture, ...] = ()
    seed: int = 0


class _Line(Settings):
    """A line of a JSONL file."""

    prompt: str
    refs: dict[str, str | list[str]] = Field({}, description="word -> image or images")
    background: str | None = Field(None, description="image")
    background_word: str | None = Field(None, description="its word in the prompt")
    output: str | None = Field(None, description="file in the output folder; default: the line's number")
    seed: int = Field(0, ge=0, lt=_SEEDS)


def parse_refs(refs: Sequence[str]) -> list[Picture]:
    """Values of `--ref`, "dog=a.png,b.png", to pictures. Raises TrainError for one that is not of this form."""
    pictures = []
    for ref in refs:
        word, equals, paths = ref.partition("=")
        if not equals or not word.strip() or not all(paths.split(",")):
            raise TrainError(f"--ref {ref!r}: write word=image or word=image,image, e.g. --ref dog=dog.png")
        pictures += [Picture(word.strip(), path) for path in paths.split(",")]
    return pictures


def parse_background(background: str) -> Picture:
    """The value of `--background`, "beach.png" or "beach=beach.png"; a path that has "=" in it: "=a=b.png"."""
    word, equals, path = background.partition("=")
    return Picture(word.strip(), path) if equals else Picture("", background)


def load_requests(jsonl: str, folder: str) -> list[Request]:
    """Requests from lines of JSON: {"prompt": "a dog on a beach", "refs": {"dog": ["a.png", "b.png"]}, "background": "c.png",
    "background_word": "beach", "output": "a.mp4", "seed": 1}, all but the prompt optional.

    Images are looked for beside the file; outputs go below `folder`. Raises TrainError with a line for each bad line of the
    file, "file:line: ...".
    """
    path = Path(jsonl)
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise TrainError(f"{jsonl} cannot be read: {error.strerror or error}") from None
    requests: dict[Path, Request] = {}
    faults = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = _request(line, number, path.parent, Path(folder))
            if (output := Path(request.output).resolve()) in requests:
                raise TrainError(f"another line writes {request.output} too; give each its own output")
            requests[output] = request
        except TrainError as error:
            faults.append(f"{jsonl}:{number}: {error}")
    if faults:
        more = [f"and {len(faults) - _ERRORS_TOLD} more lines"] if len(faults) > _ERRORS_TOLD else []
        raise TrainError("\n".join(faults[:_ERRORS_TOLD] + more))
    if not requests:
        raise TrainError(f'{jsonl} holds no requests; write lines like {{"prompt": "a dog", "refs": {{"dog": "dog.png"}}}}')
    return list(requests.values())


def check(request: Request) -> list[tuple[int, int]]:
    """The characters [start, end) of each picture's word in the prompt, its first place; (0, 0) for a picture without a word.

    Raises TrainError for an output that is no .mp4, too many pictures, a prompt that is no text and a word that is not in it.
    """
    if not 0 <= request.seed < _SEEDS:
        raise TrainError(f"the seed {request.seed} must lie in 0..{_SEEDS - 1}")
    if Path(request.output).suffix != ".mp4":
        raise TrainError(f"the output {request.output!r} must end in .mp4")
    if not request.prompt.strip():
        raise TrainError("the prompt is empty; say what the clip shows")
    try:
        request.prompt.encode()
    except UnicodeEncodeError:
        raise TrainError(f"the prompt {_quoted(request.prompt)} holds half a character (a lone surrogate)") from None
    if len(request.pictures) > MAX_REFERENCES:
        raise TrainError(f"{len(request.pictures)} images are given, the model takes at most {MAX_REFERENCES}; leave some out")
    return [_span(request.prompt, picture.word) if picture.word else (0, 0) for picture in request.pictures]


def read_picture(path: str, side_px: int) -> np.ndarray:
    """An image file as (side_px, side_px, 3) uint8 RGB: upright, on white where it is transparent, padded to a square.

    Raises TrainError for what is no image, or too large a one.
    """
    _require_file(path)
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise TrainError(f"{path}: {picture.width} x {picture.height} pixels are too many; make it smaller")
            upright = ImageOps.exif_transpose(picture).convert("RGBA")
    except TrainError:
        raise
    except Exception as error:  # Pillow's decoders raise all kinds for a broken file
        line = " ".join(str(error).split()) or type(error).__name__
        raise TrainError(f"{path} cannot be read as an image: {line}") from None
    upright.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    return on_white_square(np.asarray(upright), side_px)


def _request(line: bytes, number: int, home: Path, folder: Path) -> Request:
    """A line's request, checked but for its images' content. Raises TrainError without the place, which the caller knows."""
    try:
        asked = _Line.model_validate(json.loads(line))
    except ValidationError as error:
        first = error.errors()[0]
        known = f"; fields are {', '.join(_Line.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise TrainError(f"{_quoted('.'.join(map(str, first['loc'])))}: {first['msg']}{known}") from None
    except (ValueError, RecursionError) as error:
        raise TrainError(f"no JSON: {error}") from None
    pictures = [
        Picture(word, _inside(home, path, "the file's own folder"))
        for word, paths in asked.refs.items()
        for path in ([paths] if isinstance(paths, str) else paths)
    ]
    if asked.background is not None:
        pictures.append(Picture(asked.background_word or "", _inside(home, asked.background, "the file's own folder")))
    elif asked.background_word is not None:
        raise TrainError("background_word is given without a background")
    if not all(asked.refs):
        raise TrainError("refs: a word is empty")
    output = _inside(folder, asked.output or f"{number:06d}.mp4", "the output folder")
    request = Request(prompt=asked.prompt, output=output, pictures=tuple(pictures), seed=asked.seed)
    check(request)
    for picture in pictures:
        _require_file(picture.path)
    return request


def _require_file(path: str) -> None:
    if not Path(path).is_file():  # reading a pipe or a device might not end
        raise TrainError(f"{path}: there is no such image file")


def _inside(root: Path, name: str, what: str) -> str:
    """The path of `name` below `root`, wherever links lead. Raises TrainError if it is not there."""
    if not name.isprintable():  # it will be told to a terminal
        raise TrainError(f"{_quoted(name)} has characters that are not printable")
    try:
        path = (root / name).resolve()
    except (OSError, RuntimeError):  # too long, endless links
        raise TrainError(f"{_quoted(name)} is no path") from None
    if not path.is_relative_to(root.resolve()):
        raise TrainError(f"{_quoted(name)} does not lie in {what}; copy it there")
    return str(root / name)


def _span(prompt: str, word: str) -> tuple[int, int]:
    if places := occurrences(prompt, word):
        return places[0]
    words = list(dict.fromkeys(token.text for token in tokenize(prompt)))
    near = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
    hint = f" (near to it: {', '.join(map(_quoted, near))})" if near else ""
    raise TrainError(
        f"the word {_quoted(word)} does not occur in the prompt {_quoted(prompt)}; write it there, or give the reference a word"
        f" that does{hint}"
    )


def _quoted(text: str) -> str:
    """Strangers' text for a message: on one line, not too long."""
    return repr(text if len(text) <= 200 else text[:199] + "…")
