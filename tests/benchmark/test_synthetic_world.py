"""The synthetic world: shards like any others, whose subjects, masks and positions are known."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skimage")

from hypothesis import given, settings
from hypothesis import strategies as st

from materia.dataset.reader import Dataset
from materia.dataset.validate import validate
from stages.records import Clip, Instance, MaskRle, Sample
from tools import synthetic_world as world
from trainer.data.items import crops_of

WORDS = st.sampled_from(sorted(world.ICONS))
SEEDS = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("world") / "out")
    world.make(out, clips=6, seed=3)
    return out


def test_the_world_is_an_output_without_a_fault(output: str) -> None:
    report = validate(output)
    assert (report.samples, report.rejections, report.findings) == (6, 0, [])


def test_the_same_seed_gives_the_same_bytes(output: str, tmp_path: Path) -> None:
    world.make(str(tmp_path), clips=6, seed=3)
    assert _bytes(tmp_path) == _bytes(Path(output))


def test_an_unfinished_world_is_finished_by_the_same_call(output: str, tmp_path: Path) -> None:
    world.make(str(tmp_path), clips=6, seed=3)
    for file in tmp_path.rglob("000000.*"):
        file.unlink()
    world.make(str(tmp_path), clips=6, seed=3)
    assert _bytes(tmp_path) == _bytes(Path(output))


def test_swapped_references_are_all_that_is_wrong_with_a_mixed_world(output: str, tmp_path: Path) -> None:
    world.make(str(tmp_path), clips=6, seed=3, mixed=1)
    plain, mixed = Dataset(output), Dataset(str(tmp_path))
    swapped = []
    for number in range(len(plain)):
        key, instances = plain.document(number).key, plain.document(number).instances
        assert mixed.document(number).instances == instances
        before, after = (samples.read(number, samples.members(number)) for samples in (plain, mixed))
        references = {instance.member for instance in instances}
        changed = {name for name in before if before[name] != after[name] and name != "json"}
        assert changed <= references
        swapped += [(key, name) for name in changed]
    assert len(swapped) == len(validate(str(tmp_path)).findings) > 0


@given(st.lists(st.lists(st.sampled_from(["cat", "dog"]), min_size=1, unique=True), max_size=30), st.floats(0, 1), SEEDS)
def test_a_share_of_each_words_references_shows_another_of_its_individuals(
    clips: list[list[str]], share: float, seed: int
) -> None:
    samples = [_sample(row, words) for row, words in enumerate(clips)]
    count = world.swap_references(samples, share, np.random.default_rng(seed))
    asked = [round(share * sum(word in words for words in clips)) for word in ("cat", "dog")]
    assert count == sum(3 * number for number in asked if number > 1)
    shown = [(sample.clip.row, instance, *instance.png.decode().split()) for sample in samples for instance in sample.instances]
    assert all((word, int(frame)) == (instance.word, instance.frame) for _, instance, _, word, frame in shown)
    assert sum(row != int(individual) for row, _, individual, _, _ in shown) == count
    assert len({instance.png for _, instance, *_ in shown}) == len(shown)


def test_every_word_has_a_crop_in_each_frame(output: str) -> None:
    samples = Dataset(output)
    for number in range(len(samples)):
        document = samples.document(number)
        words = {entity.word for entity in document.entities if entity.category != "background"}
        assert {word: len(members) for word, members in crops_of(document).items()} == dict.fromkeys(words, 3)


@given(SEEDS, st.booleans())
@settings(max_examples=20)
def test_sprites_lie_as_the_caption_says(seed: int, held_out: bool) -> None:
    scene = world.draw_scene(np.random.default_rng(seed), held_out)
    _, masks = world.render(scene, 0)
    words = [sprite.word for sprite in scene.sprites]
    named = sorted(words, key=lambda word: scene.caption.index(f" {word}" if not scene.caption.startswith("a") else word))
    assert named == (words if "above" in scene.caption else words[::-1])
    heights = [np.nonzero(mask)[0].mean() for mask in masks]
    assert heights == sorted(heights)
    assert len({word in world.AIR for word in words}) == min(len(words), 2)


@given(SEEDS)
@settings(max_examples=20)
def test_masks_do_not_overlap(seed: int) -> None:
    scene = world.draw_scene(np.random.default_rng(seed), held_out=False)
    for number in (0, world.N_FRAMES - 1):
        _, masks = world.render(scene, number)
        assert np.sum(masks, axis=0).max() == 1
        assert all(mask.mean() > 0.01 for mask in masks)


@given(WORDS)
@settings(max_examples=len(world.ICONS))
def test_a_silhouette_fills_its_square_enough_to_show_a_colour(word: str) -> None:
    assert (world.silhouette(word) > 127).mean() > 0.2


def test_held_out_identities_come_from_other_pixels() -> None:
    rows = np.repeat(np.arange(200, dtype=np.uint8)[:, None, None], 200, axis=1).repeat(3, axis=2)
    rng, border = np.random.default_rng(0), 200 * (1 - world.HELD_OUT_SHARE)
    for _ in range(50):
        assert world._piece(rng, rows, (0.1, 0.3), held_out=False).max() <= border
        assert world._piece(rng, rows, (0.1, 0.3), held_out=True).min() >= border - 1


def _sample(row: int, words: list[str]) -> Sample:
    """Each picture says whose it is: "ROW WORD FRAME"."""
    clip = Clip(row=row, key=str(row), id=None, source_id="", uri="", address="", caption=" ".join(words))
    facts = {"category": "subject", "box_xyxy_px": (0, 0, 1, 1), "crop_xyxy_px": (0, 0, 1, 1), "area_share": 1.0}
    facts |= {"mask_rle": MaskRle(size=(1, 1), counts="01"), "mask_score": 1.0, "detector_score": 1.0}
    places = [(word, frame) for frame in range(3) for word in words]
    instances = [Instance(word=word, frame=frame, png=f"{row} {word} {frame}".encode(), **facts) for word, frame in places]
    return Sample(clip=clip, instances=instances)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
