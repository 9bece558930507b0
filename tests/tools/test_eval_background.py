"""Walkers over places that show nobody, and how near backgrounds come to what they hid."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from click.testing import CliRunner
from clips import make_clip
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from PIL import Image
from samples import HEIGHT, PROVENANCE, WIDTH, make_dataset, make_rejection, make_sample
from vision import needs_weights

from materia.base.errors import UserError
from materia.dataset.layout import write_info
from materia.dataset.writer import write_chunk
from stages.images import encode_png
from stages.records import Clip, Sample
from tools.eval_background import __main__ as command
from tools.eval_background import film, measure, places, score
from tools.eval_background.places import Cutout, Place

STILL = np.ascontiguousarray(skimage.data.coffee()[:, :, ::-1])
FIGURE = np.full((90, 40, 4), (200, 30, 30, 255), np.uint8)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(command.main, [str(part) for part in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def error_of(*arguments: object) -> str:
    result = CliRunner().invoke(command.main, [str(part) for part in arguments], catch_exceptions=False)
    assert result.exit_code == 2
    return result.output


def place(key: str, duration_s: float = 5.0) -> Place:
    clip = Clip(row=0, key=key, source_id=key, uri=f"{key}.mp4", address=f"/nowhere/{key}.mp4", caption="A place.")
    return Place(clip, duration_s, STILL)


def filmed(camera: film.Camera, gait: film.Gait) -> film.Film:
    return film.film(film.Scene(place("x"), camera, gait, Cutout("k", "man", FIGURE)), np.random.default_rng(3))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Films of half a second."""
    monkeypatch.setattr(film, "SECONDS", (0.4, 0.6))


# --- who walks where ---


@pytest.mark.parametrize(
    ("caption", "somebody"),
    [
        ("A red apple lies on a table.", False),
        ("Cars drive along a wide highway with green trees.", False),
        ("A watchtower, seen from above.", False),
        ("Water runs over a stone.", False),
        ("Two MEN stand there.", True),
        ("People cross a street.", True),
        ("A wide street, a crowd behind.", True),
        ("Geese on a lake.", True),
        ("A puppy.", True),
        ("", False),
    ],
)
def test_a_caption_names_somebody_in_the_singular_or_the_plural(caption: str, somebody: bool) -> None:
    assert places.names_somebody(caption) == somebody


@given(st.integers(1, 5), st.integers(2, 5), st.integers(1, 30), st.integers(0, 99), st.booleans())
@settings(max_examples=50)
def test_nobody_walks_at_their_own_place_and_all_serve_alike(
    n_places: int, n_people: int, n: int, seed: int, short_clips: bool
) -> None:
    where = [place(f"k{number}", 1.0 if short_clips else 5.0) for number in range(n_places)]
    people = [Cutout(f"k{number}", "man", FIGURE) for number in range(n_people)]
    scenes = film.choose_scenes(where, people, n, seed)
    assert len(scenes) == n and all(scene.place.clip.key != scene.cutout.key for scene in scenes)
    assert not short_clips or all(scene.camera != "real" for scene in scenes)
    if n >= 12 and not short_clips:
        assert {(scene.camera, scene.gait) for scene in scenes} == {
            (c, g) for c in film.get_args(film.Camera) for g in film.get_args(film.Gait)
        }
    assert [scene.cutout.key for scene in scenes] == [scene.cutout.key for scene in film.choose_scenes(where, people, n, seed)]


def test_without_anybody_else_it_is_told() -> None:
    with pytest.raises(UserError, match="only who is at the place"):
        film.choose_scenes([place("k")], [Cutout("k", "man", FIGURE)], 3, 0)


# --- films ---


@pytest.mark.parametrize("camera", ["static", "pan", "shake"])
@pytest.mark.parametrize("gait", ["walking", "standing"])
def test_only_the_walker_differs_from_the_plain_picture(short: None, camera: film.Camera, gait: film.Gait) -> None:
    made = filmed(camera, gait)
    width, height = film.SIZE
    assert made.plain.shape[1:] == (height, width, 3) and 10 <= len(made.plain) <= 15
    for index, pixels in enumerate(made.pictures()):
        alone = made.walker[index, ..., 3] == 0
        assert (pixels[alone] == made.plain[index][alone]).all() and (pixels[~alone] != made.plain[index][~alone]).any()
        assert made.mask(index)[-1].any(), "it stands on the lower edge"
    middles = [np.nonzero(made.mask(index))[1].mean() for index in range(len(made.plain))]
    if gait == "walking":
        assert abs(middles[-1] - middles[0]) > 0.5 * width and (np.diff(middles) > 0).all() | (np.diff(middles) < 0).all()
    elif camera == "static":
        assert len(set(middles)) == 1


def test_what_other_frames_show_of_the_hidden_part_is_known(short: None) -> None:
    index = 6
    shares = {
        (camera, gait): filmed(camera, gait).visible_share(index)
        for camera in (
            "static",
            "pan",
            "shake",
        )
        for gait in ("walking", "standing")
    }  # type: ignore[arg-type]
    assert shares["static", "standing"] == 0 and shares["static", "walking"] == 1
    assert shares["pan", "walking"] == pytest.approx(1, abs=0.02)
    assert shares["pan", "standing"] < 0.1 and shares["shake", "standing"] < 0.2
    assert film.Film(*filmed("static", "walking")[:2], None).visible_share(index) is None


@given(st.sampled_from(["static", "pan", "shake"]), st.integers(0, 999), st.floats(0, 1))
@settings(max_examples=100)
def test_our_own_cameras_never_look_beyond_the_still(camera: film.Camera, seed: int, share: float) -> None:
    matrix = film.camera_path(camera, 5.0, np.random.default_rng(seed))(share)
    width, height = film.SIZE
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]])
    back = cv2.invertAffineTransform(matrix)
    seen = corners @ back[:, :2].T + back[:, 2]
    assert (seen >= 0).all() and (seen <= np.array([width, height]) * film.ROOM - 1).all()


@given(st.integers(20, 400), st.integers(20, 400))
@settings(max_examples=40)
def test_any_picture_fits_without_being_stretched(width: int, height: int) -> None:
    y, x = np.mgrid[:height, :width]
    disc = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (min(width, height) / 6) ** 2
    made = film.fitted(np.repeat(disc[..., None] * np.uint8(255), 3, axis=2))
    assert made.shape == (film.SIZE[1], film.SIZE[0], 3)
    shown = made[..., 0] > 127
    if min(width, height) > 100:
        assert np.ptp(np.nonzero(shown)[1]) == pytest.approx(np.ptp(np.nonzero(shown)[0]), rel=0.1)


# --- make ---


@pytest.fixture(scope="module")
def cutouts(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("cutouts")
    out = str(folder / "out")
    write_info(out, make_dataset(2, 1, 2))
    write_chunk(out, 0, [make_sample(folder, 0, "a", "man"), make_sample(folder, 1, "b", "dog")], provenance=PROVENANCE)
    return out


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MIN_CUTOUT_PX", 30)


def manifest_of(folder: Path) -> Path:
    """A clip of a cup of coffee, one whose caption names somebody, one that shows somebody, one that is no video."""
    for name, photo in (("coffee", STILL), ("astronaut", skimage.data.astronaut())):
        pixels = cv2.resize(photo, (320, 240), interpolation=cv2.INTER_AREA)
        make_clip(folder / f"{name}.mp4", 30, fps=24, size=(320, 240), pictures=[pixels] * 30)
    (folder / "broken.mp4").write_text("no video")
    rows = [
        ("coffee", "coffee", "A cup."),
        ("waiter", "coffee", "A waiter left."),
        ("space", "astronaut", "A suit."),
        ("broken", "broken", "A cup."),
    ]
    path = folder / "clips.jsonl"
    lines = [{"id": key, "video": f"{video}.mp4", "caption": caption} for key, video, caption in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@needs_weights
def test_the_same_seed_gives_the_same_clips_with_their_truth(tmp_path: Path, cutouts: str, small: None, short: None) -> None:
    manifest = manifest_of(tmp_path)
    for name in ("first", "second"):
        told = run("make", manifest, tmp_path / name, "--walkers", 3, "--seed", 5, "--cutouts", cutouts)
    assert "3 walkers in" in told and "left out: 1 clip: its caption names somebody" in told
    assert "left out: 1 clip: the detector finds somebody" in told and "left out: 1 clip: unreadable" in told
    first, second = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("first", "second"))
    assert first == second and len(first) == 3 * 3 + 1
    rows = score.read_walkers(tmp_path / "first")
    for row in rows.values():
        assert row.word in ("man", "dog") and f" {row.word} " in row.caption and row.place == "coffee"
        plain, mask = score.read_truth(tmp_path / "first", row)
        assert plain.shape == (*mask.shape, 3) and 0.02 < mask.mean() < 0.4
        frame = decoded(tmp_path / "first" / row.video, row.index)
        near = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))) > 0
        assert measure.psnr(frame, plain, ~near) > 30 > measure.psnr(frame, plain, mask)


def decoded(path: Path, index: int) -> np.ndarray:
    from stages.video import frames_at

    return frames_at(path, [(index + 0.5) / film.FPS]).frames[0]


@needs_weights
def test_what_is_asked_for_wrongly_is_told_with_the_fix(tmp_path: Path, cutouts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = manifest_of(tmp_path)
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    assert "not an empty folder" in error_of("make", manifest, full, "--cutouts", cutouts)
    assert "150 px or more" in error_of("make", manifest, tmp_path / "new", "--cutouts", cutouts)
    monkeypatch.setattr(places, "MIN_CUTOUT_PX", 30)
    rows = manifest.read_text().splitlines()[1:]
    manifest.write_text("\n".join(rows))
    assert "shows a place and nobody" in error_of("make", manifest, tmp_path / "new", "--cutouts", cutouts)
    assert "no such file" in error_of("score", cutouts, full)
    (full / "manifest.jsonl").write_text('{"id": "a"}\n')
    assert "line 1: not a walker" in error_of("score", cutouts, full)
    assert not (tmp_path / "new").exists()


# --- measures ---


@given(st.integers(1, 60), st.integers(0, 99))
def test_psnr_is_that_of_the_mask_alone(error: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(60, 190, (20, 30, 3), np.uint8)
    mask = rng.random((20, 30)) < 0.5
    wrong = truth.copy()
    wrong[mask] += np.uint8(error)
    wrong[~mask] = 0
    assert measure.psnr(wrong, truth, mask) == pytest.approx(20 * np.log10(255 / error))
    assert measure.psnr(truth, truth, mask) == measure.MAX_PSNR_DB


def hole() -> np.ndarray:
    mask = np.zeros(STILL.shape[:2], bool)
    mask[100:300, 200:320] = True
    return mask


def test_a_blur_is_less_like_the_truth_and_less_sharp_than_its_surroundings() -> None:
    blurred = cv2.GaussianBlur(STILL, (0, 0), 6)
    picture = np.where(hole()[..., None], blurred, STILL)
    assert measure.ssim(STILL, STILL, hole()) == pytest.approx(1)
    assert measure.ssim(picture, STILL, hole()) < 0.9
    assert measure.ssim(picture, STILL, ~measure._grown(hole(), 6)) == pytest.approx(1)
    noise = np.random.default_rng(0).integers(0, 255, STILL.shape, np.uint8)
    assert measure.relative_sharpness(noise, hole(), hole()) == pytest.approx(1, abs=0.1)
    smooth = np.where(hole()[..., None], cv2.GaussianBlur(noise, (0, 0), 3), noise)
    assert measure.relative_sharpness(smooth, hole(), hole()) < 0.1
    assert measure.relative_sharpness(noise, hole(), np.ones_like(hole())) is None, "no surroundings"


# --- score ---


def output_of(folder: Path, *backgrounds: str) -> tuple[str, Path]:
    """An output, one walker each: "true", "left" (the walker still there), "grey", or "rejected"; and the walkers' folder."""
    out = str(folder / "out")
    write_info(out, make_dataset(len(backgrounds), 1, len(backgrounds)))
    rows, lines = [], []
    for number, background in enumerate(backgrounds):
        key = f"walker-{number}"
        sample = make_sample(folder, number, key)
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[20:60, 30:60] = True
        frame = sample.frames[1].rgb
        plain = np.where(mask[..., None], 255 - frame, frame)
        pictures = {"true": plain, "left": frame, "grey": np.where(mask[..., None], np.uint8(127), frame)}
        if background == "rejected":
            rows.append(make_rejection(number, "localise", "no_instance", key))
        else:
            rows.append(with_background(sample, pictures[background]))
        Image.fromarray(plain).save(folder / f"{key}-plain.png")
        Image.fromarray(mask).save(folder / f"{key}-mask.png")
        lines.append(
            {
                "id": key,
                "video": "v",
                "caption": "c",
                "camera": "pan",
                "gait": "walking",
                "word": "dog",
                "place": "p",
                "cutout": "c",
            }
            | {"index": sample.frames[1].index, "plain": f"{key}-plain.png", "mask": f"{key}-mask.png", "visible_share": 0.5}
        )
    write_chunk(out, 0, rows, provenance=PROVENANCE)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out, folder


def with_background(sample: Sample, pixels: np.ndarray) -> Sample:
    assert sample.background is not None
    sample.background = replace(sample.background, png=encode_png(pixels))
    return sample


def test_backgrounds_are_compared_with_the_truth_and_rejected_ones_count_nothing(tmp_path: Path) -> None:
    report = score.score(*output_of(tmp_path, "true", "left", "grey", "rejected"))
    true, left, grey, rejected = report.scores
    assert (report.walkers, report.samples) == (4, 3)
    assert (true.psnr, true.uncovered) == (measure.MAX_PSNR_DB, 0) and true.ssim == pytest.approx(1)
    assert left.uncovered == 1 and left.psnr < grey.psnr < 30 and left.residual == 0.125
    assert grey.sharpness is not None and grey.sharpness < 0.01 and true.sharpness == true.true_sharpness
    assert (rejected.rejected, rejected.psnr, rejected.ssim, rejected.uncovered) == ("localise: no_instance", 0, 0, None)
    assert grey.facts["masked_share"] == grey.masked_share


def test_a_person_and_a_script_can_read_the_score_and_see_the_pictures(tmp_path: Path) -> None:
    out, folder = output_of(tmp_path, "true", "grey", "rejected")
    told = run("score", out, folder, "--sheet", tmp_path / "sheet.png")
    assert "rejected: walker-2: localise: no_instance" in told and "walking, pan" in told
    assert Image.open(tmp_path / "sheet.png").size[0] == 2 * 3 * 426
    assert json.loads(run("score", out, folder, "--json"))["scores"][2]["psnr"] == 0


def test_an_output_of_other_clips_or_other_frames_is_refused(tmp_path: Path) -> None:
    out, folder = output_of(tmp_path, "true")
    manifest = (folder / "manifest.jsonl").read_text()
    row = json.loads(manifest)
    (folder / "manifest.jsonl").write_text(json.dumps(row | {"index": 3}))
    assert "of frame 3, the sample has" in error_of("score", out, folder)
    (folder / "manifest.jsonl").write_text(json.dumps(row | {"id": "other"}))
    assert "walker-0, which is no walker" in error_of("score", out, folder)
    (folder / "manifest.jsonl").write_text(manifest)
    (folder / "walker-0-mask.png").write_text("no picture")
    assert "the truth of walker-0 cannot be read" in error_of("score", out, folder)


def test_numbers_of_the_background_are_ranked_whatever_their_names_are() -> None:
    scores = [
        score.WalkerScore(
            id=str(n), camera="pan", gait="walking", rejected=None, psnr=20.0 + n, ssim=0.9 - 0.1 * n,
            facts={"good": n**2, "same": 1.0} | ({"rare": n} if n < 2 else {}),
        )
        for n in range(6)
    ]  # fmt: skip
    assert score.ranks(scores) == {"good": score.Ranks(6, pytest.approx(1), pytest.approx(-1))}
