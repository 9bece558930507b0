"""Scenes of known masks, and how masks are compared with them."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from samples import PROVENANCE, make_dataset, make_sample

from materia.base.errors import UserError
from materia.dataset.layout import write_info
from materia.dataset.writer import write_chunk
from stages.backends import Masks, Segmenter
from stages.frames import encode_jpeg
from stages.images import crop_png, encode_mask, encode_png, mask_extent
from stages.records import Instance, Sample
from tools.eval_masks.__main__ import main
from tools.eval_masks.scenes import GROWN, MAX_OVERLAP, MIN_OVERLAP, Material, kind_of, make_scene, material_of

HEIGHT, WIDTH = 240, 320
WORDS = {"woman": "astronaut", "cat": "chelsea", "cup": "coffee", "rocket": "rocket"}


class BoxesAsMasks(Segmenter):
    """The mask of a box is all of it."""

    def segment(self, images, boxes):
        return [
            Masks(np.stack([self._mask(i.shape[:2], b) for b in w]), np.ones(len(w)))
            for i, w in zip(images, boxes, strict=True)
        ]

    def _mask(self, size, box):
        x1, y1, x2, y2 = map(round, box.box_xyxy_px)
        mask = np.zeros(size, bool)
        mask[y1:y2, x1:x2] = True
        return mask


class Blind(Segmenter):
    """Sees nothing."""

    def segment(self, images, boxes):
        return [Masks(np.zeros((len(w), *i.shape[:2]), bool), np.zeros(len(w))) for i, w in zip(images, boxes, strict=True)]


def ellipse(x: int, y: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(mask, (x, y), (width // 2, height // 2), 0, 0, 360, 1, cv2.FILLED)
    return mask.astype(bool)


def photographed(folder: Path, row: int, word: str, mask: np.ndarray, score: float = 0.9) -> Sample:
    """A sample whose three frames are one photograph, in which a word has this mask."""
    rgb = cv2.resize(getattr(skimage.data, WORDS[word])(), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    sample = make_sample(folder, row, subject=word, thing="ball")
    assert sample.video is not None and sample.background is not None
    x1, y1, x2, y2 = (int(side) for side in mask_extent(mask))
    jpeg = encode_jpeg(rgb, 95)
    sample.video = replace(sample.video, width=WIDTH, height=HEIGHT)
    sample.frames = [replace(frame, jpeg=jpeg) for frame in sample.frames]
    instance = Instance(
        word=word,
        category="subject",
        frame=1,
        box_xyxy_px=(float(x1), float(y1), float(x2), float(y2)),
        detector_score=0.8,
        mask_rle=encode_mask(mask),
        mask_score=score,
        area_share=float(mask.mean()),
        crop_xyxy_px=(x1, y1, x2, y2),
        png=crop_png(sample.frames[1].rgb, mask, (x1, y1, x2, y2)),
    )
    sample.instances = [instance]
    sample.background = replace(sample.background, png=encode_png(sample.frames[1].rgb), masked_share=0.2)
    return sample


def write_output(folder: Path, *samples: Sample) -> str:
    write_info(out := str(folder / "out"), make_dataset(len(samples), 1, len(samples)))
    write_chunk(out, 0, list(samples), provenance=PROVENANCE)
    return out


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four samples, an ellipse of each photograph cut out, none at the frame's edge."""
    folder = tmp_path_factory.mktemp("masks")
    masks = [ellipse(150 + 20 * row, 120, 90 + 10 * row, 150 - 10 * row) for row in range(len(WORDS))]
    return write_output(folder, *(photographed(folder, row, word, masks[row]) for row, word in enumerate(WORDS)))


@pytest.fixture(scope="module")
def material(out: str) -> Material:
    return material_of(out)


def table(*arguments: object) -> dict[str, dict[str, float]]:
    result = CliRunner().invoke(main, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return {line["what"]: line for line in json.loads(result.stdout)}


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_a_scene_is_the_background_outside_its_masks_and_the_same_each_time(material: Material, number: int) -> None:
    scene, again = make_scene(material, 3, number), make_scene(material, 3, number)
    assert (scene.picture == again.picture).all() and [p.box_xyxy_px for p in scene.parts] == [
        p.box_xyxy_px for p in again.parts
    ]
    assert [part.role for part in scene.parts] == (["behind", "in front"] if number % 2 else ["alone"])
    own = {part.cutout.key for part in scene.parts}
    pasted = cv2.dilate(np.logical_or.reduce([part.mask for part in scene.parts]).astype(np.uint8), np.ones((11, 11))) > 0
    unlike = [
        np.abs(scene.picture[~pasted].astype(int) - background[~pasted]).max()
        for key, background in material.backgrounds.items()
        if key not in own
    ]
    assert min(unlike) == 0, "outside of what was pasted it is a background of a sample that nothing in it comes from"


@settings(max_examples=20)
@given(st.integers(0, 500).map(lambda number: 2 * number + 1))
def test_what_stands_in_front_covers_some_of_what_is_behind(material: Material, number: int) -> None:
    behind, in_front = make_scene(material, 0, number).parts
    assert not (behind.mask & in_front.mask).any()
    whole = (behind.cutout.rgba[..., 3] > 0).sum()
    assert MIN_OVERLAP - 0.03 < 1 - behind.mask.sum() / whole < MAX_OVERLAP + 0.03


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_boxes_are_as_loose_as_a_detectors(material: Material, number: int) -> None:
    for part in make_scene(material, 0, number).parts:
        x1, y1, x2, y2 = mask_extent(part.mask)
        left, top, right, bottom = part.box_xyxy_px
        for inner, outer in ((x2 - x1, right - left), (y2 - y1, bottom - top)):
            assert (1 + GROWN[0]) * inner - 0.1 <= outer <= (1 + GROWN[1]) * inner + 0.1


def test_a_mask_that_is_the_box_has_the_iou_of_an_ellipse_in_it(out: str, tmp_path: Path) -> None:
    boxes = table(
        out, "--scenes", 20, "--set", "segment.backend=test_eval_masks:BoxesAsMasks", "--sheet", tmp_path / "worst.png"
    )
    assert boxes["alone"]["masks"] == 10 and boxes["behind"]["masks"] == boxes["in front"]["masks"] == 10
    assert np.pi / 4 / (1 + GROWN[1]) ** 2 < boxes["alone"]["mean_iou"] < np.pi / 4 + 0.05
    assert boxes["alone"]["leak"] == 0 and boxes["all"]["dropped"] == 0
    assert boxes["person"]["masks"] + boxes["animal"]["masks"] + boxes["thing"]["masks"] == 30
    assert cv2.imread(str(tmp_path / "worst.png")) is not None


def test_a_box_that_holds_another_leaks_where_masks_may_overlap(out: str) -> None:
    arguments = (out, "--scenes", 20, "--set", "segment.backend=test_eval_masks:BoxesAsMasks", "--no-links")
    assert table(*arguments)["behind"]["leak"] > 0.03


def test_masks_that_are_dropped_count_as_failed(out: str) -> None:
    [blind, *_] = table(out, "--scenes", 2, "--set", "segment.backend=test_eval_masks:Blind").values()
    assert (blind["mean_iou"], blind["failed"], blind["dropped"], blind["rank"]) == (0, 1, 1, None)


def test_cut_outs_that_are_no_whole_things_are_left_out(tmp_path: Path) -> None:
    two_parts = ellipse(100, 120, 60, 100) | ellipse(220, 120, 60, 100)
    samples = [
        photographed(tmp_path, 0, "woman", ellipse(160, 120, 100, 150)),
        photographed(tmp_path, 1, "cat", two_parts),
        photographed(tmp_path, 2, "cup", ellipse(20, 120, 100, 150)),
        photographed(tmp_path, 3, "rocket", ellipse(160, 120, 100, 150), score=0.4),
    ]
    with pytest.raises(UserError, match="no two samples"):
        material_of(write_output(tmp_path, *samples))


def test_kinds_are_the_detectors_classes() -> None:
    assert [kind_of(word, "subject") for word in ("old man", "brown dog", "motorcycle", "gizmo")] == [
        "person",
        "animal",
        "thing",
        "thing",
    ]
